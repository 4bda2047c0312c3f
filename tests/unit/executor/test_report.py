import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from executor.model import Outcome, Status
from executor.report import (
    ATTEMPTS_ALONE,
    BACKLOG,
    BATCH,
    BATCH_BYTES,
    DISTANCE_SECONDS,
    YOUNG,
    Ended,
    Reporter,
    Started,
)
from kit.clock import FakeClock
from kit.errors import Invalid, Unavailable
from tests.fakes.executor import START, FakeScheduler, make_spec


def ended(run_id: str) -> Ended:
    return Ended(run_id, 1, 0, Outcome(Status.SUCCEEDED), None, "", START)


class Reporting:
    def __init__(self) -> None:
        self.scheduler, self.clock = FakeScheduler(), FakeClock(START)
        self.reporter = Reporter(self.scheduler, self.clock)

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not true():
                await self.clock.advance(0.01)


@pytest.fixture
async def reporting() -> AsyncIterator[Reporting]:
    world = Reporting()
    async with running(world.reporter):
        yield world


@asynccontextmanager
async def running(reporter: Reporter) -> AsyncIterator[None]:
    task = asyncio.create_task(reporter.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_what_happens_within_ten_milliseconds_goes_together(reporting: Reporting) -> None:
    spec = make_spec()
    reporting.reporter.tell(Started(spec, START, known=False))
    await asyncio.sleep(0)
    reporting.reporter.tell(ended(spec.run_id))
    assert reporting.scheduler.facts == []
    await reporting.clock.advance(0.01)
    assert [type(fact) for fact in reporting.scheduler.facts] == [Started, Ended]
    assert reporting.scheduler.batches == 1


async def test_batches_keep_their_distance_but_not_from_the_end_of_a_run_that_has_begun(reporting: Reporting) -> None:
    tell, facts, advance = reporting.reporter.tell, reporting.scheduler.facts, reporting.clock.advance
    spec = make_spec()
    tell(Started(spec, START, known=True))
    await asyncio.sleep(0)
    await advance(0.01)
    assert len(facts) == 1
    tell(ended("run_direct"))
    await advance(DISTANCE_SECONDS - 0.01)
    assert len(facts) == 1
    await advance(0.01)
    await advance(0.01)
    assert len(facts) == 2
    tell(ended("run_direct_2"))
    tell(ended(spec.run_id))
    asked = reporting.clock.now()
    await reporting.until(lambda: len(facts) == 4)
    assert (reporting.clock.now() - asked).total_seconds() < DISTANCE_SECONDS / 4


async def test_a_direct_run_is_told_of_when_it_is_over_or_has_gone_on_for_a_while(reporting: Reporting) -> None:
    tell, scheduler, advance = reporting.reporter.tell, reporting.scheduler, reporting.clock.advance
    short, long = make_spec(), make_spec()
    tell(Started(long, START, known=False))
    tell(Started(short, START, known=False))
    await advance(YOUNG.total_seconds() / 2)
    assert scheduler.facts == []
    tell(ended(short.run_id))
    await reporting.until(lambda: len(scheduler.facts) == 2)
    assert reporting.clock.now() - START < YOUNG
    await reporting.until(lambda: len(scheduler.facts) == 3)
    assert reporting.clock.now() - START >= YOUNG
    tell(ended(long.run_id))  # that somebody may be waiting for
    asked = reporting.clock.now()
    await reporting.until(lambda: len(scheduler.facts) == 4)
    assert (reporting.clock.now() - asked).total_seconds() < DISTANCE_SECONDS / 4
    told = [fact.spec.run_id if isinstance(fact, Started) else fact.run_id for fact in scheduler.facts]
    assert told == [short.run_id, short.run_id, long.run_id, long.run_id]


async def test_it_is_sent_until_the_scheduler_takes_it(reporting: Reporting) -> None:
    reporting.scheduler.fails = [Unavailable("away")] * 7
    reporting.reporter.tell(ended("run_1"))
    await reporting.until(lambda: len(reporting.scheduler.facts) == 1)
    assert reporting.scheduler.batches == 8


async def test_order_survives_an_absence(reporting: Reporting) -> None:
    reporting.scheduler.fails = [Unavailable("away")] * 3
    names = [f"run_{number}" for number in range(3 * BATCH + 1)]
    for name in names:
        reporting.reporter.tell(ended(name))
    await reporting.until(lambda: len(reporting.scheduler.facts) == len(names))
    assert [fact.run_id for fact in reporting.scheduler.facts if isinstance(fact, Ended)] == names


async def test_one_that_is_refused_holds_nobody_up() -> None:
    class Refusing(FakeScheduler):
        async def report(self, facts: list[Started | Ended]) -> None:
            if any(isinstance(fact, Ended) and fact.run_id == "run_bad" for fact in facts):
                self.batches += 1
                raise Invalid("no")
            await super().report(facts)

    scheduler, clock = Refusing(), FakeClock(START)
    reporter = Reporter(scheduler, clock)
    async with running(reporter):
        for name in ("run_a", "run_bad", "run_b"):
            reporter.tell(ended(name))
        async with asyncio.timeout(5):
            while len(scheduler.facts) < 2:
                await clock.advance(0.05)
    assert [fact.run_id for fact in scheduler.facts if isinstance(fact, Ended)] == ["run_a", "run_b"]
    assert scheduler.batches == 1 + ATTEMPTS_ALONE + 2


async def test_a_long_absence_is_noticed() -> None:
    reporter = Reporter(FakeScheduler(), FakeClock(START))
    for _ in range(BACKLOG):
        assert not reporter.overdue
        reporter.tell(ended("run_1"))
    assert reporter.overdue


async def test_flush_waits_until_all_is_told(reporting: Reporting) -> None:
    reporting.reporter.tell(ended("run_1"))
    flushing = asyncio.create_task(reporting.reporter.flush(5))
    await asyncio.sleep(0)
    assert not flushing.done()
    await reporting.clock.advance(0.01)
    await flushing
    assert len(reporting.scheduler.facts) == 1


async def test_flush_gives_up_on_a_scheduler_that_is_away(reporting: Reporting) -> None:
    reporting.scheduler.fails = [Unavailable("away")] * 99
    reporting.reporter.tell(ended("run_1"))
    await reporting.reporter.flush(0.01)
    assert reporting.scheduler.facts == []


async def test_a_batch_is_bounded_by_its_bytes_too(reporting: Reporting) -> None:
    given = b"x" * 60_000
    specs = [replace(make_spec(), given=given) for _ in range(200)]
    for spec in specs:
        reporting.reporter.tell(Started(spec, START, known=False))
        reporting.reporter.tell(ended(spec.run_id))
    await reporting.until(lambda: len(reporting.scheduler.facts) == 400)
    assert reporting.scheduler.batches >= 200 * 60_000 // BATCH_BYTES + 1
    assert not reporting.reporter.overdue


async def test_many_bytes_that_wait_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("executor.report.BACKLOG_BYTES", 100_000)
    reporter = Reporter(FakeScheduler(), FakeClock(START))
    for _ in range(2):
        assert not reporter.overdue
        spec = replace(make_spec(), given=b"x" * 60_000)
        reporter.tell(Started(spec, START, known=False))
        reporter.tell(ended(spec.run_id))
    assert reporter.overdue
