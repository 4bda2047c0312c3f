import asyncio
from datetime import timedelta

import pytest

from scheduler.fleet import Heartbeat
from scheduler.model import Outcome, Provision, RunEnded, Status
from scheduler.reap import Sweep
from tests.fakes.scheduler_rig import Scheduler
from tests.fakes.scheduling import HOME, START, a_run, settled

KEEP = timedelta(days=7)


async def test_a_run_that_waited_too_long_has_timed_out(scheduler: Scheduler) -> None:
    await scheduler.accepted(run := a_run(deadline=START + timedelta(seconds=5)), other := a_run())
    await scheduler.reap.once()
    assert scheduler.queue_lengths == [2]
    await scheduler.clock.advance(6)
    await scheduler.reap.once()
    after = scheduler.run(run.id)
    assert (after.status, after.code) == (Status.TIMED_OUT, "timeout")
    assert scheduler.store.state.events == [RunEnded(after)]
    assert scheduler.run(other.id) == other


async def test_a_running_run_is_ended_only_long_after_its_deadline(scheduler: Scheduler) -> None:
    run = a_run(deadline=START + timedelta(seconds=5)).started(executor=HOME, incarnation="one", at=START)
    scheduler.executors.living = {HOME}
    await scheduler.accepted(run)
    await scheduler.clock.advance(30)
    await scheduler.reap.once()
    assert scheduler.run(run.id) == run
    await scheduler.clock.advance(6)
    await scheduler.reap.once()
    assert scheduler.run(run.id).status is Status.TIMED_OUT
    assert [one.id for one in scheduler.stopped] == [run.id]


async def test_runs_of_a_restarted_executor_are_lost(scheduler: Scheduler) -> None:
    scheduler.fleet.heard(Heartbeat(HOME, "one", 0, 4))
    old = a_run().started(executor=HOME, incarnation="one", at=START)
    await scheduler.accepted(old)
    scheduler.fleet.heard(Heartbeat(HOME, "two", 0, 4))
    new = a_run().started(executor=HOME, incarnation="two", at=START)
    await scheduler.accepted(new)
    await scheduler.reap.once()
    assert scheduler.run(old.id).status is Status.RUNNING
    await scheduler.clock.advance(6)
    await scheduler.reap.once()
    lost = scheduler.run(old.id)
    assert (lost.status, lost.code, lost.detail) == (Status.FAILED, "runtime_error", "the executor was lost")
    assert scheduler.run(new.id) == new
    assert scheduler.executors.probed == []


async def test_runs_of_an_executor_that_restarted_while_we_were_away_are_lost(scheduler: Scheduler) -> None:
    await scheduler.accepted(run := a_run().started(executor=HOME, incarnation="one", at=START))
    scheduler.fleet.heard(Heartbeat(HOME, "two", 0, 4))
    await scheduler.clock.advance(6)
    await scheduler.reap.once()
    assert scheduler.run(run.id).status is Status.FAILED


async def test_a_silent_executor_is_asked_before_its_runs_are_given_up(scheduler: Scheduler) -> None:
    await scheduler.accepted(run := a_run().started(executor="unix:b", incarnation="one", at=START))
    scheduler.fleet.heard(Heartbeat("unix:b", "one", 1, 4))
    scheduler.executors.living = {"unix:b"}  # the bus is down, the executor isn't
    await scheduler.clock.advance(15)
    await scheduler.reap.once()
    await scheduler.reap.once()
    assert scheduler.executors.probed == ["unix:b"]
    assert scheduler.run(run.id).status is Status.RUNNING
    scheduler.executors.living = set()
    await scheduler.clock.advance(15)
    await scheduler.reap.once()
    assert scheduler.run(run.id).status is Status.FAILED


async def test_old_runs_are_swept(scheduler: Scheduler) -> None:
    sweep = Sweep(scheduler.store, KEEP, scheduler.clock)
    run, waiting = a_run().ended(Outcome(Status.SUCCEEDED), at=START), a_run()
    await scheduler.accepted(run, waiting)
    unused = Provision("run_p", "org_caller", "", START)
    await scheduler.store.write(lambda tx: tx.add_provision(unused))
    assert not await sweep.once()
    await scheduler.clock.advance(3601)
    await sweep.once()
    assert await scheduler.store.find_provision("run_p") is None
    assert run.id in scheduler.store.state.run_rows
    await scheduler.clock.advance(7 * 86400)
    await sweep.once()
    assert list(scheduler.store.state.run_rows) == [waiting.id]


@pytest.mark.parametrize("what", ["reap", "sweep"])
async def test_it_goes_on_once_the_store_is_back(scheduler: Scheduler, what: str) -> None:
    old = a_run().ended(Outcome(Status.SUCCEEDED), at=START - KEEP - timedelta(seconds=1))
    await scheduler.accepted(a_run(deadline=START - timedelta(seconds=1)), old)
    loop = scheduler.reap if what == "reap" else Sweep(scheduler.store, KEEP, scheduler.clock)
    scheduler.store.away = True
    task = asyncio.create_task(loop.run())
    await scheduler.clock.advance(100)
    await settled()
    scheduler.store.away = False
    await scheduler.clock.advance(100)
    await settled()
    assert not task.done()
    task.cancel()
    if what == "reap":
        assert scheduler.queue_lengths[-1] == 0
    else:
        assert old.id not in scheduler.store.state.run_rows
