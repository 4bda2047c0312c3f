"""What a run was given, told to whoever gave it."""

from datetime import timedelta

import pytest

from kit.errors import Conflict, NotFound
from scheduler.model import Asker, Input, Outcome, Run, Status
from scheduler.recall import Recall
from scheduler.report import Batch, Ended, Started
from tests.fakes.memory_runs import MemoryTx
from tests.fakes.scheduler_rig import Scheduler
from tests.fakes.scheduling import HOME, INPUT, START, a_run

CALLER = Asker("org_caller")
LOST = Outcome(Status.FAILED, "runtime_error", "lost")


async def reported(scheduler: Scheduler, run: Run, given: Input | None, *, ended: bool = False) -> None:
    started = Started(run.id, START, run.attempt, run.epoch, run, given)
    over = [Ended(run.id, run.attempt, run.epoch, Outcome(Status.SUCCEEDED))] if ended else []
    await scheduler.report(Batch(HOME, "inc_1", [started], over))


@pytest.mark.parametrize("ended", [False, True])
async def test_a_run_of_the_direct_way_keeps_its_small_input(scheduler: Scheduler, ended: bool) -> None:
    run, silent = a_run(synchronous=True), a_run(synchronous=True)
    for _ in range(2):  # a report may come twice
        await reported(scheduler, run, INPUT, ended=ended)
    await reported(scheduler, silent, None, ended=ended)
    recall = Recall(scheduler.store)
    assert await recall(CALLER, run.id) == INPUT
    with pytest.raises(Conflict, match="wasn't kept"):
        await recall(CALLER, silent.id)


async def test_a_dead_run_can_be_given_again(scheduler: Scheduler) -> None:
    run = a_run(deadline=START + timedelta(hours=10))
    await scheduler.accepted(run)
    at = START
    while not run.status.over:
        run = run.attempted(LOST, at=at)
        at += timedelta(minutes=2)

        async def save(tx: MemoryTx, run: Run = run) -> None:
            await tx.save([run])

        await scheduler.store.write(save)
    assert run.status is Status.DEAD
    assert await Recall(scheduler.store)(CALLER, run.id) == INPUT


async def test_it_is_told_to_nobody_else(scheduler: Scheduler) -> None:
    run = a_run(requester_id="org_between", acting_id="org_owner")
    await scheduler.accepted(run)
    recall = Recall(scheduler.store)
    for organization in ("org_caller", "org_between"):
        assert await recall(Asker(organization), run.id) == INPUT
    for asker in (Asker("org_owner"), Asker("org_stranger"), Asker("org_caller", one_time_key_id="key_1")):
        with pytest.raises(NotFound):
            await recall(asker, run.id)
    with pytest.raises(NotFound):
        await recall(CALLER, "run_unknown")
