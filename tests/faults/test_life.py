"""A run's life as a state machine: claims, releases, reports of several lives of executors, early, late, repeated."""

from dataclasses import dataclass
from datetime import timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)

from scheduler.bill import Bill
from scheduler.model import CANCELLED, LOST, TIMED_OUT, Outcome, Run, Status
from scheduler.report import Batch, Ended, Started, take
from scheduler.retry import MOST_LOSSES, OURS
from tests.fakes.scheduling import START, a_run

LIVES = st.sampled_from([("unix:a", "inc_1"), ("unix:a", "inc_2"), ("unix:b", "inc_1")])
OUTCOMES = st.sampled_from([
    Outcome(Status.SUCCEEDED),
    Outcome(Status.FAILED),
    Outcome(Status.FAILED, "workflow_crashed", "it died"),
    Outcome(Status.FAILED, "runtime_error", "we failed"),
    Outcome(Status.FAILED, "unavailable", "no process can be had"),
    CANCELLED,
    TIMED_OUT,
])  # fmt: skip
MOST_RETRIES = 2
COST = 7


@dataclass(frozen=True)
class Claim:
    """An attempt that was given to a life of an executor, as that one knows it."""

    life: tuple[str, str]
    attempt: int
    epoch: int


class Life(RuleBasedStateMachine):
    """One run; the scheduler's rules move it, several executors talk about it."""

    claims: Bundle[Claim] = Bundle("claims")

    @initialize(synchronous=st.booleans(), retries=st.integers(0, MOST_RETRIES))
    def born(self, synchronous: bool, retries: int) -> None:
        far = START + timedelta(days=1)
        self.run: Run = a_run(synchronous=synchronous, retries=0 if synchronous else retries, deadline=far)
        self.now = START
        self.before = self.run
        # How often whose word moved it, by what was said: each says each thing once.
        self.heard: list[tuple[Claim, str]] = []
        self.held_back = 0
        # What stands in the scheduler's table of bills, of which the first one stays; attempts by what nobody pays for.
        self.bills: dict[tuple[int, str], int] = {}
        self.ours: set[int] = set()

    @rule(target=claims, life=LIVES)
    def claimed(self, life: tuple[str, str]) -> "Claim | MultipleResults[Claim]":
        if self.run.status is not Status.QUEUED or self.run.placed:
            return multiple()
        self.run = self.run.claimed(*life, self.now)
        return Claim(life, self.run.attempt, self.run.epoch)

    @rule(claim=consumes(claims))
    def refused(self, claim: Claim) -> None:
        """The executor said no: it will never have it under this epoch."""
        if self.run.epoch == claim.epoch:
            self.run = self.run.released()

    @rule(claim=claims)
    def started(self, claim: Claim) -> None:
        self.report(claim, Started(self.run.id, self.now, claim.attempt, claim.epoch))

    @rule(claim=claims, outcome=OUTCOMES, handed_back=st.booleans())
    def ended(self, claim: Claim, outcome: Outcome, handed_back: bool) -> None:
        """With its bill: a life of an executor has one purse for the run."""
        bill = Bill(self.run.id, claim.attempt, f"prs_{claim.life}", self.run.id, COST, b"")
        end = (self.run.id, claim.attempt, claim.epoch, outcome, self.now)
        self.report(claim, Ended(*end, handed_back=handed_back, bill=bill))

    def report(self, claim: Claim, said: Started | Ended) -> None:
        started, ended = ([said], []) if isinstance(said, Started) else ([], [said])
        counts = (self.run.executor, self.run.incarnation) == claim.life and self.run.epoch == claim.epoch
        live = counts and self.run.attempt == claim.attempt and not self.run.status.over
        for _ in range(2):  # the second time it is no news
            before = self.run
            taken = take(Batch(*claim.life, started, ended), {self.run.id: self.run}, self.now)
            self.run = taken.moved.get(self.run.id, self.run)
            for bill in taken.bills:
                self.bills.setdefault((bill.attempt, bill.purse_id), bill.charge)
            assert live or self.run is before, (claim, said)
            if self.run is not before and isinstance(said, Ended):
                self.heard.append((claim, "ended"))
                self.held_back += said.handed_back
                if said.handed_back or said.outcome.code in OURS:
                    self.ours.add(said.attempt)
                live = False

    @rule()
    def lost(self) -> None:
        """Its executor's life is over."""
        if self.run.placed:
            self.run = self.run.attempted(LOST, at=self.now)

    @rule(outcome=st.sampled_from([CANCELLED, TIMED_OUT]))
    def ended_from_here(self, outcome: Outcome) -> None:
        self.run = self.run.ended(outcome, at=self.now)

    @rule(outcome=st.sampled_from([CANCELLED, TIMED_OUT]))
    def cancelled(self, outcome: Outcome) -> None:
        if self.run.status is Status.RUNNING:
            self.run = self.run.cancelled(outcome, at=self.now)

    @rule(seconds=st.integers(1, 100))
    def passes(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @invariant()
    def only_forward(self) -> None:
        before, self.before = self.before, self.run
        assert self.run.epoch >= before.epoch
        assert self.run.attempt >= before.attempt
        assert not before.status.over or self.run is before
        assert before.cancelled_as in {None, self.run.cancelled_as}
        assert before.cancelled_as is None or self.run.attempt == before.attempt
        assert (self.run.completed_at is not None) == self.run.status.over

    @invariant()
    def bounded(self) -> None:
        assert self.run.attempt <= 1 + MOST_LOSSES + MOST_RETRIES + self.held_back
        assert self.run.attempt == 1 or not self.run.synchronous
        assert len(self.run.earlier) == self.run.attempt - 1
        assert self.run.status is not Status.DEAD or self.run.losses == MOST_LOSSES

    @invariant()
    def each_attempt_is_charged_once(self) -> None:
        charged = [attempt for (attempt, _), charge in self.bills.items() if charge]
        assert len(set(charged)) == len(charged)
        assert not self.ours & set(charged)
        assert self.run.cost_own == sum(self.bills.values())

    @invariant()
    def each_word_counts_once(self) -> None:
        assert len(set(self.heard)) == len(self.heard)


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
