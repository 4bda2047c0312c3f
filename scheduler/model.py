"""Runs: their nouns, and the rules by which they move. Standard library only."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from kit.errors import NotFound

INLINE_BYTES = 64 * 1024
PROVISION_LIFE = timedelta(hours=1)


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
TIMED_OUT = Outcome(Status.TIMED_OUT, "timeout", "the run passed its time limit")
STARVED = Outcome(Status.TIMED_OUT, "timeout", "the run's time was up before an executor had room for it")
LOST = Outcome(Status.FAILED, "runtime_error", "the executor was lost")


@dataclass(frozen=True)
class Input:
    """What a run is given. `request` is a serialized mesh.runs.v1.RequestHead, opaque here."""

    request: bytes
    body: bytes = b""
    # SHA-256 (hex) of a body over 64 KiB, which the filestore keeps.
    body_digest: str = ""


@dataclass(frozen=True)
class Answer:
    """What is kept of an answer. `head` is a serialized mesh.runs.v1.AnswerHead, opaque here; `size` in bytes."""

    head: bytes
    content: bytes = b""
    digest: str = ""
    size: int = 0


@dataclass(frozen=True)
class Usage:
    """What a run used, nested calls not included: seconds of a processor, seconds of its sandbox's life, the most bytes
    of memory at once, bytes sent and received on its way to the internet.
    """

    cpu_seconds: float = 0
    wall_seconds: float = 0
    memory_peak_bytes: int = 0
    egress_bytes: int = 0


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
    # Gets the record when it is over (delivery.py); empty: nobody does.
    callback_url: str = ""
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
    # Of a run that is over; None where nothing was measured: it never ran, or its executor was lost.
    usage: Usage | None = None
    answer: Answer | None = field(default=None, compare=False)

    def started(self, *, executor: str, incarnation: str, at: datetime) -> "Run":
        """Under way on `executor`; the same object where that is no news or no longer true."""
        if self.status is Status.QUEUED:
            return replace(self, status=Status.RUNNING, executor=executor, incarnation=incarnation, started_at=at)
        news = incarnation and incarnation != self.incarnation
        if self.status is Status.RUNNING and news and self.executor == executor:
            return replace(self, incarnation=incarnation)
        return self

    def ended(
        self,
        outcome: Outcome,
        *,
        at: datetime,
        answer: Answer | None = None,
        log_digest: str = "",
        usage: Usage | None = None,
        egress_digest: str = "",
    ) -> "Run":
        """At its end; the same object when it is over already."""
        if self.status.over:
            return self
        return replace(
            self,
            status=outcome.status,
            code=outcome.code,
            detail=outcome.detail,
            log_tail=outcome.log_tail,
            completed_at=at,
            answer=answer,
            log_digest=log_digest,
            egress_digest=egress_digest,
            usage=usage,
        )

    def elsewhere(self, executor: str) -> bool:
        """Given to another executor than this one, whose word then doesn't count."""
        return bool(self.executor) and self.executor != executor

    def supersedes(self, other: "Run | None") -> bool:
        """News to somebody who has seen `other`: a later run of the same provisioned id, or a later state."""
        if other is None:
            return True
        if self.id != other.id:
            return (self.created_at, self.id) > (other.created_at, other.id)
        return self.status > other.status


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

    def sees_provision(self, provision: Provision, now: datetime) -> bool:
        """As long as nothing runs under it."""
        if not provision.usable_by(frozenset({self.organization_id}), now):
            return False
        return not self.one_time_key_id or provision.key_id == self.one_time_key_id


@dataclass(frozen=True)
class History:
    """A page of an organization's runs. Empty `service_id`, None: all; `after`: the id of the run before it."""

    organization_id: str
    service_id: str = ""
    status: Status | None = None
    limit: int = 100
    after: str = ""


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
