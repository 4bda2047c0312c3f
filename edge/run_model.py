"""The nouns of a run as the edge sees them: what is to run, what comes back, what is recorded."""

import enum
import random
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from edge.model import Budget

# Bodies and answers up to this size travel inside messages, larger ones by digest through the filestore.
INLINE_BYTES = 64 * 1024
MAX_DEPTH = 16

Headers = tuple[tuple[str, str], ...]


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

    @property
    def text(self) -> str:
        """As records and queries spell it."""
        return self.name.lower()


class Trigger(enum.IntEnum):
    """What started a run; the numbers are those of mesh.runs.v1.Trigger."""

    API = 1
    NESTED = 2
    SCHEDULE = 3
    HOOK = 4
    REPLAY = 5

    @property
    def text(self) -> str:
        return self.name.lower()


@dataclass(frozen=True)
class Limits:
    """What a workflow's callers meet at the edge."""

    sync_timeout: timedelta = timedelta(seconds=120)
    async_timeout: timedelta = timedelta(minutes=30)
    request_bytes: int = 10 * 1024 * 1024
    # Of an asynchronous run that the workflow fails.
    retries: int = 0
    # Of a run under /api/v1.
    api_timeout: timedelta = timedelta(seconds=300)
    # Calls of it, by everybody; 0: not limited.
    calls_per_second: int = 0
    api_calls_per_minute: int = 0


@dataclass(frozen=True)
class Target:
    """The version that a reference stands for. `visibility` is private, public or template; `variables` are those of a
    prompt, None where it is none.
    """

    owner_id: str
    service_id: str
    version_id: str
    visibility: str = "private"
    limits: Limits = field(default_factory=Limits)
    workflow_id: str = ""
    # Whether /api/v1 runs it.
    published: bool = False
    variables: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Resolved:
    """What a reference stands for: targets, and how often each of them is to be called in a hundred calls."""

    shares: tuple[tuple[Target, int], ...]

    def draw(self) -> Target:
        """For one call."""
        if len(self.shares) == 1:
            return self.shares[0][0]
        percents = [percent for _, percent in self.shares]
        ((target, _),) = random.choices(self.shares, percents)  # noqa: S311  # no secret
        return target


@dataclass(frozen=True)
class VersionOf:
    """A version's place: the how manieth of which workflow."""

    workflow_id: str
    number: int
    # SHA-256 (hex) of its source, and of what it depends on.
    source_digest: str = ""
    lock_digest: str = ""


@dataclass(frozen=True)
class RequestHead:
    """The caller's request without its body; names lower-case, `path` percent-encoded, `query` without "?"."""

    method: str
    path: str
    query: str = ""
    headers: Headers = ()


@dataclass(frozen=True)
class AnswerHead:
    """The workflow's status and headers; latin-1 text as values."""

    status: int
    headers: Headers = ()

    def header(self, name: str) -> str:
        """The first value; empty when it isn't there."""
        return next((value.strip() for key, value in self.headers if key.lower() == name), "")


@dataclass(frozen=True)
class RunSpec:
    """A run to be (mesh.runs.v1.RunSpec). The durable way leaves run_id and deadline to the scheduler."""

    owner_id: str
    caller_id: str
    acting_id: str
    # The organization that asks: the caller's, or for a nested call the one that its parent acts as.
    requester_id: str
    service_id: str
    version_id: str
    request: RequestHead
    created_at: datetime
    run_id: str = ""
    deadline: datetime | None = None
    correlation_id: str = ""
    parent_id: str = ""
    root_id: str = ""
    depth: int = 0
    trigger: Trigger = Trigger.API
    traceparent: str = ""
    key_id: str = ""
    synchronous: bool = False
    retries: int = 0
    priority: int = 0
    may_deploy: bool = False
    # The run whose input it has once more, and the recording that answers it in place of the internet.
    replay_of: str = ""
    offline_digest: str = ""
    # Whether what it contacts is to be recorded.
    record: bool = False
    # Limits on what it and all below it cost; the key at the root; whether only a root that succeeds is charged for.
    budgets: tuple[Budget, ...] = ()
    paying_key_id: str = ""
    charged_on_success: bool = False
    # The runs above it, the root first.
    above: tuple[str, ...] = ()


@dataclass(frozen=True)
class Given:
    """What a run was given: `body` up to INLINE_BYTES, else its digest."""

    request: RequestHead
    body: bytes = b""
    body_digest: str = ""


@dataclass(frozen=True)
class Submission:
    """A run for the durable way: `body` up to INLINE_BYTES, else its digest."""

    spec: RunSpec
    timeout: timedelta
    body: bytes = b""
    body_digest: str = ""
    provisioned_id: str = ""
    one_time_key_id: str = ""
    idempotency_key: str = ""
    # Of all that makes two requests equal.
    fingerprint: str = ""
    callback_url: str = ""


@dataclass(frozen=True)
class BodyComplete:
    """The answer's last byte is out; background tasks may go on until the Outcome."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended. `code` is one of SPEC §2, empty when the workflow itself answered to the end."""

    status: Status
    code: str = ""
    detail: str = ""
    log_tail: tuple[str, ...] = ()


@dataclass(frozen=True)
class WholeAnswer:
    """A small answer, all of it; background tasks may go on."""

    head: AnswerHead
    body: bytes


# What an executor sends to whoever wants the answer, in this order: head, bytes …, BodyComplete, Outcome.
RunEvent = AnswerHead | bytes | BodyComplete | Outcome


@dataclass(frozen=True)
class KeptAnswer:
    """What is kept of an answer: at most one of `content` and `digest` is set; neither, when it was too large."""

    head: AnswerHead
    content: bytes = b""
    digest: str = ""
    size: int = 0

    @property
    def whole(self) -> bool:
        """Whether all of it was kept."""
        return bool(self.digest) or len(self.content) == self.size


@dataclass(frozen=True)
class Usage:
    """What a run used, nested calls not included."""

    cpu_seconds: float = 0
    wall_seconds: float = 0
    memory_peak_bytes: int = 0
    egress_bytes: int = 0
    tokens_in: int = 0
    tokens_out: int = 0


@dataclass(frozen=True)
class RunRecord:
    """One run, or a provisioned id that waits for its run, as the scheduler has it."""

    id: str
    status: Status
    created_at: datetime
    owner_id: str = ""
    caller_id: str = ""
    acting_id: str = ""
    service_id: str = ""
    version_id: str = ""
    code: str = ""
    detail: str = ""
    log_tail: tuple[str, ...] = ()
    correlation_id: str = ""
    parent_id: str = ""
    root_id: str = ""
    trace_id: str = ""
    attempt: int = 0
    trigger: Trigger = Trigger.API
    started_at: datetime | None = None
    completed_at: datetime | None = None
    answer: KeptAnswer | None = None
    executor: str = ""
    log_digest: str = ""
    usage: Usage | None = None
    egress_digest: str = ""
    # Of the logs of the attempts before, oldest first.
    earlier_logs: tuple[str, ...] = ()
    # Of a queued run: its place in its organization's queue, from 1; 0 where unknown.
    position: int = 0
    wait: timedelta | None = None
    # The run whose input it has once more, and whether a recording answered it in place of the internet.
    replay_of: str = ""
    offline: bool = False
    # Of its own recording; empty where there is none.
    recording_digest: str = ""
    # What it was charged itself, and what all below it were; micro-credits.
    cost_own: int = 0
    cost_nested: int = 0
    # Whether that may change; only `get` tells.
    cost_open: bool = False
    # SHA-256 (hex) of the bodies of request and answer; empty where there was none.
    input_sha256: str = ""
    output_sha256: str = ""

    @property
    def outcome(self) -> Outcome:
        """Its end, once it is over."""
        return Outcome(self.status, self.code, self.detail, self.log_tail)


@dataclass(frozen=True)
class LogLine:
    """One line of a run's log. `data` is a JSON object, or empty. `end`: nothing comes after; it is no line itself."""

    created_at: datetime
    seq: int = 0
    stream: str = "system"
    level: str = "info"
    message: str = ""
    data: str = ""
    end: bool = False


@dataclass(frozen=True)
class Asker:
    """Who wants to see or stop a run. `one_time_key_id` narrows it to what that key made."""

    organization_id: str
    one_time_key_id: str = ""


class Blobs(Protocol):
    """Bytes by digest, in the filestore."""

    async def put(self, chunks: AsyncIterator[bytes]) -> str:
        """The digest. Errors: whatever `chunks` raises; Unavailable."""

    def get(self, digest: str) -> AsyncGenerator[bytes, None]:
        """Errors: NotFound."""
