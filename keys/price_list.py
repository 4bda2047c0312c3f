"""The prices that the platform comes with: what a host costs, and the models of three vendors as the package
`genai-prices` knows them, in dollars (a credit is one).
"""

import hashlib
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, time
from decimal import ROUND_HALF_UP, Decimal
from importlib.metadata import version
from typing import Any

from keys.prices import EVER, Price, check_meter
from kit.errors import Invalid

MILLION = 1_000_000
# About what a large cloud's serverless containers cost: 20 micro-credits for a second of a processor, 2.5 for a GB
# second, 0.05 credits for a GB to the internet, 0.02 for a GB month.
HOST = {"cpu": 20_000, "memory": 2_500, "egress": 50, "storage": 700_000}
# The package's name of a vendor, and which of the models there are its own.
VENDORS = {"openai": ("openai", ""), "anthropic": ("anthropic", ""), "google": ("gemini", "gem")}
# To be raised when what is made of the package changes.
_EDITION = 1


def fingerprint(run_fee: int) -> str:
    """Of all that the list is made of; without making it, which takes a second."""
    told = f"{_EDITION} {run_fee} {sorted(HOST.items())} {version('genai-prices')}"
    return hashlib.sha256(told.encode()).hexdigest()


def price_list(run_fee: int) -> list[Price]:
    """`run_fee`: micro-credits for a run."""
    return [*_host(run_fee), *_models()]


def _host(run_fee: int) -> Iterator[Price]:
    for meter, amount in ({"run": run_fee * MILLION} | HOST).items():
        yield Price(meter, amount, EVER)


def _models() -> Iterator[Price]:
    # It costs a second and some memory, and is needed when prices have changed only.
    from genai_prices.data import providers  # noqa: PLC0415

    for provider in providers:
        if provider.id in VENDORS:
            vendor, prefix = VENDORS[provider.id]
            models = [model for model in provider.models if model.id.startswith(prefix)]
            for name, model in _named(models).items():
                yield from _of_model(f"tokens:{vendor}/{name}", model)


def _named(models: Iterable[Any]) -> dict[str, Any]:
    """By all that a model is called: its id, what equals it, and the beginnings of what matches, as far as no other
    model is called so.
    """
    models = list(models)
    found: dict[str, Any] = {}
    for names in (lambda it: [it.id.lower()], lambda it: _spelled(it.match, "equals"), _beginnings):
        for model in models:
            for name in names(model):
                found.setdefault(name, model)
    return found


def _beginnings(model: Any) -> list[str]:
    texts = [*_spelled(model.match, "starts_with"), *_spelled(model.match, "contains")]
    return [name for text in texts if (name := text.rstrip("-@.:"))]


def _spelled(match: Any, kind: str) -> list[str]:
    """The texts of one kind of clause; those that hold only together with others tell no name."""
    if hasattr(match, "or_"):
        return [text for clause in match.or_ for text in _spelled(clause, kind)]
    text = getattr(match, kind, None)
    return [text.lower()] if text else []


def _of_model(meter: str, model: Any) -> Iterator[Price]:
    for valid_from, prices in _dated(model.prices):
        paid = _base(prices.input_mtok)
        if paid is None:  # priced by the hour, or the character
            return
        amounts = {"in": paid, "out": _base(prices.output_mtok) or 0, "cached": _base(prices.cache_read_mtok)}
        for suffix, amount in amounts.items():
            price = Price(f"{meter}:{suffix}", paid if amount is None else amount, valid_from)
            try:
                check_meter(price.meter)
            except Invalid:
                return  # nobody could ask for it
            yield price


def _dated(prices: Any) -> list[tuple[datetime, Any]]:
    """From when on which price holds. Prices of an hour of the day aren't told: the ordinary one holds."""
    if not isinstance(prices, list):
        return [(EVER, prices)]
    found = {EVER: prices[0].prices}
    for each in prices:
        if each.constraint is None:
            found[EVER] = each.prices
        elif hasattr(each.constraint, "start_date"):
            found[datetime.combine(each.constraint.start_date, time(), UTC)] = each.prices
    return sorted(found.items())


def _base(price: Any) -> int | None:
    """Micro-credits for a million tokens; of prices in tiers, which rise with the length of the prompt, the first."""
    if price is None:
        return None
    dollars: Decimal = getattr(price, "base", price)
    return int((dollars * MILLION).quantize(Decimal(1), ROUND_HALF_UP))
