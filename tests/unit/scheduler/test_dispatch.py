import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest

from kit.errors import Conflict, Exhausted, Invalid, Precondition, Unavailable
from scheduler.model import CANCELLED, Asker, Outcome, RunEnded, Status
from scheduler.place import STARTS_AT_ONCE
from scheduler.report import Batch, Ended
from tests.fakes.scheduler_rig import Scheduler
from tests.fakes.scheduling import HOME, START, a_run, a_submission, settled

FULL = Unavailable("no room", retry_after=timedelta(seconds=1))


@asynccontextmanager
async def dispatching(scheduler: Scheduler) -> AsyncIterator[None]:
    if not list(scheduler.fleet):
        await scheduler.here()
    task = asyncio.create_task(scheduler.dispatch.run())
    await settled()
    yield
    assert not task.done(), task.exception()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_an_accepted_run_starts_at_once(scheduler: Scheduler) -> None:
    async with dispatching(scheduler):
        run = await scheduler.submitted(a_submission())
        await settled()
        after = scheduler.run(run.id)
        assert (after.status, after.executor, after.incarnation) == (Status.RUNNING, HOME, "inc_1")
        assert scheduler.executors.started == [(HOME, run.id)]


async def test_what_was_queued_before_a_restart_starts(scheduler: Scheduler) -> None:
    late, early = a_run(), a_run(created_at=START - timedelta(seconds=1))
    await scheduler.accepted(late, early)
    async with dispatching(scheduler):
        assert [run_id for _, run_id in scheduler.executors.started] == [early.id, late.id]


async def test_more_than_one_batch_starts(scheduler: Scheduler) -> None:
    await scheduler.accepted(*(a_run() for _ in range(5 * STARTS_AT_ONCE)))
    async with dispatching(scheduler):
        await settled(500)
        assert len(scheduler.executors.started) == len(set(scheduler.executors.started)) == 5 * STARTS_AT_ONCE


async def test_a_full_executor_gets_it_later(scheduler: Scheduler) -> None:
    scheduler.executors.refusal[HOME] = FULL
    async with dispatching(scheduler):
        run = await scheduler.submitted(a_submission())
        await settled()
        assert scheduler.run(run.id).status is Status.QUEUED
        del scheduler.executors.refusal[HOME]
        await settled()
        assert scheduler.executors.started == []
        await scheduler.clock.advance(0.6)
        await settled()
        assert scheduler.executors.started == [(HOME, run.id)]


async def test_room_wakes_what_waits(scheduler: Scheduler) -> None:
    scheduler.executors.refusal[HOME] = FULL
    async with dispatching(scheduler):
        run = await scheduler.submitted(a_submission())
        await settled()
        del scheduler.executors.refusal[HOME]
        scheduler.fleet.reported(HOME, started=0, ended=1)
        await settled()
        assert scheduler.executors.started == [(HOME, run.id)]


async def test_a_refused_run_goes_elsewhere(scheduler: Scheduler) -> None:
    await scheduler.here(running=5)
    await scheduler.here("unix:b")
    scheduler.executors.refusal["unix:b"] = FULL
    async with dispatching(scheduler):
        run = await scheduler.submitted(a_submission())
        await settled()
        assert scheduler.executors.started == [(HOME, run.id)]


async def test_one_slow_executor_doesnt_block_the_others(scheduler: Scheduler) -> None:
    for address in ("unix:slow", "unix:swift"):
        await scheduler.here(address)
    gate = scheduler.executors.gate["unix:slow"] = asyncio.Event()
    async with dispatching(scheduler):
        runs = [await scheduler.submitted(a_submission()) for _ in range(40)]
        await settled(500)
        assert len(scheduler.executors.started) == 40 - STARTS_AT_ONCE
        gate.set()
        await settled(500)
        assert {run_id for _, run_id in scheduler.executors.started} == {run.id for run in runs}


async def test_nested_runs_start_though_all_are_full(scheduler: Scheduler) -> None:
    scheduler.executors.refusal[HOME] = FULL
    async with dispatching(scheduler):
        root = await scheduler.submitted(a_submission())
        await settled()
        del scheduler.executors.refusal[HOME]
        nested = await scheduler.submitted(a_submission(depth=1, parent_id=root.id, synchronous=True))
        await settled()
        assert scheduler.executors.started == [(HOME, nested.id)]


async def test_a_run_that_is_refused_for_good_has_failed(scheduler: Scheduler) -> None:
    scheduler.executors.refusal[HOME] = Invalid("no such thing", code="workflow_failed_to_start")
    async with dispatching(scheduler):
        run = await scheduler.submitted(a_submission())
        await settled()
        after = scheduler.run(run.id)
        assert (after.status, after.code, after.detail) == (Status.FAILED, "workflow_failed_to_start", "no such thing")
        assert scheduler.store.state.events[-1] == RunEnded(after)


async def test_a_run_that_the_executor_has_already_is_running(scheduler: Scheduler) -> None:
    scheduler.executors.refusal[HOME] = Conflict("has run already")
    async with dispatching(scheduler):
        run = await scheduler.submitted(a_submission())
        await settled()
        assert scheduler.run(run.id).status is Status.RUNNING


async def test_a_run_whose_time_is_up_doesnt_start(scheduler: Scheduler) -> None:
    await scheduler.accepted(run := a_run(deadline=START), again := a_run(deadline=START, attempt=2))
    async with dispatching(scheduler):
        await settled()
        assert scheduler.executors.started == []
        assert (scheduler.run(run.id).status, scheduler.run(run.id).code) == (Status.TIMED_OUT, "timeout")
        told = "the run's time (it counts from when it was accepted) was up while it waited to start"
        assert [scheduler.run(one.id).detail for one in (run, again)] == [told, told]


async def test_a_run_that_was_cancelled_while_it_started_is_stopped(scheduler: Scheduler) -> None:
    gate = scheduler.executors.gate[HOME] = asyncio.Event()
    async with dispatching(scheduler):
        run = await scheduler.submitted(a_submission())
        await settled()
        await scheduler.cancel(Asker("org_caller"), run.id, CANCELLED)
        gate.set()
        await settled()
        assert scheduler.run(run.id).status is Status.CANCELLED
        assert [(one.id, one.executor) for one in scheduler.stopped] == [(run.id, HOME)]


async def test_a_failure_of_the_store_ends_the_loop(scheduler: Scheduler) -> None:
    await scheduler.here()
    task = asyncio.create_task(scheduler.dispatch.run())
    scheduler.executors.gate[HOME] = gate = asyncio.Event()
    await settled()
    run = await scheduler.submitted(a_submission())
    await settled()

    async def broken(_work: object) -> None:
        raise RuntimeError("disk")

    scheduler.store.write = broken  # type: ignore[assignment,method-assign]
    gate.set()
    await settled()
    with pytest.raises(RuntimeError, match="disk"):
        await task
    assert scheduler.run(run.id).status is Status.QUEUED


async def test_what_is_accepted_while_nobody_waits_is_given_away_in_the_same_commit(scheduler: Scheduler) -> None:
    gate = scheduler.executors.gate[HOME] = asyncio.Event()
    async with dispatching(scheduler):
        run = await scheduler.submitted(a_submission())
        assert (run.status, run.executor, run.incarnation, run.epoch) == (Status.QUEUED, HOME, "inc_1", 1)
        assert run.placed
        gate.set()
        await settled()


async def test_a_start_without_an_answer_isnt_repeated_elsewhere(scheduler: Scheduler) -> None:
    scheduler.executors.refusal[HOME] = Unavailable("deadline exceeded")
    async with dispatching(scheduler):
        run = await scheduler.submitted(a_submission())
        await scheduler.here("unix:b")
        for _ in range(5):
            await scheduler.clock.advance(1)
            await settled()
        assert scheduler.executors.started == []
        assert scheduler.run(run.id).executor == HOME


async def test_a_start_that_was_released_has_another_token(scheduler: Scheduler) -> None:
    scheduler.executors.refusal[HOME] = FULL
    async with dispatching(scheduler):
        run = await scheduler.submitted(a_submission())
        await settled()
        assert (scheduler.run(run.id).placed, scheduler.run(run.id).epoch) == (False, 1)
        del scheduler.executors.refusal[HOME]
        await scheduler.clock.advance(0.6)
        await settled()
        assert scheduler.run(run.id).epoch == 2


async def test_no_organization_has_more_than_its_share(scheduler: Scheduler) -> None:
    scheduler = Scheduler(organization_runs=3)
    async with dispatching(scheduler):
        theirs = [await scheduler.submitted(a_submission()) for _ in range(5)]
        mine = await scheduler.submitted(a_submission(caller_id="org_other"))
        await settled(300)
        assert {run_id for _, run_id in scheduler.executors.started} == {*(run.id for run in theirs[:3]), mine.id}
        ended = scheduler.run(theirs[0].id).ended(CANCELLED, at=START)
        await scheduler.store.write(lambda tx: tx.save([ended]))
        scheduler.dispatch.wake()
        await settled(300)
        assert {run_id for _, run_id in scheduler.executors.started} < {*(run.id for run in theirs), mine.id}
        assert len(scheduler.executors.started) == 5


async def test_who_has_the_fewest_goes_first(scheduler: Scheduler) -> None:
    many = [a_run(caller_id="org_many", created_at=START - timedelta(seconds=1)) for _ in range(30)]
    few = [a_run(caller_id="org_few") for _ in range(3)]
    await scheduler.accepted(*many, *few)
    async with dispatching(scheduler):
        await settled(300)
        first = [run_id for _, run_id in scheduler.executors.started[:STARTS_AT_ONCE]]
        assert {run.id for run in few} <= set(first)


async def test_nobody_overtakes_those_who_wait(scheduler: Scheduler) -> None:
    scheduler.executors.refusal[HOME] = FULL
    async with dispatching(scheduler):
        first = await scheduler.submitted(a_submission())
        await settled()
        del scheduler.executors.refusal[HOME]
        await scheduler.clock.advance(0.1)
        second = await scheduler.submitted(a_submission())
        scheduler.fleet.reported(HOME, started=0, ended=1)
        await settled(200)
        assert [run_id for _, run_id in scheduler.executors.started] == [first.id, second.id]


async def test_a_pause_is_kept(scheduler: Scheduler) -> None:
    await scheduler.accepted(run := a_run(due_at=START + timedelta(seconds=3)))
    async with dispatching(scheduler):
        await scheduler.clock.advance(2)
        await settled()
        assert scheduler.executors.started == []
        await scheduler.here()
        await scheduler.clock.advance(1)
        await settled()
        assert scheduler.executors.started == [(HOME, run.id)]


async def test_a_full_queue_refuses(scheduler: Scheduler) -> None:
    scheduler = Scheduler(organization_queue=2)
    for _ in range(2):
        await scheduler.submitted(a_submission())
    with pytest.raises(Exhausted):
        await scheduler.submit(a_submission())
    await scheduler.submitted(a_submission(caller_id="org_other"))
    await scheduler.submitted(a_submission(depth=1, synchronous=True))
    assert len(scheduler.store.state.run_rows) == 4


async def test_a_caller_that_is_gone_doesnt_keep_its_run_from_starting(scheduler: Scheduler) -> None:
    async with dispatching(scheduler):
        task = asyncio.create_task(scheduler.submit(a_submission()))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        await settled()
        assert len(scheduler.executors.started) == 1


async def test_a_start_is_written_down_once_the_store_is_back(scheduler: Scheduler) -> None:
    """Until then the run waits in the store: it mustn't be started a second time."""
    scheduler.executors.gate[HOME] = asyncio.Event()
    async with dispatching(scheduler):
        run = await scheduler.submitted(a_submission())
        await settled()
        scheduler.store.away = True
        scheduler.executors.gate[HOME].set()
        for _ in range(5):
            await settled()
            await scheduler.clock.advance(1)
        scheduler.store.away = False
        for _ in range(3):
            await settled()
            await scheduler.clock.advance(1)
        await settled()
        assert scheduler.run(run.id).status is Status.RUNNING
        assert scheduler.executors.started == [(HOME, run.id)]


async def test_what_waits_starts_once_the_store_is_back(scheduler: Scheduler) -> None:
    await scheduler.accepted(run := a_run())
    await scheduler.here()
    scheduler.store.away = True
    async with dispatching(scheduler):
        await scheduler.clock.advance(5)
        await settled()
        scheduler.store.away = False
        await scheduler.clock.advance(1)
        await settled()
        assert scheduler.run(run.id).status is Status.RUNNING


async def test_the_answer_of_a_start_that_comes_after_its_attempt_has_ended_starts_nothing(
    scheduler: Scheduler,
) -> None:
    """The next attempt isn't taken for this one: nobody would ever start it."""
    gate = scheduler.executors.gate[HOME] = asyncio.Event()
    async with dispatching(scheduler):
        run = await scheduler.submitted(a_submission())
        await settled()
        lost = Ended(run.id, run.attempt, run.epoch, Outcome(Status.FAILED, "runtime_error", "we failed"))
        assert await scheduler.report(Batch(HOME, "inc_1", ended=[lost])) == []
        gate.set()
        await settled()
        after = scheduler.run(run.id)
        assert (after.status, after.attempt, after.executor) == (Status.QUEUED, 2, "")
        await scheduler.clock.advance(2)
        await settled()
        after = scheduler.run(run.id)
        assert (after.status, after.attempt) == (Status.RUNNING, 2)
        assert len(scheduler.executors.started) == 2


async def test_the_next_attempt_may_be_starting_when_a_start_comes_to_its_end(scheduler: Scheduler) -> None:
    gate = scheduler.executors.gate[HOME] = asyncio.Event()
    broken: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: broken.append(context))
    async with dispatching(scheduler):
        run = await scheduler.submitted(a_submission())
        await settled()
        lost = Ended(run.id, 1, run.epoch, Outcome(Status.FAILED, "runtime_error", "we failed"), handed_back=True)
        await scheduler.report(Batch(HOME, "inc_1", ended=[lost]))
        await settled()
        assert scheduler.run(run.id).claimed_at is not None
        gate.set()
        await settled()
        assert (scheduler.run(run.id).status, scheduler.run(run.id).attempt) == (Status.RUNNING, 2)
        assert scheduler.dispatch._starting == {}
        assert broken == []
        assert all(executor.starting == 0 for executor in scheduler.fleet)


@pytest.mark.parametrize("told", ["failed to connect to all addresses", "another life of this executor was given it"])
@pytest.mark.parametrize("again", [False, True])
async def test_only_of_the_first_start_it_is_sure_that_nobody_got_it(
    scheduler: Scheduler, told: str, again: bool
) -> None:
    """A second one that doesn't get through says nothing about the first: somebody may be at work."""
    scheduler.executors.refusal[HOME] = Unavailable("Socket closed" if again else told)
    async with dispatching(scheduler):
        run = await scheduler.submitted(a_submission())
        await settled()
        scheduler.executors.refusal[HOME] = Unavailable(told)
        if again:
            await scheduler.clock.advance(16)
            await scheduler.here(first=False)
            await scheduler.reap.once()
            await settled()
        after = scheduler.run(run.id)
        assert (after.claimed_at is not None, after.attempt, after.epoch) == (again, 1, 1)


async def test_a_start_that_breaks_the_executor_is_an_attempt_that_we_lost(scheduler: Scheduler) -> None:
    scheduler.executors.refusal[HOME] = Precondition("the executor failed", code="runtime_error")
    async with dispatching(scheduler):
        job = await scheduler.submitted(a_submission())
        call = await scheduler.submitted(a_submission(synchronous=True))
        await settled()
        after = scheduler.run(job.id)
        assert (after.status, after.attempt, after.losses) == (Status.QUEUED, 2, 1)
        assert (scheduler.run(call.id).status, scheduler.run(call.id).attempt) == (Status.FAILED, 1)
        del scheduler.executors.refusal[HOME]
        await scheduler.clock.advance(2)
        await settled()
        assert scheduler.run(job.id).status is Status.RUNNING


async def test_a_start_that_fails_late_ends_no_later_attempt(scheduler: Scheduler) -> None:
    gate = scheduler.executors.gate[HOME] = asyncio.Event()
    scheduler.executors.refusal[HOME] = Invalid("what is that?")
    async with dispatching(scheduler):
        run = await scheduler.submitted(a_submission())
        await settled()
        lost = Ended(run.id, 1, run.epoch, Outcome(Status.FAILED, "runtime_error", "we failed"))
        await scheduler.report(Batch(HOME, "inc_1", ended=[lost]))
        gate.set()
        await settled()
        assert (scheduler.run(run.id).status, scheduler.run(run.id).attempt) == (Status.QUEUED, 2)


NESTED = {"depth": 1, "synchronous": True}


async def test_nested_calls_without_room_hold_up_nobody_else(scheduler: Scheduler) -> None:
    """Not while they are refused, and not when something ends, which makes them try again."""
    scheduler.executors.nested_refusal[HOME] = FULL
    await scheduler.accepted(*(a_run(**NESTED) for _ in range(3 * STARTS_AT_ONCE)))
    async with dispatching(scheduler):
        jobs = [await scheduler.submitted(a_submission(caller_id=f"org_{number % 3}")) for number in range(30)]
        for _ in range(5):
            scheduler.fleet.reported(HOME, started=0, ended=1)
            await settled(300)
        assert sorted(run_id for _, run_id in scheduler.executors.started) == sorted(run.id for run in jobs)


async def test_nested_calls_that_take_long_to_start_leave_a_seat_to_others(scheduler: Scheduler) -> None:
    gate = scheduler.executors.gate[HOME] = asyncio.Event()
    await scheduler.accepted(*(a_run(**NESTED) for _ in range(3 * STARTS_AT_ONCE)))
    async with dispatching(scheduler):
        job = await scheduler.submitted(a_submission(caller_id="org_other"))
        await settled()
        assert scheduler.run(job.id).placed
        gate.set()
        await settled(300)
        assert len(scheduler.executors.started) == 3 * STARTS_AT_ONCE + 1  # no clock has moved
        assert all((one.starting, one.starting_urgent) == (0, 0) for one in scheduler.fleet)


async def test_a_long_queue_of_nested_calls_that_start_at_once_lets_others_in(scheduler: Scheduler) -> None:
    job = a_run(caller_id="org_other", created_at=START - timedelta(seconds=1))
    await scheduler.accepted(job, *(a_run(**NESTED) for _ in range(300)))
    async with dispatching(scheduler):
        await settled(1000)
        assert len(scheduler.executors.started) == 301
        assert (HOME, job.id) in scheduler.executors.started[: 2 * STARTS_AT_ONCE]


async def test_nested_calls_of_organizations_take_turns(scheduler: Scheduler) -> None:
    """The place that becomes free is first one's, then another's."""
    many = [a_run(**NESTED, caller_id="org_a") for _ in range(50)]
    await scheduler.accepted(*many, few := a_run(**NESTED, caller_id="org_b"))
    scheduler.executors.nested_refusal[HOME] = FULL
    first: list[str] = []
    async with dispatching(scheduler):
        for _ in range(2):
            scheduler.executors.gate[HOME] = asyncio.Event()
            await scheduler.clock.advance(0.6)
            await settled()
            first.append(next(iter(scheduler.dispatch._starting)))
            scheduler.executors.gate.pop(HOME).set()
            await settled(200)
    assert few.id in first
    assert {run.id for run in many} & set(first)


async def test_an_executor_that_is_away_gets_no_urgent_runs_either(scheduler: Scheduler) -> None:
    scheduler.executors.refusal[HOME] = Unavailable("failed to connect to all addresses")
    async with dispatching(scheduler):
        await scheduler.submitted(a_submission())
        await settled()
        del scheduler.executors.refusal[HOME]
        nested = await scheduler.submitted(a_submission(**NESTED))
        await settled()
        assert scheduler.executors.started == []
        await scheduler.clock.advance(0.6)
        await settled()
        assert (HOME, nested.id) in scheduler.executors.started


async def test_who_waits_in_a_pause_takes_nobodys_seats(scheduler: Scheduler) -> None:
    """org_a has nothing under way, so that it goes first; but nothing of it is due."""
    await scheduler.accepted(
        paused := a_run(caller_id="org_a", due_at=START + timedelta(seconds=60)),
        *(a_run(caller_id="org_b").started(executor=HOME, incarnation="inc_1", at=START) for _ in range(20)),
        *(jobs := [a_run(caller_id="org_b") for _ in range(20)]),
    )
    async with dispatching(scheduler):
        await settled(300)
        assert {run_id for _, run_id in scheduler.executors.started} == {run.id for run in jobs}
        assert not scheduler.run(paused.id).placed


async def test_urgent_runs_that_wait_are_bounded_for_each_organization(scheduler: Scheduler) -> None:
    scheduler = Scheduler(organization_queue=2)
    for priority in (0, 1):
        await scheduler.submitted(a_submission(**NESTED, priority=priority))
    with pytest.raises(Exhausted) as refused:
        await scheduler.submit(a_submission(**NESTED, priority=-1))
    assert (refused.value.code, bool(refused.value.retry_after)) == ("too_many_runs", True)
    await scheduler.submitted(a_submission(**NESTED, caller_id="org_other"))
    for _ in range(2):
        await scheduler.submitted(a_submission())
    assert len(scheduler.store.state.run_rows) == 5


async def test_a_run_that_is_waited_for_has_no_part_in_its_organizations_share(scheduler: Scheduler) -> None:
    """Else a root whose call may go on without it (`X-On-Timeout: continue`) would wait for its own place."""
    scheduler = Scheduler(organization_runs=1)
    async with dispatching(scheduler):
        root = await scheduler.submitted(a_submission(synchronous=True))
        nested = await scheduler.submitted(a_submission(**NESTED, root_id=root.id, parent_id=root.id))
        await settled()
        assert [run_id for _, run_id in scheduler.executors.started] == [root.id, nested.id]
