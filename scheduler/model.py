"""Runs: their nouns, and the rules by which they move. Standard library only."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from kit.errors import NotFound
from scheduler.billing import UNBILLED, Billing
from scheduler.result import NOTHING, Answer, Earlier, Result
from scheduler.retry import FINAL, MOST_LOSSES, OURS, pause
from scheduler.usage import Usage

INLINE_BYTES = 64 * 1024
PROVISION_LIFE = timedelta(hours=1)
IDEMPOTENCY_LIFE = timedelta(hours=24)


class Status(enum.IntEnum):
    """Where a run stands; the numbers are those of mesh.runs.v1.RunStatus."""

    PROVISIONED = 1
    QUEUED = 2
    RUNNING = 3
    SUCCEEDED = 4
    FAILED = 5
    TIMED_OUT = 6
    CANCELLED = 7
    DEAD = 8

    @property
    def over(self) -> bool:
        """An end: nothing changes any more."""
        return self >= Status.SUCCEEDED


class Trigger(enum.IntEnum):
    """What started a run; the numbers are those of mesh.runs.v1.Trigger."""

    API = 1
    NESTED = 2
    SCHEDULE = 3
    HOOK = 4
    REPLAY = 5


@dataclass(frozen=True)
class Outcome:
    """How a run ended. `code` is one of SPEC §2, empty when the workflow itself answered to the end."""

    status: Status
    code: str = ""
    detail: str = ""
    log_tail: tuple[str, ...] = ()


CANCELLED = Outcome(Status.CANCELLED, "cancelled", "the run was cancelled")
TIMED_OUT = Outcome(Status.TIMED_OUT, "timeout", "the run passed its time limit (it counts from when it was accepted)")
STARVED = Outcome(
    Status.TIMED_OUT,
    "timeout",
    "the run's time (it counts from when it was accepted) was up while it waited to start",
)
LOST = Outcome(Status.FAILED, "runtime_error", "the executor was lost")


@dataclass(frozen=True)
class Input:
    """What a run is given. `request` is a serialized mesh.runs.v1.RequestHead, opaque here."""

    request: bytes
    body: bytes = b""
    # SHA-256 (hex) of a body over 64 KiB, which the filestore keeps.
    body_digest: str = ""


@dataclass(frozen=True)
class Run:
    """One run, as its row says."""

    id: str
    # Whose workflow it is, who called it and pays, whose secrets it sees, and who asked for it.
    owner_id: str
    caller_id: str
    acting_id: str
    requester_id: str
    service_id: str
    version_id: str
    status: Status
    created_at: datetime
    deadline: datetime
    trigger: Trigger = Trigger.API
    correlation_id: str = ""
    parent_id: str = ""
    root_id: str = ""
    depth: int = 0
    traceparent: str = ""
    trace_id: str = ""
    attempt: int = 1
    epoch: int = 0
    key_id: str = ""
    synchronous: bool = False
    # The provisioned id that it was submitted with: its own for the first run, another one's for later ones.
    provision_id: str = ""
    one_time_key_id: str = ""
    # Within its caller's queue; the lower, the sooner.
    priority: int = 0
    # Since when it may start: its creation, or the end of the pause before another attempt. None: its creation.
    due_at: datetime | None = None
    # Since when it is given to `executor` without having been reported as started; of queued runs only.
    claimed_at: datetime | None = None
    # Since when it shall be over, and how, though its executor has yet to say so: no attempt follows the present one.
    cancelled_at: datetime | None = None
    cancelled_as: Outcome | None = None
    # How often a failure of the workflow may still be tried again, and how many attempts were lost to us.
    retries: int = 0
    losses: int = 0
    earlier: tuple[Earlier, ...] = ()
    # What its key may do, as far as the code that has run since is its organization's own (mesh.runs.v1.RunSpec).
    may_deploy: bool = False
    billing: Billing = UNBILLED
    # Gets the record when it is over (delivery.py); empty: nobody does.
    callback_url: str = ""
    # What it was charged itself, in all attempts; micro-credits.
    cost_own: int = 0
    # Its end says whether its tree is charged, and its answer was no success.
    refused: bool = False
    started_at: datetime | None = None
    completed_at: datetime | None = None
    code: str = ""
    detail: str = ""
    log_tail: tuple[str, ...] = ()
    executor: str = ""
    # Of the executor's process; empty until it is known.
    incarnation: str = ""
    log_digest: str = ""
    egress_digest: str = ""
    # The run whose input it has once more; the recording that answers it in place of the internet, empty for that
    # itself; whether it is to be recorded, and the recording (digests in the filestore).
    replay_of: str = ""
    offline_digest: str = ""
    record: bool = False
    recording_digest: str = ""
    # SHA-256 (hex) of the bodies of request and answer; empty where there was none.
    input_sha256: str = ""
    output_sha256: str = ""
    # Of a run that is over; None where nothing was measured: it never ran, or its executor was lost.
    usage: Usage | None = None
    answer: Answer | None = field(default=None, compare=False)

    @property
    def urgent(self) -> bool:
        """A run waits for it: it goes first, and needs no place of its own (SPEC §3)."""
        return self.depth > 0 and self.synchronous

    @property
    def decides(self) -> bool:
        """Its end says whether its tree is charged."""
        return self.billing.charged_on_success and self.root_id in {"", self.id}

    @property
    def pays(self) -> bool:
        """Whether its tree is charged, of one that decides and is over."""
        stopped = self.code == "payment_required"  # what was used until its budget or the credit ended is charged
        return (self.status is Status.SUCCEEDED and not self.refused) or stopped

    @property
    def placed(self) -> bool:
        """An executor has it, or is about to."""
        return self.status is Status.RUNNING or (self.status is Status.QUEUED and self.claimed_at is not None)

    def claimed(self, executor: str, incarnation: str, at: datetime) -> "Run":
        """Queued, and given to an executor: nobody else's word about it counts any more."""
        assert self.status is Status.QUEUED
        return replace(self, executor=executor, incarnation=incarnation, claimed_at=at, epoch=self.epoch + 1)

    def released(self) -> "Run":
        """Queued again, since its executor didn't take it; the same object when it has gone on meanwhile."""
        if not self.placed or self.status is Status.RUNNING:
            return self
        return replace(self, executor="", incarnation="", claimed_at=None)

    def started(self, *, executor: str, incarnation: str, at: datetime) -> "Run":
        """Under way on `executor`; the same object where that is no news."""
        if self.status is not Status.QUEUED:
            return self
        return replace(
            self, status=Status.RUNNING, executor=executor, incarnation=incarnation, started_at=at, claimed_at=None
        )

    def ended(self, outcome: Outcome, *, at: datetime, result: Result = NOTHING) -> "Run":
        """At its end; the same object when it is over already."""
        if self.status.over:
            return self
        ended = replace(
            self,
            refused=self.decides and result.refused,
            status=outcome.status,
            code=outcome.code,
            detail=outcome.detail,
            log_tail=outcome.log_tail,
            completed_at=at,
            claimed_at=None,
            answer=result.answer,
            log_digest=result.log_digest,
            egress_digest=result.egress_digest,
            recording_digest=result.recording_digest,
            input_sha256=result.input_sha256,
            output_sha256=result.output_sha256,
            usage=result.usage.plus(self.usage) if result.usage else self.usage,
        )
        return replace(ended, cost_own=0) if self.decides and not ended.pays else ended

    def cancelled(self, outcome: Outcome, *, at: datetime) -> "Run":
        """Over if it waits. Under way its executor has the last word, but only about the present attempt; the first
        wish counts. The same object where that is no news.
        """
        if self.status is Status.QUEUED:
            return self.ended(outcome, at=at)
        if self.status.over or self.cancelled_at is not None:
            return self
        return replace(self, cancelled_at=at, cancelled_as=outcome)

    def attempted(
        self, outcome: Outcome, *, at: datetime, result: Result = NOTHING, handed_back: bool = False
    ) -> "Run":
        """After an attempt that ended so: over, or queued for another one. A synchronous run has but one attempt: its
        caller's request was given to user code. The same object when it is over already.
        """
        may_follow = outcome.status is Status.FAILED and (handed_back or outcome.code in OURS or self.retries)
        if self.cancelled_as is not None and may_follow:
            outcome, result = replace(self.cancelled_as, log_tail=outcome.log_tail), replace(result, answer=None)
        if self.synchronous or outcome.status is not Status.FAILED or self.status.over:
            return self.ended(outcome, at=at, result=result)
        if handed_back:
            return self._again(outcome, at, result, at)
        if outcome.code in OURS:
            if self.losses < MOST_LOSSES:
                return self._again(outcome, at, result, at + pause(self.losses + 1), losses=self.losses + 1)
            detail = f"given up after {self.attempt} attempts; the last one: {outcome.detail}"
            return self.ended(replace(outcome, status=Status.DEAD, detail=detail), at=at, result=result)
        if self.retries and outcome.code not in FINAL:
            tried = self.attempt - self.losses
            return self._again(outcome, at, result, at + pause(tried), retries=self.retries - 1)
        return self.ended(outcome, at=at, result=result)

    def _again(
        self,
        outcome: Outcome,
        at: datetime,
        result: Result,
        due_at: datetime,
        *,
        losses: int | None = None,
        retries: int | None = None,
    ) -> "Run":
        if due_at >= self.deadline:
            return self.ended(outcome, at=at, result=result)
        told, its = outcome.detail[:500], (result.log_digest, result.egress_digest)
        return replace(
            self,
            status=Status.QUEUED,
            executor="",
            incarnation="",
            claimed_at=None,
            started_at=None,
            attempt=self.attempt + 1,
            due_at=due_at,
            losses=self.losses if losses is None else losses,
            retries=self.retries if retries is None else retries,
            usage=result.usage.plus(self.usage) if result.usage else self.usage,
            earlier=(*self.earlier, Earlier(self.attempt, self.executor, outcome.code, told, *its)),
        )

    def elsewhere(self, executor: str, incarnation: str) -> bool:
        """Given to another life of an executor than this one, whose word then doesn't count."""
        return bool(self.executor) and (self.executor, self.incarnation) != (executor, incarnation)

    def supersedes(self, other: "Run | None") -> bool:
        """News to somebody who has seen `other`: a later run of the same provisioned id, or a later state."""
        if other is None:
            return True
        if self.id != other.id:
            return (self.created_at, self.id) > (other.created_at, other.id)
        return (self.status.over, self.attempt, self.status) > (other.status.over, other.attempt, other.status)


@dataclass(frozen=True)
class Provision:
    """An id made before its run. It lives for an hour until it is used, then as long as its runs are kept."""

    id: str
    organization_id: str
    key_id: str
    created_at: datetime
    used_at: datetime | None = None
    cancelled_at: datetime | None = None

    def expired(self, now: datetime) -> bool:
        return self.used_at is None and now >= self.created_at + PROVISION_LIFE

    def usable_by(self, organizations: frozenset[str], now: datetime) -> bool:
        return self.organization_id in organizations and self.cancelled_at is None and not self.expired(now)

    def use(self, fresh_id: str, now: datetime) -> tuple[str, "Provision"]:
        """The id of the next run under it (its own for the first one), and itself afterwards."""
        return (self.id if self.used_at is None else fresh_id), replace(self, used_at=now)


@dataclass(frozen=True)
class Idempotent:
    """A run that was asked for with an Idempotency-Key. `fingerprint`: of all that makes two requests equal."""

    organization_id: str
    key: str
    fingerprint: str
    run_id: str
    created_at: datetime


@dataclass(frozen=True)
class Queued:
    """A run that waits, with all that an executor needs to start it."""

    run: Run
    input: Input


@dataclass(frozen=True)
class Asker:
    """Who wants to see or stop a run."""

    organization_id: str
    # Set for a one-time key: it sees the one run that it started, and the ids that it provisioned.
    one_time_key_id: str = ""
    # An id means the run of that id only, not the newest one that it was provisioned for.
    exact: bool = False

    def sees(self, run: Run) -> bool:
        if self.organization_id not in {run.caller_id, run.acting_id, run.requester_id}:
            return False
        return not self.one_time_key_id or run.one_time_key_id == self.one_time_key_id

    def gave(self, run: Run) -> bool:
        """Whether the run's input is its own: it asked for it, or pays."""
        return self.organization_id in {run.caller_id, run.requester_id} and self.sees(run)

    def sees_provision(self, provision: Provision, now: datetime) -> bool:
        """As long as nothing runs under it."""
        if not provision.usable_by(frozenset({self.organization_id}), now):
            return False
        return not self.one_time_key_id or provision.key_id == self.one_time_key_id


@dataclass(frozen=True)
class History:
    """A page of an organization's runs. Empty `service_id` and `trace_id`, None: all; `after`: the id of the run before
    it.
    """

    organization_id: str
    service_id: str = ""
    status: Status | None = None
    limit: int = 100
    after: str = ""
    trace_id: str = ""


@dataclass(frozen=True)
class RunQueued:
    """Event: a run was accepted on the durable way in."""

    run_id: str


@dataclass(frozen=True)
class RunEnded:
    """Event: a run is over."""

    run: Run


@dataclass(frozen=True)
class WorkflowChanged:
    """Event: what a name stands for is no longer what it was."""

    organization_id: str
    service_id: str


Event = RunQueued | RunEnded | WorkflowChanged
Runs = Mapping[str, Run]


def unknown_run() -> NotFound:
    """Alike for unknown, expired and somebody else's."""
    return NotFound("no such request: check the id, and that the key belongs to the organization that made it")
