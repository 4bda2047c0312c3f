import asyncio
from datetime import timedelta

import pytest

from kit.errors import Conflict
from scheduler.model import Outcome, Provision, RunEnded, Status
from scheduler.sweep import Sweep
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


async def test_what_runs_are_told_that_waited_too_long_the_first_time_or_again(scheduler: Scheduler) -> None:
    soon = START + timedelta(seconds=5)
    await scheduler.accepted(first := a_run(deadline=soon), again := a_run(deadline=soon, attempt=2))
    await scheduler.clock.advance(6)
    await scheduler.reap.once()
    told = "the run's time (it counts from when it was accepted) was up while it waited to start"
    for run in (first, again):
        assert (scheduler.run(run.id).status, scheduler.run(run.id).detail) == (Status.TIMED_OUT, told)


async def test_a_running_run_is_ended_only_long_after_its_deadline(scheduler: Scheduler) -> None:
    run = a_run(deadline=START + timedelta(seconds=5)).started(executor=HOME, incarnation="one", at=START)
    await scheduler.here(incarnation="one")
    await scheduler.accepted(run)
    for _ in range(10):
        await scheduler.clock.advance(3)
        await scheduler.here(incarnation="one")
        await scheduler.reap.once()
    assert scheduler.run(run.id) == run
    await scheduler.clock.advance(3)
    await scheduler.here(incarnation="one")
    await scheduler.clock.advance(3)
    await scheduler.reap.once()
    assert scheduler.run(run.id).status is Status.TIMED_OUT
    assert [one.id for one in scheduler.stopped] == [run.id]


async def test_runs_of_a_restarted_executor_are_lost(scheduler: Scheduler) -> None:
    await scheduler.here(incarnation="inc_1")
    call = a_run(synchronous=True).started(executor=HOME, incarnation="inc_1", at=START)
    job = a_run().started(executor=HOME, incarnation="inc_1", at=START)
    given = a_run().claimed(HOME, "inc_1", START)
    await scheduler.accepted(call, job, given)
    await scheduler.reap.once()
    assert scheduler.run(call.id) == call
    await scheduler.here(incarnation="inc_2")
    new = a_run().started(executor=HOME, incarnation="inc_2", at=START)
    await scheduler.accepted(new)
    await scheduler.reap.once()
    lost = scheduler.run(call.id)
    assert (lost.status, lost.code, lost.detail) == (Status.FAILED, "runtime_error", "the executor was lost")
    assert scheduler.store.state.events == [RunEnded(lost)]
    for run in (job, given):
        again = scheduler.run(run.id)
        assert (again.status, again.attempt, again.losses) == (Status.QUEUED, 2, 1)
        assert (again.executor, again.claimed_at) == ("", None)
    assert scheduler.run(new.id) == new


async def test_runs_of_an_executor_that_nobody_knows_are_lost(scheduler: Scheduler) -> None:
    await scheduler.accepted(run := a_run(synchronous=True).started(executor=HOME, incarnation="inc_1", at=START))
    await scheduler.reap.once()
    assert scheduler.run(run.id).status is Status.FAILED


async def rounds(scheduler: Scheduler, seconds: int) -> None:
    for _ in range(seconds):
        await scheduler.clock.advance(1)
        await scheduler.reap.once()


async def test_a_lease_that_runs_out_is_given_up(scheduler: Scheduler) -> None:
    await scheduler.here()
    await scheduler.accepted(run := a_run().started(executor=HOME, incarnation="inc_1", at=START))
    await rounds(scheduler, 15)
    await scheduler.here()
    await rounds(scheduler, 20)
    assert scheduler.run(run.id) == run
    await rounds(scheduler, 1)
    assert (scheduler.run(run.id).status, scheduler.run(run.id).attempt) == (Status.QUEUED, 2)
    with pytest.raises(Conflict):
        await scheduler.here()
    assert list(scheduler.fleet) == []
    await scheduler.here(incarnation="inc_2")
    with pytest.raises(Conflict):  # the old life comes back
        await scheduler.here(incarnation="inc_1", first=False)
    assert [executor.incarnation for executor in scheduler.fleet] == ["inc_2"]


async def test_one_that_still_relies_on_its_lease_is_given_two_minutes(scheduler: Scheduler) -> None:
    """It renews it with another scheduler, which has lost the database."""
    await scheduler.here()
    await scheduler.accepted(run := a_run().started(executor=HOME, incarnation="inc_1", at=START))
    scheduler.executors.living.add(HOME)
    await rounds(scheduler, 20 + 120 - 1)
    assert scheduler.run(run.id) == run
    await rounds(scheduler, 1)
    assert (scheduler.run(run.id).status, scheduler.run(run.id).attempt) == (Status.QUEUED, 2)


async def test_one_that_relies_on_it_no_more_is_given_up(scheduler: Scheduler) -> None:
    await scheduler.here()
    await scheduler.accepted(run := a_run().started(executor=HOME, incarnation="inc_1", at=START))
    scheduler.executors.living.add(HOME)
    await rounds(scheduler, 40)
    assert scheduler.run(run.id) == run
    scheduler.executors.living.clear()
    await rounds(scheduler, 1)
    assert scheduler.run(run.id).attempt == 2


@pytest.mark.parametrize("away", [30, -3600, 3600])
async def test_a_scheduler_that_stood_still_gives_executors_the_time_to_renew(scheduler: Scheduler, away: int) -> None:
    """Or whose clock was set."""
    await scheduler.here()
    await scheduler.accepted(run := a_run(deadline=START + timedelta(days=1)).started(
        executor=HOME, incarnation="inc_1", at=START
    ))  # fmt: skip
    await rounds(scheduler, 15)
    await scheduler.clock.advance(away)
    await scheduler.reap.once()
    await rounds(scheduler, 4)
    await scheduler.here()
    await rounds(scheduler, 19)
    assert scheduler.run(run.id) == run
    await rounds(scheduler, 21)
    assert scheduler.run(run.id).attempt == 2


async def test_a_start_that_nobody_knows_the_end_of_is_repeated(scheduler: Scheduler) -> None:
    await scheduler.here()
    run = a_run().claimed(HOME, "inc_1", START)
    await scheduler.accepted(run)
    await rounds(scheduler, 14)
    assert scheduler.executors.started == []
    await scheduler.here()
    await rounds(scheduler, 2)
    await settled()
    assert scheduler.executors.started == [(HOME, run.id)]
    assert scheduler.run(run.id).status is Status.RUNNING


async def test_what_a_scheduler_before_this_one_gave_away_is_told_again_at_once(scheduler: Scheduler) -> None:
    await scheduler.here()
    run = a_run().claimed(HOME, "inc_1", START - timedelta(seconds=1))
    await scheduler.accepted(run)
    await scheduler.reap.once()
    await settled()
    assert scheduler.executors.started == [(HOME, run.id)]


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
