"""With a protection switched off, what judges by it fails: fencing, the leases' time, unique keys, the executor's
memory. What `synchronous=FULL` is for is in test_durability.py.
"""

from collections.abc import Callable, Collection
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

import executor.lease
import scheduler.dispatch
import scheduler.report
import scheduler.submit
from kit.clock import SystemClock
from kit.db import Database, open_db
from kit.errors import Unauthenticated
from migrations.__main__ import upgrade
from scheduler.bill import Bill
from scheduler.dispatch import Dispatch
from scheduler.fleet import Fleet
from scheduler.model import Outcome, Run
from scheduler.report import Batch, Ended, Started
from scheduler.shares import Shares
from scheduler.store.database import Store, open_store
from scheduler.submit import Submission, Submit
from tests.fakes.scheduling import VERSION, WORKFLOW, FakeExecutors, a_submission
from tests.faults.miniature import Executor
from tests.faults.promise import DURABLE, Effect, History, Record, Request, Told, violations
from tests.faults.test_life import Life
from tests.faults.test_miniature import (
    Scene,
    cancelled_before_its_executor_dies,
    cancelled_before_its_scheduler_is_restarted,
    cancelled_while_its_failure_is_concluded,
    cut_off_past_its_lease,
    cut_off_when_it_is_to_be_started_again,
    killed_while_the_scheduler_is_restarted,
    reports_again_what_was_taken,
    started_again_since_its_answer_was_lost,
    stopped_past_its_lease,
)

pytestmark = pytest.mark.timeout(120)
SEARCH = settings(max_examples=300, stateful_step_count=25, deadline=None, phases=[Phase.generate], derandomize=True)


def nothing_is_outdated(_run: Run, _said: Started | Ended, _batch: Batch) -> bool:
    return False


def only_lives_are_compared(run: Run, _said: Started | Ended, batch: Batch) -> bool:
    return run.elsewhere(batch.executor, batch.incarnation)


def only_epochs_are_compared(run: Run, said: Started | Ended, _batch: Batch) -> bool:
    return said.epoch < run.epoch


def fails(play: Callable[[Scene], None]) -> None:
    with pytest.raises(AssertionError):
        Scene(play)


@pytest.mark.parametrize(
    ("check", "play"),
    [
        (nothing_is_outdated, stopped_past_its_lease),
        (nothing_is_outdated, reports_again_what_was_taken),
        (only_lives_are_compared, reports_again_what_was_taken),
    ],
)
def test_without_fencing(monkeypatch: pytest.MonkeyPatch, check: Any, play: Callable[[Scene], None]) -> None:
    monkeypatch.setattr(scheduler.report, "_outdated", check)
    fails(play)


@pytest.mark.parametrize("check", [nothing_is_outdated, only_lives_are_compared, only_epochs_are_compared])
def test_the_machine_of_a_runs_life_finds_that_fencing_is_missing(monkeypatch: pytest.MonkeyPatch, check: Any) -> None:
    monkeypatch.setattr(scheduler.report, "_outdated", check)
    with pytest.raises(AssertionError):
        run_state_machine_as_test(Life, settings=SEARCH)


def everybody_pays(after: Run, bill: Bill, *_: Any, **__: Any) -> tuple[Run, Bill]:
    return replace(after, cost_own=after.cost_own + bill.charge), bill


def not_written_down(after: Run, bill: Bill, *_: Any, **__: Any) -> tuple[Run, Bill]:
    return after, bill


@pytest.mark.parametrize("charged", [everybody_pays, not_written_down])
def test_the_machine_of_a_runs_life_finds_a_wrong_charge(monkeypatch: pytest.MonkeyPatch, charged: Any) -> None:
    monkeypatch.setattr(scheduler.report, "charged", charged)
    with pytest.raises(AssertionError):
        run_state_machine_as_test(Life, settings=SEARCH)


def test_it_finds_that_what_is_refused_is_charged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Bill, "free", lambda bill: bill)
    with pytest.raises(AssertionError):
        run_state_machine_as_test(Life, settings=SEARCH)


def test_with_an_executor_that_relies_on_its_lease_for_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor.lease, "RELIED_ON", 10.0)
    fails(cut_off_past_its_lease)


@pytest.mark.parametrize("play", [cut_off_when_it_is_to_be_started_again, killed_while_the_scheduler_is_restarted])
def test_with_a_scheduler_that_takes_silence_for_a_refusal(
    monkeypatch: pytest.MonkeyPatch, play: Callable[[Scene], None]
) -> None:
    refused = scheduler.dispatch._refused
    monkeypatch.setattr(scheduler.dispatch, "_refused", lambda problem, **_: refused(problem, again=False))
    fails(play)


def test_with_an_executor_that_starts_whatever_it_is_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    def take_on(self: Executor, _incarnation: str, queued: Any) -> None:
        self.started.clear()
        self.live.pop(queued.run.id, None)
        _take_on(self, self.lease.incarnation, queued)

    _take_on = Executor.take_on
    monkeypatch.setattr(Executor, "take_on", take_on)
    fails(started_again_since_its_answer_was_lost)


def only_asked(run: Run, _outcome: Outcome, *, at: datetime) -> Run:  # as Run.cancelled is called
    """Nothing is written down about runs that are under way."""
    return run


@pytest.mark.parametrize(
    "play",
    [
        cancelled_while_its_failure_is_concluded,
        cancelled_before_its_executor_dies,
        cancelled_before_its_scheduler_is_restarted,
    ],
)
def test_with_a_cancel_that_only_asks_the_executor(
    monkeypatch: pytest.MonkeyPatch, play: Callable[[Scene], None]
) -> None:
    monkeypatch.setattr(Run, "cancelled", only_asked)
    fails(play)


class Keys:
    """Submit over a real store."""

    def __init__(self, db: Database, store: Store) -> None:
        clock = SystemClock()
        self.db = db
        dispatch = Dispatch(store, Fleet(clock), Shares(100), FakeExecutors(), lambda _: None, clock)
        self.submit = Submit(store, dispatch, clock)

    async def asked_twice(self, submission: Submission) -> list[str]:
        """What the model says when both runs did their work."""
        runs = [(await self.submit(submission))[0].id for _ in range(2)]
        history = History([Request("token", DURABLE, [Told(200, run_id) for run_id in runs])])
        history.records = {run_id: Record(run_id, "succeeded", usage="{}") for run_id in runs}
        history.effects = [Effect("token", run_id, 1) for run_id in set(runs)]
        return violations(history)


async def unchecked(_tx: Any, _key: str) -> None:
    """In the place of `_check_unused`."""


async def never_asked(_self: Submit, _tx: Any, _submission: Submission, _now: Any) -> None:
    """In the place of `_asked_before`."""


async def with_keys(path: Path, work: Any) -> Any:
    """`work(keys)`, on a database of its own."""
    url = f"sqlite+aiosqlite:///{path / 'scheduler.db'}"
    async with open_db(url) as db, open_store(db) as store:
        await store.write(lambda tx: tx.insert_workflow(WORKFLOW))
        await store.write(lambda tx: tx.insert_version(VERSION))
        return await work(Keys(db, store))


ONE_TIME = a_submission(one_time_key_id="key_1")
IDEMPOTENT = a_submission(idempotency_key="key", fingerprint="f")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    upgrade("scheduler", f"sqlite+aiosqlite:///{tmp_path / 'scheduler.db'}")
    return tmp_path


async def test_a_key_starts_one_run(place: Path) -> None:
    async def work(keys: Keys) -> None:
        assert await keys.asked_twice(IDEMPOTENT) == []
        with pytest.raises(Unauthenticated):
            await keys.asked_twice(ONE_TIME)

    await with_keys(place, work)


async def test_without_the_look_before_the_index_holds(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler.submit, "_check_unused", unchecked)

    async def work(keys: Keys) -> None:
        with pytest.raises(IntegrityError):
            await keys.asked_twice(ONE_TIME)

    await with_keys(place, work)


async def test_without_the_index_too_a_one_time_key_starts_two(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler.submit, "_check_unused", unchecked)

    async def work(keys: Keys) -> list[str]:
        async with keys.db.write() as tx:
            await tx.execute(text("DROP INDEX runs_one_time"))
        return await keys.asked_twice(ONE_TIME)

    assert words(await with_keys(place, work)) == {"twice", "not one run"}


async def test_without_the_look_an_idempotency_key_starts_two(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Submit, "_asked_before", never_asked)

    async def work(keys: Keys) -> list[str]:
        return await keys.asked_twice(IDEMPOTENT)

    assert words(await with_keys(place, work)) == {"twice", "not one run"}


def words(sentences: Collection[str]) -> set[str]:
    return {sentence.split(":")[0] for sentence in sentences}
