from datetime import timedelta
from typing import Any

import pytest

from kit.errors import NotFound, Unavailable
from scheduler.model import CANCELLED, TIMED_OUT, Asker, Outcome, Run, RunEnded, Status
from scheduler.report import Batch, Ended
from scheduler.result import Answer, Result
from scheduler.usage import Usage
from tests.fakes.scheduler_rig import Scheduler
from tests.fakes.scheduling import HOME, START, a_run, settled

ME = Asker("org_caller")


def running(**changes: Any) -> Run:
    return a_run(**changes).started(executor=HOME, incarnation="one", at=START)


async def test_a_queued_run_is_over_at_once(scheduler: Scheduler) -> None:
    await scheduler.accepted(run := a_run())
    await scheduler.cancel(ME, run.id, CANCELLED)
    after = scheduler.run(run.id)
    assert (after.status, after.code, after.completed_at) == (Status.CANCELLED, "cancelled", START)
    assert scheduler.store.state.events == [RunEnded(after)]
    await scheduler.cancel(ME, run.id, TIMED_OUT)
    assert scheduler.run(run.id) == after
    assert scheduler.executors.stopped == []


async def test_a_running_run_is_stopped_and_ends_by_its_report(scheduler: Scheduler) -> None:
    await scheduler.accepted(run := running())
    await scheduler.cancel(ME, run.id, TIMED_OUT)
    assert scheduler.executors.stopped == [(HOME, run.id, TIMED_OUT)]
    assert scheduler.run(run.id).status is Status.RUNNING
    await scheduler.store.write(lambda tx: tx.save([run.ended(TIMED_OUT, at=START)]))
    await scheduler.clock.advance(60)
    assert len(scheduler.store.state.events) == 0


async def test_an_end_that_isnt_reported_is_written_all_the_same(scheduler: Scheduler) -> None:
    await scheduler.accepted(run := running())
    async with scheduler.cancel.lingering():
        await scheduler.cancel(ME, run.id, CANCELLED)
        await settled()
        await scheduler.clock.advance(11)
        await settled()
    assert scheduler.run(run.id).status is Status.CANCELLED
    assert scheduler.executors.stopped == [(HOME, run.id, CANCELLED)] * 2  # its sandbox may still be there


@pytest.mark.parametrize("wish", [CANCELLED, TIMED_OUT])
@pytest.mark.parametrize("how", ["ours", "its own", "handed back", "lost"])
async def test_a_cancelled_run_has_no_other_attempt(scheduler: Scheduler, how: str, wish: Outcome) -> None:
    """Its executor was about to report a failure when it was told to stop, or is lost before it does."""
    await scheduler.accepted(run := running(retries=1))
    await scheduler.cancel(ME, run.id, wish)
    if how == "lost":
        await scheduler.here(incarnation="two")
        await scheduler.reap.once()
    else:
        failure = Outcome(Status.FAILED, "" if how == "its own" else "runtime_error", "we failed", ("a line",))
        result = Result(Answer(b"head"), "f" * 64, usage=Usage(wall_seconds=2.0))
        ended = Ended(run.id, 1, 0, failure, START, result, handed_back=how == "handed back")
        await scheduler.report(Batch(HOME, "one", ended=[ended]))
    after = scheduler.run(run.id)
    assert (after.status, after.code, after.attempt) == (wish.status, wish.code, 1)
    assert scheduler.store.state.events == [RunEnded(after)]
    if how != "lost":
        assert (after.answer, after.log_digest, after.log_tail) == (None, "f" * 64, ("a line",))
        assert after.usage == Usage(wall_seconds=2.0)


@pytest.mark.parametrize("outcome", [Outcome(Status.SUCCEEDED), Outcome(Status.FAILED, "workflow_crashed", "it died")])
async def test_how_the_last_attempt_ended_is_its_executors_word(scheduler: Scheduler, outcome: Outcome) -> None:
    await scheduler.accepted(run := running())
    await scheduler.cancel(ME, run.id, CANCELLED)
    await scheduler.report(Batch(HOME, "one", ended=[Ended(run.id, 1, 0, outcome, START)]))
    assert (scheduler.run(run.id).status, scheduler.run(run.id).code) == (outcome.status, outcome.code)


async def test_the_first_wish_counts(scheduler: Scheduler) -> None:
    await scheduler.accepted(run := running())
    await scheduler.cancel(ME, run.id, TIMED_OUT)
    await scheduler.clock.advance(1)
    await scheduler.cancel(ME, run.id, CANCELLED)
    assert (scheduler.run(run.id).cancelled_as, scheduler.run(run.id).cancelled_at) == (TIMED_OUT, START)


async def test_a_cancel_is_no_start(scheduler: Scheduler) -> None:
    """By which others would be told how fast their queue is."""
    these = [running() for _ in range(3)]
    await scheduler.accepted(*these)
    await scheduler.clock.advance(60)
    before = scheduler.estimate.pace("org_caller")
    await scheduler.cancel(ME, these[0].id, CANCELLED)
    assert scheduler.estimate.pace("org_caller") == before


async def test_a_restart_forgets_no_cancel(scheduler: Scheduler) -> None:
    """Nor what falls with it, nor the sandboxes."""
    root = running(id="run_root")
    below = running(root_id="run_root", parent_id="run_root", depth=1)
    await scheduler.accepted(root, below)
    await scheduler.here(incarnation="one")
    async with scheduler.cancel.lingering():
        await scheduler.cancel(ME, root.id, CANCELLED)
        await settled()
    for _ in range(10):
        await scheduler.clock.advance(1)
        await scheduler.reap.once()
    assert scheduler.run(root.id).status is scheduler.run(below.id).status is Status.RUNNING
    await scheduler.clock.advance(1)
    await scheduler.reap.once()
    assert [scheduler.run(one.id).status for one in (root, below)] == [Status.CANCELLED] * 2
    assert scheduler.run(below.id).detail == "the run that it was called from was cancelled"
    assert {(one.id, one.executor) for one in scheduler.stopped} == {(root.id, HOME), (below.id, HOME)}


async def test_a_scheduler_that_has_just_begun_waits_for_reports(scheduler: Scheduler) -> None:
    long_ago = running().cancelled(CANCELLED, at=START - timedelta(hours=1))
    await scheduler.accepted(long_ago)
    await scheduler.here(incarnation="one")
    await scheduler.reap.once()
    assert scheduler.run(long_ago.id) == long_ago


async def test_a_run_whose_executor_cant_be_reached_is_over_and_stopped_later(scheduler: Scheduler) -> None:
    scheduler.executors.stop_refusal = Unavailable("away")
    await scheduler.accepted(run := running())
    async with scheduler.cancel.lingering():
        await scheduler.cancel(ME, run.id, CANCELLED)
        assert scheduler.run(run.id).status is Status.CANCELLED
        await settled()
        scheduler.executors.stop_refusal = None
        await scheduler.clock.advance(2)
        await settled()
    assert [(address, run_id) for address, run_id, _ in scheduler.executors.stopped] == [(HOME, run.id)]


async def test_an_ended_run_stays_as_it_is(scheduler: Scheduler) -> None:
    run = running().ended(Outcome(Status.SUCCEEDED), at=START)
    await scheduler.accepted(run)
    await scheduler.cancel(ME, run.id, CANCELLED)
    assert scheduler.run(run.id) == run
    assert scheduler.executors.stopped == []


async def test_somebody_elses_run_isnt_found(scheduler: Scheduler) -> None:
    await scheduler.accepted(run := running())
    for request_id in (run.id, "run_x"):
        with pytest.raises(NotFound):
            await scheduler.cancel(Asker("org_x"), request_id, CANCELLED)
    assert scheduler.executors.stopped == []


async def test_a_provisioned_id_means_its_first_run(scheduler: Scheduler) -> None:
    first, second = running(id="run_p", provision_id="run_p"), running(provision_id="run_p")
    await scheduler.accepted(first, second)
    await scheduler.cancel(ME, "run_p", CANCELLED)
    assert [run_id for _, run_id, _ in scheduler.executors.stopped] == ["run_p"]


async def test_a_cancelled_provision_starts_nothing(scheduler: Scheduler) -> None:
    provision = await scheduler.submit.provision("org_caller", "")
    with pytest.raises(NotFound):
        await scheduler.cancel(Asker("org_x"), provision.id, CANCELLED)
    await scheduler.cancel(ME, provision.id, CANCELLED)
    await scheduler.cancel(ME, provision.id, CANCELLED)
    with pytest.raises(NotFound):
        await scheduler.watch.get(ME, provision.id)
    kept = await scheduler.store.find_provision(provision.id)
    assert kept is not None
    assert not kept.usable_by(frozenset({"org_caller"}), START)


async def test_what_a_run_has_called_falls_with_it(scheduler: Scheduler) -> None:
    root = running(id="run_root")
    over = running(root_id="run_root", parent_id="run_root", depth=1).ended(CANCELLED, at=START)
    live = running(root_id="run_root", parent_id=over.id, depth=2)
    waiting = a_run(root_id="run_root", parent_id="run_root", depth=1)
    stranger = running()
    await scheduler.accepted(root, over, live, waiting, stranger)
    await scheduler.cancel(ME, root.id, CANCELLED)
    assert {run_id for _, run_id, _ in scheduler.executors.stopped} == {root.id, live.id}
    assert scheduler.run(waiting.id).status is Status.CANCELLED
    assert scheduler.run(waiting.id).detail == "the run that it was called from was cancelled"
    assert scheduler.run(stranger.id) == stranger


async def test_a_branch_falls_alone(scheduler: Scheduler) -> None:
    root, left, right = running(id="run_r"), running(root_id="run_r", parent_id="run_r"), running(root_id="run_r")
    leaf = a_run(root_id="run_r", parent_id=left.id)
    await scheduler.accepted(root, left, right, leaf)
    await scheduler.cancel(ME, left.id, CANCELLED)
    assert {run_id for _, run_id, _ in scheduler.executors.stopped} == {left.id}
    assert scheduler.run(leaf.id).status is Status.CANCELLED
    assert scheduler.run(right.id).status is Status.RUNNING


async def test_a_root_that_is_over_takes_what_it_left_behind_with_it(scheduler: Scheduler) -> None:
    root = running(id="run_root").ended(Outcome(Status.SUCCEEDED), at=START)
    left = a_run(root_id="run_root", parent_id="run_root", depth=1)
    await scheduler.accepted(root, left)
    await scheduler.cancel(ME, root.id, CANCELLED)
    assert scheduler.run(root.id) == root
    assert scheduler.run(left.id).status is Status.CANCELLED


async def test_a_time_limit_leaves_asynchronous_calls_alone(scheduler: Scheduler) -> None:
    root, left = running(id="run_root"), a_run(root_id="run_root", parent_id="run_root", depth=1)
    await scheduler.accepted(root, left)
    await scheduler.cancel(ME, root.id, TIMED_OUT)
    assert scheduler.run(left.id) == left


async def test_what_was_called_in_the_last_moment_falls_too(scheduler: Scheduler) -> None:
    await scheduler.accepted(root := running(id="run_root"))
    async with scheduler.cancel.lingering():
        await scheduler.cancel(ME, root.id, CANCELLED)
        await settled()
        await scheduler.accepted(late := a_run(root_id="run_root", parent_id="run_root", depth=1))
        await scheduler.clock.advance(11)
        await settled()
    assert scheduler.run(late.id).status is Status.CANCELLED


async def test_an_end_is_written_once_the_store_is_back(scheduler: Scheduler) -> None:
    await scheduler.accepted(run := running())
    async with scheduler.cancel.lingering():
        await scheduler.cancel(ME, run.id, CANCELLED)
        await settled()
        scheduler.store.away = True
        await scheduler.clock.advance(15)
        await settled()
        scheduler.store.away = False
        await scheduler.clock.advance(5)
        await settled()
    assert scheduler.run(run.id).status is Status.CANCELLED
