"""Schedules that are due: fired once, by one of several, late or not at all; and what is told of it."""

import asyncio
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from kit.clock import FakeClock
from kit.errors import Exhausted, NotFound, Problem, Unavailable
from kit.names import new_id
from scheduler.billing import Billing, Budget
from scheduler.catalog import Catalog, Change
from scheduler.fire import LOOK_SECONDS, PATIENCE_SECONDS, Fire
from scheduler.model import RunQueued, Status, Trigger
from scheduler.schedule import MOST_FAILURES, Schedule
from scheduler.submit import Accepting, Submission, Submit
from scheduler.workflow import Limits, Visibility
from tests.fakes.memory_runs import MemoryTx
from tests.fakes.scheduler_rig import Scheduler
from tests.fakes.scheduling import START, WORKFLOW, a_schedule, settled

HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)


@dataclass
class Firing:
    """One scheduler's part: `fires` of a store that others may share; `told` what became of what was due."""

    scheduler: Scheduler
    clock: FakeClock = field(default_factory=lambda: FakeClock(START))
    told: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        store = self.scheduler.store
        self.catalog = Catalog(store, self.clock)
        self.submit = Submit(store, self.scheduler.dispatch, self.clock)
        self.fire = Fire(
            store, self.catalog, self.submit, lambda name: name.encode(), self.told.append, self.clock, late=HOUR
        )

    async def add(self, **changes: Any) -> Schedule:
        schedule = a_schedule(**changes)
        await self.scheduler.store.write(lambda tx: tx.insert_schedule(schedule))
        return schedule

    async def after(self, seconds: float) -> float:
        """One look, so many seconds later; when the next is."""
        await self.clock.advance(seconds)
        return await self.fire.once()

    def now(self, schedule: Schedule) -> Schedule:
        return self.scheduler.store.state.schedules[schedule.id]

    @property
    def runs(self) -> int:
        return len(self.scheduler.store.state.run_rows)


@pytest.fixture
def firing(scheduler: Scheduler) -> Firing:
    return Firing(scheduler)


async def test_a_run_by_the_clock(firing: Firing) -> None:
    key_id = new_id("key")
    billing = Billing((Budget("key:key_0", 5),), key_id)
    schedule = await firing.add(input=b'{"a":1}', created_by=key_id, billing=billing)
    assert await firing.after(59) == 1
    assert firing.runs == 0
    assert await firing.after(1) == LOOK_SECONDS
    (run,) = firing.scheduler.store.state.run_rows.values()
    assert (run.trigger, run.status, run.synchronous, run.depth) == (Trigger.SCHEDULE, Status.QUEUED, False, 0)
    assert (run.owner_id, run.caller_id, run.acting_id, run.requester_id) == ("org_owner",) * 4
    assert (run.key_id, run.may_deploy, run.billing) == (key_id, False, billing)
    assert run.deadline - run.created_at == timedelta(minutes=30)
    assert run.correlation_id == run.root_id == run.id
    given = firing.scheduler.store.state.inputs[run.id]
    assert (given.request, given.body) == (schedule.id.encode(), b'{"a":1}')
    assert firing.scheduler.store.state.events == [RunQueued(run.id)]
    due = START + MINUTE
    assert firing.now(schedule) == replace(
        schedule, last_fired_at=due, last_run_id=run.id, next_fire_at=due + MINUTE, last_error=""
    )
    assert firing.told == ["fired"]


async def test_it_starts_by_the_next_pass(firing: Firing) -> None:
    await firing.add()
    await firing.scheduler.dispatch.once()
    await firing.after(60)
    await firing.scheduler.dispatch.once()
    await settled()
    await firing.scheduler.here()
    await firing.scheduler.clock.advance(61)  # its clock is another one
    await firing.scheduler.here()
    await firing.scheduler.dispatch.once()
    await settled()
    assert len(firing.scheduler.executors.started) == 1


async def test_what_the_name_serves_at_that_time_with_its_limits(firing: Firing) -> None:
    await firing.add()
    store = firing.scheduler.store
    version = replace(store.state.versions["ver_1"], id="ver_2", number=2)
    store.state.versions["ver_2"] = version
    limits = Limits(async_timeout_ms=5000)
    store.state.workflows[WORKFLOW.id] = replace(WORKFLOW, version=2, limits=limits)
    await firing.after(60)
    (run,) = store.state.run_rows.values()
    assert (run.version_id, run.deadline - run.created_at) == ("ver_2", timedelta(seconds=5))


@pytest.mark.parametrize("late", [1, 59, 61, 3599])
async def test_a_little_late_is_fired_once(firing: Firing, late: float) -> None:
    schedule = await firing.add(cron_expression="1 12 * * *")
    await firing.after(60 + late)
    await firing.after(0)
    assert (firing.runs, firing.told) == (1, ["fired"])
    after = firing.now(schedule)
    assert (after.last_fired_at, after.last_skipped_at) == (START + MINUTE, None)
    assert after.next_fire_at == START + MINUTE + timedelta(days=1)


async def test_too_late_is_skipped_and_told(firing: Firing) -> None:
    schedule = await firing.add(cron_expression="1 12 * * *")
    await firing.after(60 + 3600)
    after = firing.now(schedule)
    assert (firing.runs, firing.told) == (0, ["skipped"])
    assert (after.last_fired_at, after.last_skipped_at, after.last_error) == (None, START + MINUTE, "")
    assert after.next_fire_at == START + MINUTE + timedelta(days=1)


async def test_a_long_time_away_is_no_burst(firing: Firing) -> None:
    """Of many that were missed the last is fired, if it isn't too old itself."""
    often = await firing.add()
    hourly = await firing.add(cron_expression="30 * * * *", next_fire_at=START + timedelta(minutes=30))
    daily = await firing.add(cron_expression="0 14 * * *", next_fire_at=START + 2 * HOUR)
    await firing.after(5 * 24 * 3600 + 10)
    assert sorted(firing.told) == ["fired", "fired", "skipped"]
    now = firing.clock.now()
    assert firing.now(often).last_fired_at == now - timedelta(seconds=10)
    assert firing.now(often).next_fire_at == now + timedelta(seconds=50)
    assert firing.now(hourly).last_fired_at == now - timedelta(minutes=30, seconds=10)
    assert firing.now(hourly).last_skipped_at == START + timedelta(minutes=30)
    assert firing.now(daily).last_skipped_at == START + 2 * HOUR
    await firing.after(0)
    assert firing.runs == 2


async def test_a_clock_that_jumps_back_fires_nothing_twice(firing: Firing) -> None:
    schedule = await firing.add()
    await firing.after(60)
    await firing.after(-45)
    await firing.after(50)
    assert firing.runs == 1
    assert firing.now(schedule).next_fire_at == START + 2 * MINUTE
    await firing.after(55)
    assert firing.runs == 2


async def test_not_even_when_its_next_time_is_set_back(firing: Firing) -> None:
    """The row of what was fired stands behind the conditional update."""
    schedule = await firing.add()
    await firing.after(60)

    async def back(tx: MemoryTx) -> None:
        await tx.save_schedule(replace(firing.now(schedule), next_fire_at=START + MINUTE))

    await firing.scheduler.store.write(back)
    await firing.after(1)
    assert (firing.runs, firing.told) == (1, ["fired", "repeated"])
    assert firing.now(schedule).next_fire_at == START + 2 * MINUTE


async def test_two_schedulers_fire_each_once(scheduler: Scheduler) -> None:
    one, other = Firing(scheduler), Firing(scheduler)
    for minute in range(1, 4):
        await one.add(next_fire_at=START + minute * MINUTE)
    await other.clock.advance(0.4)  # its clock is ahead
    for _ in range(20):
        await asyncio.gather(one.after(15), other.after(15))
    state = scheduler.store.state
    assert len(state.run_rows) == len(state.fires) == 5 + 4 + 3
    assert sorted({at for _, at in state.fires}) == [START + minute * MINUTE for minute in range(1, 6)]
    assert one.told.count("fired") + other.told.count("fired") == 12


async def test_who_comes_second_at_the_same_row_leaves_it(scheduler: Scheduler) -> None:
    """Both have read it before either writes."""
    one, other = Firing(scheduler), Firing(scheduler)
    schedule = await one.add()
    for firing in (one, other):
        await firing.clock.advance(60)
    results = await asyncio.gather(one.fire._fire(schedule), other.fire._fire(schedule))
    assert sorted(results) == [False, True]
    assert len(scheduler.store.state.run_rows) == 1


async def test_a_look_that_wins_nothing_waits(firing: Firing, monkeypatch: pytest.MonkeyPatch) -> None:
    await firing.add()

    async def lost(self: MemoryTx, *_: object) -> bool:
        return False

    monkeypatch.setattr(MemoryTx, "claim", lost)
    assert await firing.after(60) == PATIENCE_SECONDS


async def test_one_that_is_deleted_meanwhile_isnt_fired(firing: Firing) -> None:
    schedule = await firing.add()
    await firing.clock.advance(60)
    await firing.scheduler.store.write(lambda tx: tx.delete_schedule("org_owner", schedule.id))
    assert not await firing.fire._fire(schedule)
    assert firing.runs == 0


async def test_a_workflow_that_is_gone_is_told_and_in_the_end_stops_it(firing: Firing) -> None:
    schedule = await firing.add(reference="nothing")
    await firing.after(60)
    after = firing.now(schedule)
    assert "no such workflow" in after.last_error
    assert (after.failures, after.last_skipped_at, after.next_fire_at) == (1, START + MINUTE, START + 2 * MINUTE)
    for _ in range(MOST_FAILURES + 3):
        await firing.after(60)
    after = firing.now(schedule)
    assert (after.failures, after.next_fire_at) == (MOST_FAILURES, None)
    assert "it has stopped" in after.last_error
    assert firing.told == ["refused"] * MOST_FAILURES


async def test_it_goes_on_when_the_workflow_is_there_again(firing: Firing) -> None:
    schedule = await firing.add(reference="later")
    await firing.after(60)
    firing.scheduler.store.state.workflows["wfl_2"] = replace(WORKFLOW, id="wfl_2", service_id="later")
    version = replace(firing.scheduler.store.state.versions["ver_1"], id="ver_2", workflow_id="wfl_2")
    firing.scheduler.store.state.versions["ver_2"] = version
    await firing.after(60)
    after = firing.now(schedule)
    assert (after.failures, after.last_error, after.last_fired_at) == (0, "", START + 2 * MINUTE)


async def test_somebody_elses_workflow_as_long_as_one_may_call_it(firing: Firing) -> None:
    schedule = await firing.add(organization_id="org_caller", reference="org_owner.hello")
    await firing.catalog.update("org_owner", "hello", Change(visibility=Visibility.PUBLIC))
    await firing.after(60)
    (run,) = firing.scheduler.store.state.run_rows.values()
    assert (run.owner_id, run.caller_id, run.acting_id) == ("org_owner", "org_caller", "org_owner")
    await firing.catalog.update("org_owner", "hello", Change(visibility=Visibility.PRIVATE))
    await firing.after(60)
    assert "no such workflow" in firing.now(schedule).last_error
    assert firing.runs == 1


class Refusing(Submit):
    """Takes nothing, because of `problem`."""

    problem: Problem = Exhausted("the queue is full")

    async def accept(self, tx: Accepting, submission: Submission) -> Any:
        raise self.problem


@pytest.mark.parametrize(
    ("problem", "failures"), [(Exhausted("the queue is full"), 0), (NotFound("no such version"), 1)]
)
async def test_a_refused_submission_is_told(firing: Firing, problem: Problem, failures: int) -> None:
    firing.submit.__class__ = Refusing
    Refusing.problem = problem
    schedule = await firing.add()
    await firing.after(60)
    after = firing.now(schedule)
    assert (after.last_error, after.failures) == (problem.message, failures)
    assert (after.last_skipped_at, after.next_fire_at) == (START + MINUTE, START + 2 * MINUTE)
    assert firing.told == ["refused"]


async def test_a_zone_that_is_no_more_stops_it(firing: Firing) -> None:
    schedule = await firing.add(timezone="Mars/Base")
    await firing.after(60)
    after = firing.now(schedule)
    assert after.next_fire_at is None
    assert "IANA" in after.last_error


async def test_the_night_without_its_hour(scheduler: Scheduler) -> None:
    start = datetime.fromisoformat("2026-03-29T00:00:00+00:00")  # in Berlin 02:30 comes at 03:00, 01:00 UTC
    firing = Firing(scheduler, FakeClock(start))
    schedule = await firing.add(
        cron_expression="30 2 * * *", timezone="Europe/Berlin", next_fire_at=start + HOUR, created_at=start
    )
    await firing.after(3599)
    assert firing.runs == 0
    for _ in range(12):
        await firing.after(300)
    assert firing.runs == 1
    assert firing.now(schedule).next_fire_at == datetime.fromisoformat("2026-03-30T02:30:00+02:00")


async def test_the_night_with_one_hour_twice(scheduler: Scheduler) -> None:
    start = datetime.fromisoformat("2026-10-25T00:00:00+00:00")  # in Berlin 02:30 comes at 00:30 and 01:30 UTC
    firing = Firing(scheduler, FakeClock(start))
    once = await firing.add(
        cron_expression="30 2 * * *", timezone="Europe/Berlin", next_fire_at=start + HOUR / 2, created_at=start
    )
    twice = await firing.add(
        cron_expression="30 * * * *", timezone="Europe/Berlin", next_fire_at=start + HOUR / 2, created_at=start
    )
    for _ in range(24):
        await firing.after(300)
    fired = [schedule_id for schedule_id, _ in scheduler.store.state.fires]
    assert (fired.count(once.id), fired.count(twice.id)) == (1, 2)


async def test_what_was_fired_is_remembered_for_two_hours(firing: Firing) -> None:
    await firing.add()
    for _ in range(200):
        await firing.after(60)
    assert firing.runs == 200
    assert 120 <= len(firing.scheduler.store.state.fires) <= 121


async def test_the_loop_sleeps_until_the_next_and_wakes_when_told(firing: Firing) -> None:
    looking = asyncio.create_task(firing.fire.run())
    await settled()
    await firing.add(next_fire_at=START + timedelta(seconds=2))
    await firing.clock.advance(1)
    firing.fire.wake()
    await settled()
    await firing.clock.advance(0.9)
    await settled()
    assert firing.runs == 0
    await firing.clock.advance(0.2)
    await settled()
    assert firing.runs == 1
    looking.cancel()


async def test_the_loop_survives_a_database_that_is_away(firing: Firing, monkeypatch: pytest.MonkeyPatch) -> None:
    await firing.add()
    due, away = firing.scheduler.store.due, True

    async def sometimes(now: datetime, limit: int) -> list[Schedule]:
        if away:
            raise Unavailable("the database is away")
        return await due(now, limit)

    monkeypatch.setattr(firing.scheduler.store, "due", sometimes)
    looking = asyncio.create_task(firing.fire.run())
    await firing.clock.advance(60)
    await settled()
    assert firing.runs == 0
    away = False
    await firing.clock.advance(PATIENCE_SECONDS)
    await settled()
    assert firing.runs == 1
    looking.cancel()
