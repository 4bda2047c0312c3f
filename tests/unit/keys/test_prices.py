"""The table of prices: which holds when, and what the platform brings along."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keys.prices import EVER, MOST_PRICE, Price, Prices, until_the_next
from kit.clock import FakeClock
from kit.errors import Invalid
from tests.fakes.memory_money import MemoryPriceStore

NOW = datetime(2026, 1, 1, tzinfo=UTC)
METERS = ("run", "cpu", "tokens:openai/gpt-4o:in")


def days(count: float) -> datetime:
    return NOW + timedelta(days=count)


class Table:
    """Prices on a clock that stands still."""

    def __init__(self) -> None:
        self.clock = FakeClock(NOW)
        self.store = MemoryPriceStore()
        self.prices = Prices(self.store, self.clock)

    async def bring(self, fingerprint: str, *ours: Price) -> None:
        await self.prices.bring_along(fingerprint, lambda: ours)

    async def told(self) -> list[tuple[str, int, datetime, datetime | None]]:
        return [(it.meter, it.amount, it.valid_from, it.valid_until) for it in await self.prices.current()]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.sampled_from(METERS), st.integers(0, 9), st.none() | st.integers(-2, 5)),
        st.tuples(st.just("bring"), st.sampled_from(METERS), st.integers(0, 9), st.none() | st.integers(-2, 5)),
        st.tuples(st.just("wait"), st.just(""), st.integers(0, 3), st.none()),
    ),
    max_size=25,
)


@given(steps=STEPS)
async def test_at_any_time_one_price_holds_and_what_has_been_stays(
    steps: list[tuple[str, str, int, int | None]],
) -> None:
    table, history = Table(), dict[tuple[str, datetime], int]()
    for number, (act, meter, amount, day) in enumerate(steps):
        when = None if day is None else table.clock.now() + timedelta(days=day)
        if act == "wait":
            await table.clock.advance(amount * 86400 + 1)
        elif act == "bring":
            await table.bring(str(number), Price(meter, amount, EVER), Price(meter, amount + 1, when or days(99)))
        elif when is not None and when < table.clock.now():
            with pytest.raises(Invalid):
                await table.prices.set(meter, amount, when)
        else:
            made = await table.prices.set(meter, amount, when)
            assert (made.amount, made.valid_from) == (amount, when or table.clock.now())
        rows = until_the_next(await table.store.prices())
        for meter_ in METERS:
            mine = [it for it in rows if it.meter == meter_]
            for before, after in pairwise(mine):
                assert before.valid_until == after.valid_from > before.valid_from
            assert not mine or mine[-1].valid_until is None
        for (meter_, moment), was in history.items():
            assert [it.amount for it in rows if it.meter == meter_ and _holds(it, moment)] == [was]
        past = table.clock.now() - timedelta(microseconds=1)
        history |= {(it.meter, past): it.amount for it in rows if _holds(it, past)}


def _holds(price: Price, moment: datetime) -> bool:
    return price.valid_from <= moment and (price.valid_until is None or moment < price.valid_until)


async def test_a_price_ends_the_one_before_it() -> None:
    table = Table()
    await table.prices.set("run", 5, None)
    assert await table.prices.set("run", 7, days(2)) == Price("run", 7, days(2), by_operator=True)
    between = await table.prices.set("run", 6, days(1))
    assert between == Price("run", 6, days(1), days(2), by_operator=True)
    assert await table.told() == [("run", 5, NOW, days(1)), ("run", 6, days(1), days(2)), ("run", 7, days(2), None)]
    await table.prices.set("run", 8, days(2))
    await table.clock.advance(86400)
    assert await table.told() == [("run", 6, days(1), days(2)), ("run", 8, days(2), None)]


@pytest.mark.parametrize(("since", "amounts"), [(0, [5, 6]), (0.9, [5, 6]), (1, [6]), (2, [6]), (3, [6])])
async def test_prices_of_the_past_are_told_to_those_who_ask(since: float, amounts: list[int]) -> None:
    table = Table()
    await table.prices.set("run", 5, None)
    await table.clock.advance(86400)
    await table.prices.set("run", 6, None)
    await table.clock.advance(86400)
    assert [price.amount for price in await table.prices.current(days(since))] == amounts
    assert [price.amount for price in await table.prices.current()] == [6]


async def test_what_the_platform_brings_along_comes_once() -> None:
    table = Table()
    await table.bring("1", Price("run", 5, EVER), Price("cpu", 1, EVER), Price("cpu", 2, days(3)))
    before = await table.store.prices()
    await table.bring("1", Price("run", 99, EVER))
    assert await table.store.prices() == before
    await table.bring("2", Price("run", 5, EVER), Price("cpu", 1, EVER), Price("cpu", 2, days(3)))
    assert await table.store.prices() == before


async def test_what_has_changed_in_it_holds_from_now_on() -> None:
    table = Table()
    await table.bring("1", Price("run", 5, EVER), Price("cpu", 1, EVER), Price("cpu", 2, days(3)))
    await table.clock.advance(86400)
    await table.bring("2", Price("run", 6, EVER), Price("cpu", 1, EVER), Price("cpu", 4, days(5)))
    assert await table.told() == [("cpu", 1, EVER, days(5)), ("cpu", 4, days(5), None), ("run", 6, days(1), None)]
    assert Price("run", 5, EVER) in await table.store.prices()


async def test_an_operators_price_is_never_overwritten() -> None:
    table = Table()
    await table.bring("1", Price("run", 5, EVER), Price("run", 6, days(3)))
    await table.prices.set("run", 1, days(1))
    expected = [("run", 5, EVER, days(1)), ("run", 1, days(1), None)]
    assert await table.told() == expected  # neither by what was planned
    await table.bring("2", Price("run", 9, EVER), Price("run", 10, days(4)))
    assert await table.told() == expected


@pytest.mark.parametrize(
    "meter",
    ["", "Run", "run ", "call:", "call:a b", "tokens:openai/gpt-4o", "tokens:openai/gpt-4o:total", "tokens:/x:in",
     "tokens:openai/:in", "cpu\x00", "tokens:openai/" + "x" * 200 + ":in", "gpu"],
)  # fmt: skip
async def test_a_meter_that_nothing_is_measured_by_has_no_price(meter: str) -> None:
    with pytest.raises(Invalid):
        await Table().prices.set(meter, 1, None)


async def test_prices_and_times_out_of_range_are_refused() -> None:
    table = Table()
    for amount, when in ((-1, None), (MOST_PRICE + 1, None), (1, NOW - timedelta(microseconds=1))):
        with pytest.raises(Invalid):
            await table.prices.set("call:firecrawl", amount, when)
    assert await table.store.prices() == []
    assert replace(await table.prices.set("call:firecrawl", 0, NOW), amount=0).valid_until is None
