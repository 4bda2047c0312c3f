"""What the platform takes from genai-prices. Its figures change; these are of models that are long settled."""

import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal
from types import SimpleNamespace

import pytest

from keys import price_list as module
from keys.price_list import fingerprint, price_list
from keys.prices import EVER, Price, check_meter


@pytest.fixture(scope="module")
def amounts() -> dict[str, dict[datetime, int]]:
    found: dict[str, dict[datetime, int]] = {}
    for price in price_list(100):
        found.setdefault(price.meter, {})[price.valid_from] = price.amount
    return found


def test_a_host_has_its_prices(amounts: dict[str, dict[datetime, int]]) -> None:
    host = {meter: amounts[meter] for meter in ("run", "cpu", "memory", "egress", "storage")}
    assert host == {
        "run": {EVER: 100_000_000},
        "cpu": {EVER: 20_000},
        "memory": {EVER: 2_500},
        "egress": {EVER: 50},
        "storage": {EVER: 700_000},
    }


@pytest.mark.parametrize(
    ("model", "paid", "given", "cached"),
    [
        ("openai/gpt-4o-mini", 150_000, 600_000, 75_000),
        ("openai/gpt-4o", 2_500_000, 10_000_000, 1_250_000),
        ("openai/gpt-4o-2024-05-13", 5_000_000, 15_000_000, 5_000_000),  # which caches nothing
        ("openai/text-embedding-3-small", 20_000, 0, 20_000),
        ("anthropic/claude-3-haiku", 250_000, 1_250_000, 30_000),
        ("anthropic/claude-sonnet-4", 3_000_000, 15_000_000, 300_000),  # another name of claude-sonnet-4-0
        ("gemini/gemini-2.5-pro", 1_250_000, 10_000_000, 125_000),  # up to 200,000 tokens
    ],
)
def test_a_model_has_three_meters(
    amounts: dict[str, dict[datetime, int]], model: str, paid: int, given: int, cached: int
) -> None:
    assert amounts[f"tokens:{model}:in"] == {EVER: paid}
    assert amounts[f"tokens:{model}:out"] == {EVER: given}
    assert amounts[f"tokens:{model}:cached"] == {EVER: cached}


def test_prices_with_a_date_keep_it(amounts: dict[str, dict[datetime, int]]) -> None:
    assert amounts["tokens:openai/o3:in"] == {EVER: 10_000_000, datetime(2025, 6, 10, tzinfo=UTC): 2_000_000}


def test_all_of_it_can_be_stored(amounts: dict[str, dict[datetime, int]]) -> None:
    for meter in amounts:
        check_meter(meter)
    prices = price_list(0)
    assert len({(price.meter, price.valid_from) for price in prices}) == len(prices) > 300
    vendors = {price.meter.split("/")[0] for price in prices if price.meter.startswith("tokens:")}
    assert vendors == {"tokens:openai", "tokens:anthropic", "tokens:gemini"}


def test_what_is_only_valid_at_some_hours_is_left_out() -> None:
    price = SimpleNamespace(input_mtok=Decimal(1), output_mtok=None, cache_read_mtok=None)
    cheap = SimpleNamespace(input_mtok=Decimal("0.5"), output_mtok=None, cache_read_mtok=None)
    at_night = SimpleNamespace(constraint=SimpleNamespace(start_time=1, end_time=2), prices=cheap)
    model = SimpleNamespace(prices=[SimpleNamespace(constraint=None, prices=price), at_night])
    assert next(module._of_model("tokens:x/y", model)) == Price("tokens:x/y:in", 1_000_000, EVER)


def test_nothing_is_imported_unless_something_changed() -> None:
    """The package costs a second and some memory."""
    code = "import sys, keys.main, keys.price_list as it; it.fingerprint(100); print('genai_prices' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


def test_the_fingerprint_is_of_the_fee_too() -> None:
    assert len(fingerprint(1)) == 64
    assert fingerprint(1) == fingerprint(1) != fingerprint(2)
