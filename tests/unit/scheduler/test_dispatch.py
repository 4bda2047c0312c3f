import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from kit.errors import Conflict, Invalid, Unavailable
from scheduler.fleet import Heartbeat
from scheduler.model import CANCELLED, Asker, RunEnded, Status
from scheduler.place import STARTS_AT_ONCE
from tests.fakes.scheduler_rig import Scheduler
from tests.fakes.scheduling import HOME, START, a_run, a_submission, settled

FULL = Unavailable("no room")


@asynccontextmanager
async def dispatching(scheduler: Scheduler) -> AsyncIterator[None]:
    task = asyncio.create_task(scheduler.dispatch.run())
    await settled()
    yield
    assert not task.done(), task.exception()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_an_accepted_run_starts_at_once(scheduler: Scheduler) -> None:
    scheduler.fleet.heard(Heartbeat(HOME, "one", 0, 4))
    async with dispatching(scheduler):
        run = await scheduler.submit(a_submission())
        await settled()
        after = scheduler.run(run.id)
        assert (after.status, after.executor, after.incarnation) == (Status.RUNNING, HOME, "one")
        assert scheduler.executors.started == [(HOME, run.id)]


async def test_what_was_queued_before_a_restart_starts(scheduler: Scheduler) -> None:
    late, early = a_run(created_at=START + timedelta(seconds=1)), a_run()
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
        run = await scheduler.submit(a_submission())
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
        run = await scheduler.submit(a_submission())
        await settled()
        del scheduler.executors.refusal[HOME]
        scheduler.fleet.reported(HOME, started=0, ended=1)
        await settled()
        assert scheduler.executors.started == [(HOME, run.id)]


async def test_a_refused_run_goes_elsewhere(scheduler: Scheduler) -> None:
    scheduler.fleet.heard(Heartbeat("unix:b", "one", 0, 4))
    scheduler.executors.refusal["unix:b"] = FULL
    async with dispatching(scheduler):
        run = await scheduler.submit(a_submission())
        await settled()
        assert scheduler.executors.started == [(HOME, run.id)]


async def test_one_slow_executor_doesnt_block_the_others(scheduler: Scheduler) -> None:
    for address in ("unix:slow", "unix:swift"):
        scheduler.fleet.heard(Heartbeat(address, "one", 0, 1000))
    gate = scheduler.executors.gate["unix:slow"] = asyncio.Event()
    async with dispatching(scheduler):
        runs = [await scheduler.submit(a_submission()) for _ in range(40)]
        await settled(500)
        assert len(scheduler.executors.started) == 40 - STARTS_AT_ONCE
        gate.set()
        await settled(500)
        assert {run_id for _, run_id in scheduler.executors.started} == {run.id for run in runs}


async def test_nested_runs_start_though_all_are_full(scheduler: Scheduler) -> None:
    scheduler.executors.refusal[HOME] = FULL
    async with dispatching(scheduler):
        root = await scheduler.submit(a_submission())
        await settled()
        del scheduler.executors.refusal[HOME]
        nested = await scheduler.submit(a_submission(depth=1, parent_id=root.id))
        await settled()
        assert scheduler.executors.started == [(HOME, nested.id)]


async def test_a_run_that_is_refused_for_good_has_failed(scheduler: Scheduler) -> None:
    scheduler.executors.refusal[HOME] = Invalid("no such thing", code="workflow_failed_to_start")
    async with dispatching(scheduler):
        run = await scheduler.submit(a_submission())
        await settled()
        after = scheduler.run(run.id)
        assert (after.status, after.code, after.detail) == (Status.FAILED, "workflow_failed_to_start", "no such thing")
        assert scheduler.store.state.events[-1] == RunEnded(after)


async def test_a_run_that_the_executor_has_already_is_running(scheduler: Scheduler) -> None:
    scheduler.executors.refusal[HOME] = Conflict("has run already")
    async with dispatching(scheduler):
        run = await scheduler.submit(a_submission())
        await settled()
        assert scheduler.run(run.id).status is Status.RUNNING


async def test_a_run_whose_time_is_up_doesnt_start(scheduler: Scheduler) -> None:
    await scheduler.accepted(run := a_run(deadline=START))
    async with dispatching(scheduler):
        assert scheduler.executors.started == []
        assert (scheduler.run(run.id).status, scheduler.run(run.id).code) == (Status.TIMED_OUT, "timeout")


async def test_a_run_that_was_cancelled_while_it_started_is_stopped(scheduler: Scheduler) -> None:
    gate = scheduler.executors.gate[HOME] = asyncio.Event()
    async with dispatching(scheduler):
        run = await scheduler.submit(a_submission())
        await settled()
        await scheduler.cancel(Asker("org_caller"), run.id, CANCELLED)
        gate.set()
        await settled()
        assert scheduler.run(run.id).status is Status.CANCELLED
        assert [(one.id, one.executor) for one in scheduler.stopped] == [(run.id, HOME)]


async def test_a_failure_of_the_store_ends_the_loop(scheduler: Scheduler) -> None:
    task = asyncio.create_task(scheduler.dispatch.run())
    scheduler.executors.gate[HOME] = gate = asyncio.Event()
    run = await scheduler.submit(a_submission())
    await settled()

    async def broken(_work: object) -> None:
        raise RuntimeError("disk")

    scheduler.store.write = broken  # type: ignore[assignment,method-assign]
    gate.set()
    await settled()
    with pytest.raises(RuntimeError, match="disk"):
        await task
    assert scheduler.run(run.id).status is Status.QUEUED


async def test_a_start_is_written_down_once_the_store_is_back(scheduler: Scheduler) -> None:
    """Until then the run waits in the store: it mustn't be started a second time."""
    scheduler.fleet.heard(Heartbeat(HOME, "one", 0, 4))
    scheduler.executors.gate[HOME] = asyncio.Event()
    async with dispatching(scheduler):
        run = await scheduler.submit(a_submission())
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
    scheduler.store.away = True
    async with dispatching(scheduler):
        await scheduler.clock.advance(5)
        await settled()
        scheduler.store.away = False
        await scheduler.clock.advance(1)
        await settled()
        assert scheduler.run(run.id).status is Status.RUNNING
