from dataclasses import replace
from datetime import timedelta

from scheduler.model import CANCELLED, Outcome, Run, RunEnded, Status
from scheduler.report import Batch, Ended, Started
from scheduler.result import Answer, Result
from scheduler.retry import MOST_LOSSES
from scheduler.usage import Usage
from tests.fakes.scheduler_rig import Scheduler
from tests.fakes.scheduling import HOME, START, a_run

DONE = Outcome(Status.SUCCEEDED)
USED = Usage(0.5, 1.5, 1 << 30, 7)
LATER = START + timedelta(seconds=1)


def started(run: Run, *, whole: bool = False) -> Started:
    return Started(run.id, START, run.attempt, run.epoch, run if whole else None)


def ended(run: Run, outcome: Outcome = DONE) -> Ended:
    return Ended(run.id, run.attempt, run.epoch, outcome, LATER, Result(Answer(b"", b"x"), "f" * 64, usage=USED))


def batch(*facts: Started | Ended, executor: str = HOME) -> Batch:
    first = [fact for fact in facts if isinstance(fact, Started)]
    return Batch(executor, "one", first, [fact for fact in facts if isinstance(fact, Ended)])


async def test_a_run_of_the_direct_way_appears_and_ends(scheduler: Scheduler) -> None:
    run = a_run()
    assert await scheduler.report(batch(started(run, whole=True))) == []
    assert (scheduler.run(run.id).status, scheduler.run(run.id).executor) == (Status.RUNNING, HOME)
    assert await scheduler.report(batch(ended(run))) == []
    after = scheduler.run(run.id)
    assert (after.status, after.started_at, after.completed_at) == (Status.SUCCEEDED, START, LATER)
    assert after.answer == Answer(b"", b"x")
    assert after.usage == USED
    assert scheduler.store.state.events == [RunEnded(after)]


async def test_both_in_one_batch(scheduler: Scheduler) -> None:
    run = a_run()
    await scheduler.report(batch(started(run, whole=True), ended(run)))
    assert scheduler.run(run.id).status is Status.SUCCEEDED
    assert scheduler.stopped == []


async def test_a_batch_that_comes_twice_changes_nothing(scheduler: Scheduler) -> None:
    run = a_run()
    facts = batch(started(run, whole=True), ended(run))
    await scheduler.report(facts)
    before = scheduler.run(run.id)
    assert await scheduler.report(facts) == [run.id]
    assert scheduler.run(run.id) is before
    assert len(scheduler.store.state.events) == 1
    assert scheduler.stopped == []


async def test_the_report_may_be_faster_than_start(scheduler: Scheduler) -> None:
    await scheduler.accepted(run := a_run())
    await scheduler.report(batch(ended(run)))
    after = scheduler.run(run.id)
    assert (after.status, after.executor, after.started_at) == (Status.SUCCEEDED, HOME, LATER)


async def test_another_life_of_the_executor_doesnt_count(scheduler: Scheduler) -> None:
    run = a_run().started(executor=HOME, incarnation="two", at=START)
    await scheduler.accepted(run)
    assert await scheduler.report(batch(ended(run))) == [run.id]
    assert scheduler.run(run.id) == run


FAILURE = Outcome(Status.FAILED, "runtime_error", "we failed")
CRASH = Outcome(Status.FAILED, "workflow_crashed", "it died")


async def test_our_failure_is_another_attempt_and_in_the_end_death(scheduler: Scheduler) -> None:
    await scheduler.accepted(a_run(id="run_1", deadline=START + timedelta(hours=1)))
    for attempt in range(1, MOST_LOSSES + 2):
        run = scheduler.run("run_1")
        assert (run.status, run.attempt, run.executor) == (Status.QUEUED, attempt, "")
        assert await scheduler.report(batch(ended(run, FAILURE))) == []
    run = scheduler.run("run_1")
    assert (run.status, run.code, run.attempt) == (Status.DEAD, "runtime_error", MOST_LOSSES + 1)
    assert run.detail == f"given up after {MOST_LOSSES + 1} attempts; the last one: we failed"
    assert run.usage == Usage(0.5 * run.attempt, 1.5 * run.attempt, 1 << 30, 7 * run.attempt)
    assert [one.number for one in run.earlier] == list(range(1, MOST_LOSSES + 1))
    assert scheduler.store.state.events == [RunEnded(run)]


async def test_a_pause_comes_before_the_next_attempt(scheduler: Scheduler) -> None:
    await scheduler.accepted(run := a_run())
    pauses = []
    for _ in range(3):
        await scheduler.report(batch(ended(scheduler.run(run.id), FAILURE)))
        due = scheduler.run(run.id).due_at
        assert due is not None
        pauses.append((due - LATER).total_seconds())
    assert pauses == [1, 2, 4]


async def test_the_workflows_failure_is_tried_again_only_if_asked(scheduler: Scheduler) -> None:
    await scheduler.accepted(once := a_run(), twice := a_run(retries=1))
    await scheduler.report(batch(ended(once, CRASH), ended(twice, CRASH)))
    assert scheduler.run(once.id).status is Status.FAILED
    again = scheduler.run(twice.id)
    assert (again.status, again.attempt, again.retries, again.losses) == (Status.QUEUED, 2, 0, 0)
    await scheduler.report(batch(ended(again, CRASH)))
    assert (scheduler.run(twice.id).status, scheduler.run(twice.id).code) == (Status.FAILED, "workflow_crashed")


async def test_a_synchronous_run_has_one_attempt(scheduler: Scheduler) -> None:
    await scheduler.accepted(run := a_run(synchronous=True, retries=9))
    await scheduler.report(batch(ended(run, FAILURE)))
    assert scheduler.run(run.id).status is Status.FAILED


async def test_what_is_handed_back_counts_as_no_failure(scheduler: Scheduler) -> None:
    await scheduler.accepted(run := a_run())
    await scheduler.report(batch(replace(ended(run, FAILURE), handed_back=True)))
    after = scheduler.run(run.id)
    assert (after.status, after.attempt, after.losses, after.due_at) == (Status.QUEUED, 2, 0, LATER)


async def test_no_attempt_begins_after_the_deadline(scheduler: Scheduler) -> None:
    await scheduler.accepted(run := a_run(deadline=LATER + timedelta(seconds=1)))
    await scheduler.report(batch(ended(run, FAILURE)))
    assert scheduler.run(run.id).status is Status.FAILED


async def test_what_is_unknown_is_ignored(scheduler: Scheduler) -> None:
    run = a_run()
    assert await scheduler.report(batch(started(run), ended(run))) == [run.id, run.id]
    assert scheduler.store.state.run_rows == {}


async def test_an_older_attempt_doesnt_count(scheduler: Scheduler) -> None:
    run = a_run(attempt=2, epoch=5).started(executor=HOME, incarnation="one", at=START)
    await scheduler.accepted(run)
    stale = [Ended(run.id, 1, 5, DONE), Ended(run.id, 2, 4, DONE)]
    assert await scheduler.report(batch(*stale)) == [run.id, run.id]
    assert scheduler.run(run.id).status is Status.RUNNING


async def test_another_executors_word_doesnt_count(scheduler: Scheduler) -> None:
    run = a_run().started(executor=HOME, incarnation="one", at=START)
    await scheduler.accepted(run)
    assert await scheduler.report(batch(ended(run), executor="unix:b")) == [run.id]
    await scheduler.report(batch(started(run), executor="unix:b"))
    assert scheduler.run(run.id) == run
    assert [(one.executor, one.status) for one in scheduler.stopped] == [("unix:b", Status.CANCELLED)]


async def test_a_run_that_goes_on_although_it_is_over_is_stopped(scheduler: Scheduler) -> None:
    run = a_run().ended(CANCELLED, at=START)
    await scheduler.accepted(run)
    await scheduler.report(batch(started(run)))
    assert scheduler.run(run.id) == run
    assert [(one.id, one.executor, one.status) for one in scheduler.stopped] == [(run.id, HOME, Status.CANCELLED)]


async def test_the_first_end_counts(scheduler: Scheduler) -> None:
    await scheduler.accepted(run := a_run())
    await scheduler.report(batch(ended(run), ended(run, CANCELLED)))
    assert scheduler.run(run.id).status is Status.SUCCEEDED
    assert len(scheduler.store.state.events) == 1


async def test_ended_runs_make_room(scheduler: Scheduler) -> None:
    await scheduler.here()
    executor = next(iter(scheduler.fleet))
    scheduler.fleet.refused(executor, urgent=False, away=False)
    assert scheduler.fleet.choose(urgent=False) is None
    await scheduler.accepted(run := a_run())
    await scheduler.report(batch(ended(run)))
    assert scheduler.fleet.choose(urgent=False) is executor


async def test_a_late_word_of_an_earlier_attempt_doesnt_stop_the_present_one(scheduler: Scheduler) -> None:
    """On the same executor: Stop says only of which run."""
    before = a_run().claimed(HOME, "one", START).started(executor=HOME, incarnation="one", at=START)
    lost = before.attempted(FAILURE, at=START).claimed(HOME, "two", LATER)
    for present in (lost, lost.started(executor=HOME, incarnation="two", at=LATER)):
        scheduler.store.state.run_rows[present.id] = present
        await scheduler.report(batch(started(before)))
        assert scheduler.run(present.id) == present
        assert scheduler.stopped == []
    elsewhere = lost.released().claimed("unix:other", "one", LATER)
    scheduler.store.state.run_rows[elsewhere.id] = elsewhere
    await scheduler.report(batch(started(before)))
    assert [run.executor for run in scheduler.stopped] == [HOME]
