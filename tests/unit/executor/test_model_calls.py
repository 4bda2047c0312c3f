"""What a service of models may spend before it asks its provider, and what is booked afterwards."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from executor.model_calls import DEFAULT_OUT, MAX_OPEN, ModelCalls
from executor.sandbox import Crashed
from tests.fakes.tab import FakeTab

AFFORD: dict[str, Any] = {"op": "afford", "model": "m", "tokens_in": 100, "tokens_out": 50}
USED: dict[str, Any] = {"op": "used", "call": 1, "in": 80, "out": 20, "cached": 0}


def calls(tab: FakeTab) -> ModelCalls:
    return ModelCalls(tab, "openai")


async def say(to: ModelCalls, number: int = 1, **said: Any) -> dict[str, Any]:
    answer = await to.hear(json.dumps({"id": number, **said}).encode())
    assert answer
    told: dict[str, Any] = json.loads(answer)
    assert told.pop("id") == number
    return told


async def test_a_call_takes_its_worst_case_and_pays_what_it_used() -> None:
    tab = FakeTab(credit=250, prices={"tokens:openai/m:out": 3_000_000})
    service = calls(tab)
    assert await say(service, **AFFORD) == {"granted": 50}
    assert (tab.asked, tab.promised) == ([100 + 150], 250)
    assert await say(service, 2, **USED) == {}
    assert (tab.lines, tab.promised, tab.covered) == ({"tokens:openai/m:in": 80, "tokens:openai/m:out": 20}, 0, 1)
    assert await service.close() == []


async def test_what_was_asked_for_and_cant_be_paid_doesnt_start() -> None:
    tab = FakeTab(credit=149)
    told = await say(calls(tab), **AFFORD)
    assert told["code"] == "payment_required"
    assert "150 micro-credits" in told["refused"]
    assert tab.promised == 0


async def test_where_nothing_was_asked_for_what_is_left_decides() -> None:
    for credit, granted in ((10**9, DEFAULT_OUT), (130, 30), (101, 1)):
        tab = FakeTab(credit=credit)
        assert await say(calls(tab), **{**AFFORD, "tokens_out": None}) == {"granted": granted}
        assert tab.promised == 100 + granted
    told = await say(calls(FakeTab(credit=100)), **{**AFFORD, "tokens_out": None})
    assert told["code"] == "payment_required"


async def test_prices_that_nobody_has_set() -> None:
    tab = FakeTab(prices={"tokens:openai/m:in": 5}, default=None)
    told = await say(calls(tab), **AFFORD)
    assert told["code"] == "unknown_price"
    assert "tokens:openai/m:out" in told["refused"]
    assert "POST /prices" in told["refused"]
    assert await say(calls(tab), **{**AFFORD, "tokens_out": 0}) == {"granted": 0}  # embeddings produce nothing


async def test_cached_tokens_have_a_price_of_their_own_or_the_others() -> None:
    for price, lines in ((7, {"in": 50, "out": 20, "cached": 30}), (None, {"in": 80, "out": 20})):
        prices = {f"tokens:openai/m:{which}": 1 for which in ("in", "out")}
        tab = FakeTab(prices=prices | ({"tokens:openai/m:cached": price} if price else {}), default=None)
        service = calls(tab)
        await say(service, **AFFORD)
        await say(service, 2, **{**USED, "cached": 30})
        assert tab.lines == {f"tokens:openai/m:{which}": quantity for which, quantity in lines.items()}


async def test_a_call_that_broke_off_is_charged_for_what_is_known_of_it() -> None:
    tab = FakeTab()
    service = calls(tab)
    for number in (1, 2):
        await say(service, number, **AFFORD)
    assert await service.hear(json.dumps({"op": "so_far", "call": 1, "in": 75, "out": 9}).encode()) is None
    (told,) = await service.close()
    assert "openai/m" in told
    assert "75 tokens in, 9 out" in told
    assert (tab.lines, tab.promised, tab.covered) == ({"tokens:openai/m:in": 75, "tokens:openai/m:out": 9}, 0, 1)
    assert await service.close() == []


async def test_an_error_of_the_providers_costs_nothing() -> None:
    tab = FakeTab()
    service = calls(tab)
    await say(service, **AFFORD)
    await service.hear(json.dumps({"op": "so_far", "call": 1, "in": 75, "out": 0}).encode())
    await say(service, 2, **{**USED, "in": 0, "out": 0})
    assert (await service.close(), tab.lines, tab.promised) == ([], {}, 0)


@pytest.mark.parametrize(
    "said",
    [
        b"no json",
        b"[]",
        b"{}",
        b'{"op": "steal", "id": 1}',
        b'{"op": "used", "id": 1, "call": 9, "in": 1, "out": 1, "cached": 0}',
        b'{"op": "so_far", "call": 9, "in": 1, "out": 1}',
        b'{"op": "so_far", "call": [], "in": 1, "out": 1}',
        json.dumps({**AFFORD, "id": 1, "tokens_in": -1}).encode(),
        json.dumps({**AFFORD, "id": 1, "tokens_in": 1.5}).encode(),
        json.dumps({**AFFORD, "id": 1, "tokens_out": True}).encode(),
        json.dumps({**AFFORD, "id": 1, "tokens_out": 10**12}).encode(),
        json.dumps({**AFFORD, "id": 1, "model": ""}).encode(),
        json.dumps({**AFFORD, "id": 1, "model": "x" * 201}).encode(),
        json.dumps({**AFFORD, "id": "1"}).encode(),
        b"[" * 100_000,
    ],
)
async def test_whatever_breaks_a_rule(said: bytes) -> None:
    with pytest.raises(Crashed, match="broke the protocol"):
        await calls(FakeTab()).hear(said)


async def test_calls_at_once_are_bounded() -> None:
    service = calls(FakeTab())
    for number in range(MAX_OPEN):
        await say(service, number, **AFFORD)
    with pytest.raises(Crashed):
        await say(service, MAX_OPEN, **AFFORD)
    assert len(await service.close()) == 0


async def test_nobody_elses_word_counts() -> None:
    tab = FakeTab()
    with pytest.raises(Crashed, match="library"):
        await ModelCalls(tab, "").hear(json.dumps({"id": 1, **AFFORD}).encode())
    assert tab.asked == []


@settings(deadline=None)
@given(
    credit=st.integers(0, 10_000),
    prices=st.tuples(st.integers(0, 5_000_000), st.integers(0, 5_000_000)),
    asked=st.lists(st.tuples(st.integers(0, 500), st.none() | st.integers(0, 500)), max_size=8),
)
async def test_never_more_is_promised_than_there_is(
    credit: int, prices: tuple[int, int], asked: list[tuple[int, int | None]]
) -> None:
    """And whoever stays within what it was granted pays no more than it had promised."""
    tab = FakeTab(credit, {"tokens:openai/m:in": prices[0], "tokens:openai/m:out": prices[1]}, None)
    service = calls(tab)
    for number, (tokens_in, tokens_out) in enumerate(asked):
        told = await say(service, number, **{**AFFORD, "tokens_in": tokens_in, "tokens_out": tokens_out})
        assert 0 <= tab.promised <= credit
        if "granted" in told and number % 2:
            before = tab.promised
            used = {"call": number, "in": tokens_in, "out": told["granted"], "cached": 0}
            await say(service, 100 + number, op="used", **used)
            cost = tokens_in * prices[0] + told["granted"] * prices[1]
            assert (before - tab.promised) * 1_000_000 >= cost
    await service.close()
    assert tab.promised == 0


async def test_an_edition_of_a_model_is_booked_as_the_model() -> None:
    tab = FakeTab(default=None, prices={"tokens:openai/m:in": 1_000_000, "tokens:openai/m:out": 1_000_000})
    service = calls(tab)
    assert await say(service, **{**AFFORD, "model": "M-2024-07-18"}) == {"granted": 50}
    assert await say(service, 2, **USED) == {}
    assert tab.lines == {"tokens:openai/m:in": 80, "tokens:openai/m:out": 20}
