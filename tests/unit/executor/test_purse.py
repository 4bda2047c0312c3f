import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from executor.bill import Budget
from executor.purse import IDLE_SECONDS, PATIENCE_SECONDS, TRUSTED_SECONDS, Purse
from executor.purses import EMPTY_SECONDS, KEEP_SECONDS, MOST_PURSES, Purses
from kit.clock import FakeClock
from kit.errors import Exhausted, Unavailable
from tests.fakes.executor import START
from tests.fakes.ledger import FakeLedger

ORG = "org_a"


class Rig:
    def __init__(self, credit: int = 0) -> None:
        self.ledger, self.clock = FakeLedger(), FakeClock(START)
        self.ledger.credit[ORG] = credit
        self.purses = Purses(self.ledger, self.clock, lambda: self.clock.now().timestamp())

    @property
    def purse(self) -> Purse:
        return self.purses.of(ORG, ())

    async def pass_time(self, seconds: float) -> None:
        """With the loop's rounds."""
        for _ in range(round(seconds)):
            await self.clock.advance(1.0)
            with suppress(Unavailable):
                await self.purses.once()
            await self.clock.advance(0)

    async def closed(self) -> None:
        for purse in self.purses:
            await purse.close()


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    rig = Rig(1000)
    yield rig
    await rig.closed()


async def outcome(work: Awaitable[Any]) -> Any:
    try:
        return await work
    except (Exhausted, Unavailable) as problem:
        return type(problem)


async def finished(rig: Rig, tasks: "list[asyncio.Task[Any]]") -> list[Any]:
    async with asyncio.timeout(10):
        while not all(task.done() for task in tasks):
            await rig.clock.advance(0.5)
    return [task.result() for task in tasks]


async def test_what_is_taken_is_drawn_first(rig: Rig) -> None:
    assert await rig.purse.take(10) == 10
    (draw,) = rig.ledger.draws
    assert (draw.organization_id, draw.need, draw.want, draw.purse_id) == (ORG, 10, 10, rig.purse.id)
    assert (rig.purse.free, rig.purse.held, rig.ledger.credit[ORG]) == (0, 10, 990)


async def test_what_is_free_needs_no_draw(rig: Rig) -> None:
    rig.ledger.plenty = 90
    await rig.purse.take(10)
    await rig.purse.take(90)
    assert len(rig.ledger.draws) == 1
    await rig.purse.take(1)
    assert len(rig.ledger.draws) == 2


async def test_two_hundred_at_once_and_credit_for_fifty() -> None:
    rig = Rig(50 * 7)
    found = await asyncio.gather(*(outcome(rig.purse.take(7)) for _ in range(200)))
    assert (found.count(7), found.count(Exhausted)) == (50, 150)
    assert (rig.purse.free, rig.purse.held, rig.ledger.credit[ORG]) == (0, 350, 0)


async def test_those_who_wait_share_a_draw(rig: Rig) -> None:
    rig.ledger.gate = asyncio.Event()
    tasks = [asyncio.create_task(rig.purse.take(amount)) for amount in (5, 3, 4)]
    await asyncio.sleep(0)
    more = [asyncio.create_task(rig.purse.take(amount, 2 * amount)) for amount in (9, 2)]
    await asyncio.sleep(0)
    rig.ledger.gate.set()
    assert await asyncio.gather(*tasks, *more) == [5, 3, 4, 18, 4]
    assert [(draw.need, draw.want) for draw in rig.ledger.draws] == [(3, 12), (2, 22)]


async def test_one_who_needs_less_isnt_refused_for_the_others(rig: Rig) -> None:
    rig.ledger.credit[ORG] = 10
    found = await asyncio.gather(*(outcome(rig.purse.take(amount)) for amount in (30, 8, 20, 5)))
    assert found == [Exhausted, 8, Exhausted, Exhausted]
    assert await rig.purse.take(2) == 2


async def test_who_comes_during_a_draw_that_is_refused_is_asked_for_anew(rig: Rig) -> None:
    rig.ledger.gate, rig.ledger.credit[ORG] = asyncio.Event(), 10
    much = asyncio.create_task(outcome(rig.purse.take(30)))
    await asyncio.sleep(0)
    little = asyncio.create_task(outcome(rig.purse.take(5)))
    await asyncio.sleep(0)
    rig.ledger.gate.set()
    found: Any = await asyncio.gather(much, little)
    assert list(found) == [Exhausted, 5]


async def test_between_the_least_and_the_most(rig: Rig) -> None:
    rig.ledger.credit[ORG] = 25
    assert await rig.purse.take(10, 100) == 25
    with pytest.raises(Exhausted) as refused:
        await rig.purse.take(1, 100)
    assert refused.value.code == "payment_required"


async def test_what_is_put_back_is_there_for_who_waits(rig: Rig) -> None:
    rig.ledger.credit[ORG] = 10
    await rig.purse.take(10)
    rig.ledger.gate = asyncio.Event()
    waiting = asyncio.create_task(rig.purse.take(4))
    await asyncio.sleep(0)
    rig.purse.put_back(10)
    assert await waiting == 4
    rig.ledger.gate.set()
    assert rig.purse.free == 6


async def test_a_lost_answer_is_asked_for_again_and_nothing_is_drawn_twice(rig: Rig) -> None:
    rig.ledger.lost = 3
    task = asyncio.create_task(rig.purse.take(10))
    assert await finished(rig, [task]) == [10]
    assert len({draw.id for draw in rig.ledger.draws}) == 1
    assert len(rig.ledger.draws) == 4
    assert (rig.ledger.purses[rig.purse.id], rig.ledger.credit[ORG]) == (10, 990)


async def test_a_ledger_that_is_away_is_told_soon_and_the_draw_goes_on(rig: Rig) -> None:
    rig.ledger.lost = 1000
    task = asyncio.create_task(outcome(rig.purse.take(10)))
    assert await finished(rig, [task]) == [Unavailable]
    waited = (rig.clock.now() - START).total_seconds()
    assert PATIENCE_SECONDS <= waited <= PATIENCE_SECONDS + 1
    rig.ledger.lost = 0
    await rig.pass_time(1)
    assert rig.purse.free == rig.ledger.purses[rig.purse.id] == 10


async def test_whoever_leaves_leaves_nothing_behind(rig: Rig) -> None:
    rig.ledger.gate = asyncio.Event()
    leaving, staying = asyncio.create_task(rig.purse.take(10)), asyncio.create_task(rig.purse.take(20))
    await asyncio.sleep(0)
    leaving.cancel()
    rig.ledger.gate.set()
    assert await staying == 20
    assert (rig.purse.free, rig.purse.held) == (10, 20)


async def test_whoever_leaves_when_it_is_given_leaves_nothing_behind(rig: Rig) -> None:
    task = asyncio.create_task(rig.purse.take(10))
    for _ in range(2):  # it waits; it is drawn
        await asyncio.sleep(0)
    assert (rig.purse.held, task.done()) == (10, False)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (rig.purse.free, rig.purse.held) == (10, 0)


async def test_what_is_idle_goes_back(rig: Rig) -> None:
    rig.ledger.plenty = 50
    await rig.purse.take(10)
    await rig.pass_time(IDLE_SECONDS - 1)
    assert rig.ledger.given == []
    await rig.pass_time(1)
    assert rig.ledger.given == [(rig.purse.id, 50)]
    assert (rig.purse.free, rig.purse.held, rig.ledger.purses[rig.purse.id]) == (0, 10, 10)


async def test_giving_back_is_repeated_until_it_is_known(rig: Rig) -> None:
    rig.ledger.plenty = 50
    await rig.purse.take(10)
    rig.ledger.lost = 3
    await rig.pass_time(8)
    assert rig.ledger.given == [(rig.purse.id, 50)]
    assert rig.ledger.lost == 0


async def test_purses_are_kept(rig: Rig) -> None:
    await rig.purse.take(10)
    await rig.pass_time(3 * KEEP_SECONDS)
    assert rig.ledger.kept == [[rig.purse.id]] * 3


async def test_what_couldnt_be_kept_isnt_spent(rig: Rig) -> None:
    rig.ledger.plenty = 500
    await rig.purse.take(10)
    rig.ledger.away = True
    await rig.pass_time(TRUSTED_SECONDS - 1)
    rig.purse.free += 5  # as if it hadn't been on its way back
    assert await rig.purse.take(5) == 5
    rig.purse.put_back(5)
    await rig.clock.advance(1)
    with pytest.raises(Unavailable):
        await rig.purse.take(5)
    rig.purse.free, rig.ledger.away = 0, False
    await rig.pass_time(1)
    assert await rig.purse.take(5) == 5


async def test_a_swept_purse_is_forgotten_with_what_was_in_it(rig: Rig) -> None:
    rig.ledger.plenty = 50
    before = rig.purse
    await before.take(10)
    rig.ledger.sweep()
    assert rig.ledger.credit[ORG] == 1000
    await rig.purses.keep()
    assert (before.gone, before.free) == (True, 0)
    with pytest.raises(Unavailable):
        await before.take(1)
    before.put_back(10)  # went back with the sweep
    assert before.free == 0
    assert rig.purse is not before
    assert await rig.purse.take(10) == 10


async def test_a_draw_from_a_swept_purse_finds_out(rig: Rig) -> None:
    before = rig.purse
    await before.take(10)
    rig.ledger.sweep()
    with pytest.raises(Unavailable):
        await before.take(10)
    assert await rig.purse.take(10) == 10


async def test_each_owner_has_a_purse(rig: Rig) -> None:
    one, other = Budget("run:1", 5), Budget("key:1", 9)
    assert rig.purses.of(ORG, (one, other)) is rig.purses.of(ORG, (other, one))
    assert rig.purses.of(ORG, (one,)) is not rig.purse
    assert await rig.purses.of(ORG, (one, other)).take(1, 100) == 5


async def test_purses_are_bounded(rig: Rig) -> None:
    for number in range(MOST_PURSES):
        rig.purses.of(f"org_{number}", ())
    first = rig.purses.of("org_0", ())
    await rig.clock.advance(1)
    rig.ledger.credit["org_0"] = 5
    await first.take(5)
    rig.purses.of("org_more", ())  # in place of empty ones
    assert len(rig.purses) == 2
    assert rig.purses.of("org_0", ()) is first
    for purse in [rig.purses.of(f"org_{number}", ()) for number in range(MOST_PURSES - 1)]:
        purse.held = 1
    with pytest.raises(Unavailable):
        rig.purses.of("org_too_many", ())


async def test_an_empty_purse_is_forgotten_in_the_end(rig: Rig) -> None:
    await rig.purse.take(10)
    rig.purse.spend(10)
    await rig.pass_time(EMPTY_SECONDS - 2)
    assert len(rig.purses) == 1
    await rig.pass_time(4)
    assert len(rig.purses) == 0


async def test_the_ledger_is_told_which_purses_are_done_with(rig: Rig) -> None:
    """Once, and not before their bills can be there."""
    first = rig.purse
    await first.take(10)
    first.spend(10)
    await rig.pass_time(EMPTY_SECONDS - 1)
    assert rig.ledger.closed == []
    rig.ledger.lost = 0
    await rig.pass_time(1 + 2 * KEEP_SECONDS)
    assert rig.ledger.closed == [first.id]
    assert rig.purse is not first


async def test_what_a_lost_purse_has_goes_back_when_its_runs_are_over(rig: Rig) -> None:
    """The ledger has said that there is less in it than it was asked for."""
    rig.ledger.plenty = 50
    before = rig.purse
    await before.take(10)
    rig.ledger.swept = {before.id}
    await rig.pass_time(IDLE_SECONDS)
    assert before.gone
    await rig.purses.of(ORG, ()).take(1)
    assert rig.purse is not before
    await rig.pass_time(EMPTY_SECONDS + 2 * KEEP_SECONDS)
    assert rig.ledger.closed == []
    before.spend(10)
    await rig.pass_time(EMPTY_SECONDS - 1)
    assert rig.ledger.closed == []
    await rig.pass_time(1 + 2 * KEEP_SECONDS)
    assert rig.ledger.closed == [before.id]


async def test_in_the_end_everything_free_goes_back(rig: Rig) -> None:
    rig.ledger.plenty = 50
    await rig.purse.take(10)
    await rig.purses.close()
    assert [amount for _, amount in rig.ledger.given] == [50]
    assert rig.ledger.credit[ORG] == 990


Step = tuple[str, int]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["take", "more", "leave", "put back", "spend", "time", "lose", "cut", "heal", "plenty"]),
        st.integers(1, 40),
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_no_credit_comes_or_goes(steps: list[Step]) -> None:
    """free + held + billed is what was drawn and not given back, whatever is lost on the way."""
    asyncio.run(_interleaved(steps))


async def _interleaved(steps: list[Step]) -> None:
    rig = Rig(500)
    purse, taking = rig.purse, list[asyncio.Task[Any]]()
    taken: list[int] = []
    billed = 0

    async def take(least: int, most: int) -> None:
        taken.append(await purse.take(least, most))

    def leave(number: int) -> None:
        if taking:
            taking[number % len(taking)].cancel()

    act: dict[str, Callable[[int], None]] = {
        "take": lambda n: taking.append(asyncio.create_task(outcome(take(n, n)))),
        "more": lambda n: taking.append(asyncio.create_task(outcome(take(n, 3 * n)))),
        "leave": leave,
        "lose": lambda n: setattr(rig.ledger, "lost", n % 4),
        "cut": lambda _: setattr(rig.ledger, "away", True),
        "heal": lambda _: setattr(rig.ledger, "away", False),
        "plenty": lambda n: setattr(rig.ledger, "plenty", n),
    }
    for name, number in steps:
        if name in act:
            act[name](number)
        elif name == "time":
            await rig.pass_time(number % 5)
        elif taken:
            amount = taken.pop(number % len(taken))
            if name == "spend":
                billed += (part := amount * number // 40)
                purse.spend(part)
                amount -= part
            purse.put_back(amount)
        await rig.clock.advance(0)
    rig.ledger.away, rig.ledger.lost = False, 0
    await rig.pass_time(12)
    await asyncio.gather(*taking, return_exceptions=True)
    assert not purse.gone
    assert purse.held == sum(taken)
    assert purse.free + sum(taken) + billed == rig.ledger.purses[purse.id]
    assert rig.ledger.purses[purse.id] + rig.ledger.credit[ORG] == 500
    await rig.closed()
