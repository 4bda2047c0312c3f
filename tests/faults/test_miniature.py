"""Leases, claims and attempts among two executors that stand still, are cut off, mute or killed, and a scheduler that
is restarted, on a clock moved by hand: whatever happens, in whatever order.
"""

import asyncio
from collections.abc import Callable, Coroutine
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from scheduler.cancel import PATIENCE_SECONDS
from scheduler.model import CANCELLED, Asker, Outcome, Run, Status
from scheduler.retry import MOST_LOSSES
from tests.fakes.scheduling import START, a_submission, settled
from tests.faults.miniature import DONE, Miniature, quiet

ADDRESSES = st.sampled_from(["unix:a", "unix:b"])
FAILED = Outcome(Status.FAILED, "runtime_error", "we failed")
OUTCOMES = st.sampled_from([
    DONE,
    DONE,
    Outcome(Status.FAILED, "workflow_crashed", "it died"),
    FAILED,
])  # fmt: skip
SECONDS = st.sampled_from([1, 12, 25])
# A cancel's patience, and a tick or two of whoever ends it then.
SOON = timedelta(seconds=PATIENCE_SECONDS + 2)
MOST_RETRIES = 1
MOST_RUNS = 5


class Leases(RuleBasedStateMachine):
    """The whole of it."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.broken: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda _, context: self.broken.append(context))
        self.mesh = self.do(self.begin())
        self.before: dict[str, Run] = {}
        # Runs whose cancel was answered: when, and which attempt of it that found.
        self.cancels: dict[str, tuple[datetime, int]] = {}
        self.restarted_at = START

    async def begin(self) -> Miniature:
        mesh = Miniature()
        await mesh.pass_time(1)
        return mesh

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    @initialize(synchronous=st.integers(0, 2), asynchronous=st.integers(1, 3))
    def begun(self, synchronous: int, asynchronous: int) -> None:
        for number in range(synchronous + asynchronous):
            self.submitted(synchronous=number < synchronous, retries=number % 2)

    @rule(synchronous=st.booleans(), retries=st.integers(0, MOST_RETRIES))
    def submitted(self, synchronous: bool, retries: int) -> None:
        async def submit() -> None:
            await self.mesh.scheduler.submit(a_submission(synchronous=synchronous, retries=retries))
            await settled()

        if len(self.mesh.runs) < MOST_RUNS:
            self.do(submit())

    @rule(seconds=SECONDS)
    def passes(self, seconds: float) -> None:
        self.do(self.mesh.pass_time(seconds))

    @rule(address=ADDRESSES)
    def stopped(self, address: str) -> None:
        self.mesh.executors[address].stopped = True

    @rule(address=ADDRESSES, lease_first=st.booleans())
    def continued(self, address: str, lease_first: bool) -> None:
        if self.mesh.executors[address].stopped:
            self.do(self.mesh.executors[address].wake(lease_first=lease_first))

    @rule(address=ADDRESSES, seconds=SECONDS, lease_first=st.booleans())
    def stands_still(self, address: str, seconds: float, lease_first: bool) -> None:
        self.stopped(address)
        self.passes(seconds)
        self.one_holder()
        self.continued(address, lease_first)

    @rule(address=ADDRESSES, how=st.sampled_from(["cut", "mute", "slow", "keeping"]), seconds=SECONDS)
    def badly_connected(self, address: str, how: str, seconds: float) -> None:
        setattr(self.mesh.executors[address], how, True)
        self.passes(seconds)

    @rule()
    def connected(self) -> None:
        for executor in self.mesh.executors.values():
            executor.cut = executor.mute = executor.slow = executor.keeping = False

    @rule(address=ADDRESSES)
    def killed(self, address: str) -> None:
        self.mesh.crash(address)

    @rule()
    def scheduler_restarted(self) -> None:
        async def restart() -> None:
            self.mesh.restart_scheduler()
            self.restarted_at = self.mesh.now
            await settled()

        self.do(restart())

    @rule(address=ADDRESSES, outcome=OUTCOMES, work=st.booleans())
    def ended(self, address: str, outcome: Outcome, work: bool) -> None:
        """One of its runs, the oldest. It may have done its work, whatever comes of it; without it none succeeds."""
        executor = self.mesh.executors[address]
        if executor.live and not executor.stopped:
            attempt = next(iter(executor.live.values()))
            if work or outcome is DONE:
                executor.work(attempt.run_id)
            executor.end(attempt, outcome)

    @rule(outcome=OUTCOMES)
    def ends_before_its_start_is_answered(self, outcome: Outcome) -> None:
        for executor in self.mesh.executors.values():
            executor.slow = True
        self.submitted(synchronous=False, retries=1)
        for address in self.mesh.executors:
            self.ended(address, outcome, work=True)

    @rule(data=st.data())
    def cancelled(self, data: st.DataObject) -> None:
        if self.mesh.runs:
            self.cancel(data.draw(st.sampled_from(sorted(self.mesh.runs))))

    def cancel(self, run_id: str) -> None:
        self.do(self.mesh.scheduler.cancel(Asker("org_caller"), run_id, CANCELLED))
        self.cancels.setdefault(run_id, (self.mesh.now, self.mesh.runs[run_id].attempt))

    @invariant()
    def one_holder(self) -> None:
        for run in self.mesh.runs.values():
            assert self.mesh.whose_word_counts(run) <= 1, run

    @invariant()
    def nobody_works_on_what_was_given_away(self) -> None:
        """But who stands still: it can't know."""
        for executor in self.mesh.executors.values():
            for attempt in () if executor.stopped else executor.live.values():
                run = self.mesh.runs[attempt.run_id]
                assert run.status.over or (attempt.epoch, attempt.attempt) == (run.epoch, run.attempt), run

    @invariant()
    def only_forward(self) -> None:
        for run in self.mesh.runs.values():
            before = self.before.get(run.id, run)
            assert (run.epoch, run.attempt) >= (before.epoch, before.attempt)
            assert run.attempt >= before.attempt
            assert not before.status.over or (run.status, run.attempt) == (before.status, before.attempt)
            assert run.attempt <= 1 + MOST_LOSSES + MOST_RETRIES
            assert run.attempt == 1 or not run.synchronous
            assert run.status is not Status.CANCELLED or run.id in self.cancels
        self.before = dict(self.mesh.runs)

    @invariant()
    def cancelled_is_over_soon(self) -> None:
        """With the attempt that the cancel found, whatever happens to its executor and its scheduler."""
        for run_id, (at, attempt) in self.cancels.items():
            run = self.mesh.runs[run_id]
            assert run.attempt == attempt, run
            assert run.status.over or self.mesh.now <= max(at, self.restarted_at) + SOON, run

    @invariant()
    def once(self) -> None:
        assert not [key for key, times in self.mesh.effects.items() if times > 1]
        synchronous = [run.id for run in self.mesh.runs.values() if run.synchronous]
        assert all(sum(self.mesh.effects[run_id, n] for n in range(10)) <= 1 for run_id in synchronous)
        for run in self.mesh.runs.values():
            assert run.status is not Status.SUCCEEDED or self.mesh.effects[run.id, run.attempt] == 1

    @invariant()
    def nothing_broke(self) -> None:
        assert self.broken == []

    async def work_all(self) -> None:
        for executor in self.mesh.executors.values():
            for run_id in executor.live:
                executor.work(run_id)

    def teardown(self) -> None:
        """Once everything works again, every run comes to its end."""
        try:
            self.do(self.recovered())
            self.only_forward()
            self.cancelled_is_over_soon()
            self.once()
            assert [run for run in self.mesh.runs.values() if not run.status.over] == []
        finally:
            self.do(quiet(self.mesh))
            self.loop.close()

    async def recovered(self) -> None:
        for executor in self.mesh.executors.values():
            executor.cut = executor.mute = executor.slow = executor.keeping = False
            if executor.stopped:
                await executor.wake(lease_first=True)
        for _ in range(30):
            await self.mesh.pass_time(3)
            for executor in self.mesh.executors.values():
                for attempt in list(executor.live.values()):
                    executor.work(attempt.run_id)
                    executor.end(attempt, DONE)


class Scene(Leases):
    """One of the ways through it, played by hand; the invariants hold after each step."""

    def __init__(self, play: "Callable[[Scene], None]") -> None:
        super().__init__()
        try:
            self.begun(synchronous=0, asynchronous=1)
            self.run = next(iter(self.mesh.runs))
            self.holder = self.mesh.runs[self.run].executor
            play(self)
            self.holds()
        finally:
            self.teardown()

    def holds(self) -> None:
        self.one_holder()
        self.nobody_works_on_what_was_given_away()
        self.only_forward()
        self.cancelled_is_over_soon()
        self.once()
        self.nothing_broke()

    def then(self, seconds: float) -> None:
        self.passes(seconds)
        self.holds()


def stopped_past_its_lease(scene: Scene) -> None:
    scene.stopped(scene.holder)
    scene.then(25)
    assert scene.mesh.runs[scene.run].attempt == 2
    scene.continued(scene.holder, lease_first=False)
    scene.holds()
    scene.then(2)
    assert scene.mesh.runs[scene.run].attempt == 2


def cut_off_past_its_lease(scene: Scene) -> None:
    scene.badly_connected(scene.holder, "cut", 25)
    scene.holds()
    assert scene.mesh.runs[scene.run].attempt == 2


def reports_again_what_was_taken(scene: Scene) -> None:
    scene.then(1)
    scene.mesh.executors[scene.holder].mute = True
    scene.ended(scene.holder, FAILED, work=True)
    scene.then(1)
    scene.then(12)
    assert scene.mesh.runs[scene.run].attempt == 2


def answers_are_lost(scene: Scene) -> str:
    """A run is started, and nobody hears of it; where it is."""
    for executor in scene.mesh.executors.values():
        executor.mute = True
    before = set(scene.mesh.runs)
    scene.submitted(synchronous=True, retries=0)
    (run_id,) = set(scene.mesh.runs) - before
    return str(scene.mesh.runs[run_id].executor)


def started_again_since_its_answer_was_lost(scene: Scene) -> None:
    executor = scene.mesh.executors[answers_are_lost(scene)]
    executor.facts.clear()  # its first report is slow
    scene.do(scene.work_all())
    for _ in range(8):
        scene.then(2)  # 15 s after the first Start comes the next one
        scene.do(scene.work_all())
    assert len(executor.live) >= 1


def cut_off_when_it_is_to_be_started_again(scene: Scene) -> None:
    """It has it, and works on it as long as its lease holds."""
    scene.mesh.executors[answers_are_lost(scene)].cut = True
    for _ in range(10):
        scene.then(2)


def killed_while_the_scheduler_is_restarted(scene: Scene) -> None:
    """It had done its work; the new scheduler doesn't know yet that it is gone."""
    address = answers_are_lost(scene)
    scene.do(scene.work_all())
    scene.mesh.executors[address].cut = True
    scene.then(1)
    scene.killed(address)
    scene.scheduler_restarted()
    for _ in range(3):
        scene.then(1)
        scene.do(scene.work_all())


def cancelled_while_its_failure_is_concluded(scene: Scene) -> None:
    scene.then(1)
    scene.ended(scene.holder, FAILED, work=True)
    scene.cancel(scene.run)
    scene.then(1)
    assert scene.mesh.runs[scene.run].status is Status.CANCELLED


def cancelled_before_its_executor_dies(scene: Scene) -> None:
    scene.then(1)
    scene.cancel(scene.run)
    scene.killed(scene.holder)
    scene.then(2)
    assert scene.mesh.runs[scene.run].status is Status.CANCELLED


def cancelled_before_its_scheduler_is_restarted(scene: Scene) -> None:
    """And its executor takes its time: a minute later it says that it has ended."""
    scene.then(1)
    scene.mesh.executors[scene.holder].keeping = True
    scene.cancel(scene.run)
    scene.scheduler_restarted()
    scene.then(12)
    assert scene.mesh.runs[scene.run].status is Status.CANCELLED
    scene.then(48)


def succeeds_while_it_is_cancelled(scene: Scene) -> None:
    """How an attempt has ended is its executor's word."""
    scene.then(1)
    scene.ended(scene.holder, DONE, work=True)
    scene.cancel(scene.run)
    scene.then(1)
    assert scene.mesh.runs[scene.run].status is Status.SUCCEEDED


@pytest.mark.parametrize(
    "play",
    [
        stopped_past_its_lease,
        cut_off_past_its_lease,
        reports_again_what_was_taken,
        started_again_since_its_answer_was_lost,
        cut_off_when_it_is_to_be_started_again,
        killed_while_the_scheduler_is_restarted,
        cancelled_while_its_failure_is_concluded,
        cancelled_before_its_executor_dies,
        cancelled_before_its_scheduler_is_restarted,
        succeeds_while_it_is_cancelled,
    ],
)
def test_scenes(play: "Callable[[Scene], None]") -> None:
    Scene(play)


TestLeases = Leases.TestCase
TestLeases.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
