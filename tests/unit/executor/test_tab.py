import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from executor.bill import Bill, Budget, Line, cost, cut
from executor.metering import FORBEARANCE, Metering
from executor.model import Limits, Outcome, Usage
from executor.prices import FETCH_SECONDS, Price, PriceList
from executor.purse import TRUSTED_SECONDS
from executor.purses import Purses
from executor.tab import AHEAD_SECONDS, STEP_SECONDS, Tab
from kit.clock import FakeClock
from kit.errors import Exhausted, Unavailable
from tests.fakes.executor import START, make_spec
from tests.fakes.ledger import LONG_AGO, FakeLedger, price

ORG = "org_caller"
LIMITS = Limits(memory_bytes=100_000_000, cpu=2.0)
# A fee of 1000; a second of a processor costs 1000, a second of 100 MB 200; a byte 0.001.
PRICES = [price("run", 1000), price("cpu", 1), price("memory", 2), price("egress", 0.001)]
A_SECOND = 2 * 1000 + 200
STEP, AHEAD = round(STEP_SECONDS * A_SECOND), round(AHEAD_SECONDS * A_SECOND)


class Rig:
    def __init__(self, credit: int = 10**9, prices: list[Price] = PRICES) -> None:
        self.ledger, self.clock = FakeLedger(listed=list(prices)), FakeClock(START)
        self.ledger.credit[ORG] = credit
        self.purses = Purses(self.ledger, self.clock, lambda: self.clock.now().timestamp())
        self.prices = PriceList(self.ledger, self.clock)
        self.metering = Metering(self.purses, self.prices, self.clock)
        self.stopped: list[Outcome] = []

    async def opened(self, limits: Limits = LIMITS, **spec: Any) -> Tab:
        tab = self.tab(**spec)
        await tab.open(limits)
        return tab

    def tab(self, **spec: Any) -> Tab:
        return self.metering.tab(make_spec(attempt=1, **spec))

    def spent(self) -> int:
        """What has left the organization and isn't free."""
        return sum(self.ledger.purses.values()) - sum(purse.free for purse in self.purses)

    async def looks(self, tab: Tab, usages: list[Usage]) -> None:
        """A run that has used these, second by second; to the end, or until it is stopped."""
        now = [Usage()]
        with self.metering.watching(tab, lambda: now[0], self.stopped.append):
            for usage in usages:
                now[0] = usage
                await self.clock.advance(1)
                self.metering.once()
                await self.clock.advance(0)
                if self.stopped:
                    return


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    rig = Rig()
    await rig.prices.fetch()
    yield rig
    for purse in rig.purses:
        await purse.close()


def busy(seconds: float, processors: float = 1.0) -> Usage:
    return Usage(processors * seconds, seconds, 50_000_000)


def test_amounts_are_rounded_half_up() -> None:
    assert [cost(quantity, 500_000) for quantity in range(5)] == [0, 1, 1, 2, 2]
    assert cost(3, 333_333) == 1
    assert cost(10**15, 10**12) == 10**21


def test_the_last_lines_are_cut() -> None:
    lines = [Line("run", 1, 5), Line("cpu", 9, 4), Line("egress", 2, 3)]
    assert [line.amount for line in cut(lines, 12)] == [5, 4, 3]
    assert [line.amount for line in cut(lines, 7)] == [5, 2, 0]
    assert [line.quantity for line in cut(lines, 0)] == [1, 9, 2]


async def test_a_run_takes_its_fee_and_a_step_and_pays_for_what_it_used(rig: Rig) -> None:
    tab = await rig.opened(service_id="svc", root_id="run_root", paying_key_id="key_1")
    assert rig.spent() == 1000 + STEP
    bill = tab.close(Usage(0.25, 2.0, 50_000_000, 10_000))
    assert isinstance(bill, Bill)
    assert bill.lines == (
        Line("run", 1, 1000),
        Line("cpu", 250, 250),
        Line("memory", 100, 200),
        Line("egress", 10_000, 10),
    )
    assert bill.amount == rig.spent() == 1460
    assert (bill.organization_id, bill.service_id, bill.key_id, bill.root_id) == (ORG, "svc", "key_1", "run_root")
    assert bill.purse_id in rig.ledger.purses
    assert tab.close(Usage()) is None


async def test_what_cant_be_paid_doesnt_begin(rig: Rig) -> None:
    rig.ledger.credit[ORG] = 1000 + STEP - 1
    with pytest.raises(Exhausted) as refused:
        await rig.opened()
    assert refused.value.code == "payment_required"
    assert rig.spent() == 0
    rig.ledger.credit[ORG] += 1
    await rig.opened()


async def test_two_hundred_calls_and_credit_for_fifty_fees() -> None:
    rig = Rig(50 * 1000, [price("run", 1000)])
    await rig.prices.fetch()
    tabs = [rig.tab() for _ in range(200)]
    found = await asyncio.gather(*(tab.open(LIMITS) for tab in tabs), return_exceptions=True)
    assert (found.count(None), sum(isinstance(one, Exhausted) for one in found)) == (50, 150)
    for tab in tabs:
        tab.abandon()
    assert rig.spent() == 0


async def test_the_systems_services_have_prices_of_their_own(rig: Rig) -> None:
    rig.ledger.listed.append(price("call:openai", 7))
    await rig.prices.fetch()
    for owner, service, line in (
        ("org_system", "openai", Line("call:openai", 1, 7)),
        ("org_system", "other", Line("run", 1, 1000)),
        ("org_x", "openai", Line("run", 1, 1000)),
    ):
        tab = await rig.opened(owner_id=owner, service_id=service)
        bill = tab.close(Usage())
        assert bill is not None
        assert bill.lines == (line,)


async def test_what_costs_nothing_needs_no_ledger(rig: Rig) -> None:
    rig.ledger.listed = [price("run", 0)]
    await rig.prices.fetch()
    rig.ledger.away = True
    tab = await rig.opened()
    assert tab.close(busy(9)) is None
    assert rig.ledger.draws == []


async def test_nothing_begins_before_prices_are_known(rig: Rig) -> None:
    rig = Rig()
    with pytest.raises(Unavailable):
        await rig.opened()
    rig.ledger.away = True
    loop = asyncio.create_task(rig.prices.run())
    await rig.clock.advance(1)
    ready: Any = rig.metering.ready
    assert not ready
    rig.ledger.away = False
    await rig.clock.advance(1)
    assert rig.metering.ready
    rig.ledger.away = True
    await rig.clock.advance(FETCH_SECONDS)
    assert rig.prices.at(START).get("run") == 1_000_000_000
    rig.ledger.away, rig.ledger.listed = False, []
    await rig.clock.advance(FETCH_SECONDS)
    assert rig.prices.at(START).get("run") is None
    loop.cancel()


async def test_the_prices_of_its_beginning_hold(rig: Rig) -> None:
    change = START + timedelta(seconds=10)
    old, new = Price("run", 5_000_000, LONG_AGO, change), Price("run", 9_000_000, change)
    rig.ledger.listed = [old, new]
    await rig.prices.fetch()
    before = await rig.opened()
    await rig.clock.advance(10)
    after = await rig.opened()
    bills = [tab.close(Usage()) for tab in (before, after)]
    assert [bill and bill.amount for bill in bills] == [5, 9]

    def of(at: datetime) -> int | None:
        return rig.prices.at(at).get("run")

    assert [of(change - timedelta(microseconds=1)), of(change), of(START), of(LONG_AGO - timedelta(1))] == [
        5_000_000,
        9_000_000,
        5_000_000,
        None,
    ]


async def test_steps_are_taken_before_they_are_used(rig: Rig) -> None:
    tab = await rig.opened()
    for second in range(1, 60):
        await rig.looks(tab, [busy(second)])
        used = 1000 + second * 1000 + second * 100
        assert used + A_SECOND <= rig.spent() <= used + STEP
    assert rig.stopped == []
    assert len(rig.ledger.draws) < 20


async def test_a_budget_is_exact(rig: Rig) -> None:
    budget = Budget("run:1", 20_000)
    tab = await rig.opened(budgets=(budget,))
    usages = [busy(second) for second in range(1, 60)]
    await rig.looks(tab, usages)
    (outcome,) = rig.stopped
    assert outcome.code == "payment_required"
    stopped_at = (rig.clock.now() - START).total_seconds()
    assert 1000 + 1100 * (stopped_at - 1) < 20_000 <= 1000 + 1100 * stopped_at
    bill = tab.close(busy(stopped_at + 1))
    assert bill is not None
    assert bill.amount == sum(line.amount for line in bill.lines) == 20_000 == rig.ledger.used["run:1"]
    assert bill.budgets == (budget,)


async def test_it_is_never_charged_more_than_it_took(rig: Rig) -> None:
    rig.ledger.credit[ORG] = 1000 + STEP
    tab = await rig.opened()
    bill = tab.close(Usage(1000, 1000, 10**9, 10**12))
    assert bill is not None
    assert bill.amount == 1000 + STEP
    assert rig.ledger.credit[ORG] == 0


async def test_egress_that_nobody_foresaw_is_paid_by_the_next_step(rig: Rig) -> None:
    tab = await rig.opened()
    await rig.looks(tab, [replace(busy(1), egress_bytes=10**9)])
    bill = tab.close(replace(busy(1), egress_bytes=10**9))
    assert bill is not None
    assert bill.lines[-1] == Line("egress", 10**9, 10**6)


async def test_a_promise_is_taken_and_what_is_left_of_it_goes_back(rig: Rig) -> None:
    meter = "tokens:openai/gpt:out"
    rig.ledger.listed += [price(meter, 10), price("tokens:openai/gpt:in", 1), price("tokens:openai/gpt:cached", 0)]
    await rig.prices.fetch()
    tab = await rig.opened()
    assert (tab.price(meter), tab.price("tokens:x/y:in")) == (10_000_000, None)
    await tab.promise(50_000)
    assert rig.spent() == 51_000 + STEP
    await rig.looks(tab, [busy(0.5)])
    assert rig.spent() >= 51_000 + AHEAD
    tab.book(meter, 300)
    tab.book("tokens:openai/gpt:in", 100)
    tab.book("tokens:openai/gpt:cached", 20)
    tab.release(50_000)
    assert rig.spent() <= 1000 + 3100 + 550 + STEP
    assert tab.tokens == (120, 300)
    bill = tab.close(Usage())
    assert bill is not None
    assert bill.lines[1:] == (
        Line(meter, 300, 3000),
        Line("tokens:openai/gpt:in", 100, 100),
        Line("tokens:openai/gpt:cached", 20, 0),
    )
    assert bill.amount == rig.spent() == 4100


OUT = "tokens:openai/gpt:out"


async def used_above_its_promise(rig: Rig, **spec: Any) -> Tab:
    """10,000 were promised, 50,000 were used."""
    rig.ledger.listed.append(price(OUT, 10))
    await rig.prices.fetch()
    tab = await rig.opened(**spec)
    await tab.promise(10_000)
    tab.book(OUT, 5_000)
    tab.release(10_000)
    return tab


async def test_what_was_used_above_a_promise_is_charged_where_there_is_credit(rig: Rig) -> None:
    tab = await used_above_its_promise(rig)
    await tab.cover()
    bill = tab.close(busy(1))
    assert bill is not None
    assert bill.lines[-1] == Line(OUT, 5_000, 50_000)
    assert bill.amount == rig.spent() == 1000 + 1000 + 50 * 2 + 50_000


async def test_only_what_a_budget_cant_pay_is_cut(rig: Rig) -> None:
    tab = await used_above_its_promise(rig, budgets=(Budget("key:1", 30_000),))
    await tab.cover()
    bill = tab.close(Usage())
    assert bill is not None
    assert (bill.amount, bill.lines[-1]) == (30_000, Line(OUT, 5_000, 29_000))
    assert rig.ledger.used["key:1"] == 30_000


async def test_while_the_ledger_is_away_what_is_above_a_promise_is_ours(rig: Rig) -> None:
    tab = await used_above_its_promise(rig)
    rig.ledger.away = True
    covering = asyncio.create_task(tab.cover())
    for _ in range(40):
        await rig.clock.advance(0.1)
    await asyncio.wait_for(covering, 5)
    bill = tab.close(Usage())
    assert bill is not None
    assert 1000 + 10_000 <= bill.amount < 1000 + 50_000


async def test_nothing_is_covered_after_the_end(rig: Rig) -> None:
    tab = await used_above_its_promise(rig)
    bill = tab.close(Usage())
    await tab.cover()
    assert bill is not None
    assert rig.spent() == bill.amount


async def test_what_cant_be_promised_isnt(rig: Rig) -> None:
    budget = Budget("key:1", 1000 + STEP + 500)
    tab = await rig.opened(budgets=(budget,))
    assert await tab.room() == 500
    with pytest.raises(Exhausted):
        await tab.promise(501)
    await tab.promise(500)
    assert await tab.room() == 0
    tab.release(500)
    assert await tab.room() == 500


async def test_whatever_comes_after_the_end_goes_back(rig: Rig) -> None:
    tab = await rig.opened()
    rig.ledger.gate = asyncio.Event()
    late = asyncio.create_task(tab.promise(10_000))
    await asyncio.sleep(0)
    tab.close(Usage())
    rig.ledger.gate.set()
    with pytest.raises(Unavailable):
        await late
    assert rig.spent() == 1000


async def test_what_is_abandoned_costs_nothing(rig: Rig) -> None:
    tab = await rig.opened()
    tab.abandon()
    assert rig.spent() == 0
    assert tab.close(Usage()) is None


async def test_while_the_ledger_is_away_a_run_goes_on_for_a_while(rig: Rig) -> None:
    tab = await rig.opened()
    rig.ledger.away = True
    seconds = int(STEP_SECONDS + TRUSTED_SECONDS + FORBEARANCE.total_seconds())
    await rig.looks(tab, [busy(second, 2.0) for second in range(1, seconds + 10)])
    (outcome,) = rig.stopped
    assert outcome.code == "unavailable"
    ran = (rig.clock.now() - START).total_seconds()
    assert FORBEARANCE.total_seconds() <= ran <= seconds
    bill = tab.close(busy(ran, 2.0))
    assert bill is not None
    assert bill.amount == 1000 + STEP


async def test_a_short_absence_of_the_ledger_stops_nothing(rig: Rig) -> None:
    tab = await rig.opened()
    rig.ledger.away = True
    await rig.looks(tab, [busy(second, 2.0) for second in range(1, 10)])
    rig.ledger.away = False
    await rig.looks(tab, [busy(second, 2.0) for second in range(10, 20)])
    assert rig.stopped == []
    bill = tab.close(busy(19, 2.0))
    assert bill is not None
    assert bill.amount == 1000 + 19 * 2100


# What it uses in the end is more than the last that there is to take.
OVER = [(0.0, 3), (0.0, 0), (0.0, 297), (2.0, 303), (2.0, 1_869_900), (1.0, 199_297)]
OVER += [(2.0, 303), (2.0, 800_696), (2.0, 3_000_304)]


@settings(max_examples=100, deadline=None)
@example(19_068, OVER)
@given(st.integers(11_000, 60_000), st.lists(st.tuples(st.floats(0, 2), st.integers(0, 10**7)), max_size=30))
def test_no_run_costs_more_than_its_budget(limit: int, seconds: list[tuple[float, int]]) -> None:
    async def lived() -> None:
        rig = Rig()
        await rig.prices.fetch()
        tab = rig.tab(budgets=(Budget("run:1", limit),))
        try:
            await tab.open(LIMITS)
        except Exhausted:
            assert limit < 1000 + STEP
            assert rig.spent() == 0
            return
        usage, usages = Usage(), list[Usage]()
        for processors, sent in seconds:
            cpu, wall = usage.cpu_seconds + processors, usage.wall_seconds + 1
            usages.append(usage := Usage(cpu, wall, 100_000_000, usage.egress_bytes + sent))
        await rig.looks(tab, usages)
        used = usages[: round((rig.clock.now() - START).total_seconds())]
        last = used[-1] if used else Usage()
        bill = tab.close(last)
        assert bill is not None
        should = 1000 + sum(cost(*pair) for pair in _priced(last))
        assert bill.amount == sum(line.amount for line in bill.lines) == min(should, limit) == rig.spent()
        assert bool(rig.stopped) == (should >= limit)
        for purse in rig.purses:
            await purse.close()

    asyncio.run(lived())


ANY = st.integers(-(10**6), 10**9)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(-100, 100), st.floats(-10, 100), ANY, ANY), min_size=1, max_size=20))
def test_measures_that_fall_give_nothing_back(seen: list[tuple[float, float, int, int]]) -> None:
    """A process that is gone has used nothing, or less."""

    async def lived() -> None:
        rig = Rig()
        await rig.prices.fetch()
        tab = await rig.opened()
        usages = [Usage(*each) for each in seen]
        for usage in usages:
            await rig.looks(tab, [usage])
            assert all(purse.held >= 1000 for purse in rig.purses)
        bill = tab.close(usages[-1])
        assert bill is not None
        assert all(line.quantity > 0 and line.amount >= 0 for line in bill.lines)
        assert bill.amount == sum(line.amount for line in bill.lines) == rig.spent() >= 1000
        for purse in rig.purses:
            assert purse.held == 0
            await purse.close()

    asyncio.run(lived())


def _priced(usage: Usage) -> list[tuple[int, int]]:
    return [
        (round(usage.cpu_seconds * 1000), 1_000_000),
        (round(100 * usage.wall_seconds), 2_000_000),
        (usage.egress_bytes, 1000),
    ]
