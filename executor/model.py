"""The nouns of a run as its executor sees them."""

import enum
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import datetime

from executor.bill import Budget
from executor.egress.fill import placeholder

INLINE_BYTES = 64 * 1024
# Owns the library services.
SYSTEM = "org_system"


class Status(enum.IntEnum):
    """How a run can end; the numbers are those of mesh.runs.v1.RunStatus."""

    SUCCEEDED = 4
    FAILED = 5
    TIMED_OUT = 6
    CANCELLED = 7


@dataclass(frozen=True)
class Outcome:
    """The end of a run. `code` is one of SPEC §2, empty when the workflow itself answered to the end."""

    status: Status
    code: str = ""
    detail: str = ""
    log_tail: tuple[str, ...] = ()

    @classmethod
    def answered(cls, http_status: int) -> "Outcome":
        """The workflow answered to the end: 500 and above is its failure."""
        return cls(Status.FAILED if http_status >= 500 else Status.SUCCEEDED)

    @classmethod
    def failed(cls, code: str, detail: str) -> "Outcome":
        """`detail` may quote a workflow: what isn't UTF-8 would keep the end of the run from ever being told."""
        return cls(Status.FAILED, code, detail.encode("utf-8", "replace").decode())

    def shown_as(self, detail: str) -> "Outcome":
        """With another text; itself where that is the same."""
        return self if detail == self.detail else replace(self, detail=detail)

    def with_tail(self, lines: tuple[str, ...]) -> "Outcome":
        """With the log's last lines, which only a failure needs."""
        return self if self.status is Status.SUCCEEDED else replace(self, log_tail=lines)


TIMED_OUT = Outcome(Status.TIMED_OUT, "timeout", "the run passed its time limit and was killed")
# Of a run that may have waited, or had attempts before.
TIMED_OUT_ASYNC = Outcome(
    Status.TIMED_OUT, "timeout", "the run passed its time limit (it counts from when it was accepted) and was killed"
)
# Codes of failures that are no doing of the workflow's.
OURS = frozenset({"runtime_error", "unavailable"})
# Ends that the next attempt would come to as well.
FINAL = frozenset({"payment_required"})
HUNG_UP = Outcome(Status.CANCELLED, "cancelled", "the caller hung up, or the runtime was stopped")


Headers = tuple[tuple[str, bytes], ...]


@dataclass(frozen=True)
class RequestHead:
    """The caller's request without its body; names lower-case, `path` percent-encoded, `query` without "?"."""

    method: str
    path: str
    query: str = ""
    headers: Headers = ()


@dataclass(frozen=True)
class AnswerHead:
    """The workflow's status and headers."""

    status: int
    headers: Headers = ()


@dataclass(frozen=True)
class Spec:
    """A run to be: what the executor itself reads of a mesh.runs.v1.RunSpec."""

    run_id: str
    version_id: str
    request: RequestHead
    # After it the run is killed and has timed out.
    deadline: datetime
    caller_id: str = ""
    # Whose secrets it sees, and as whom its nested calls act.
    acting_id: str = ""
    owner_id: str = ""
    service_id: str = ""
    correlation_id: str = ""
    root_id: str = ""
    depth: int = 0
    # W3C trace context of the span that the run hangs under.
    traceparent: str = ""
    attempt: int = 0
    epoch: int = 0
    # Whether its caller waits for the answer.
    synchronous: bool = False
    # How often a failure of the workflow may be tried again.
    retries: int = 0
    # Who asked for it, and what that one's key may do (mesh.runs.v1.RunSpec).
    requester_id: str = ""
    # Asked for without a key: nobody's organization is behind it, although one pays (docs/decisions/0023).
    anonymous: bool = False
    may_deploy: bool = False
    # The spec as it came, for the scheduler: it may say more than this executor knows of.
    whole: bytes = b""
    # The request's body, to be told with the start; None where it is long, or still to come.
    given: bytes | None = field(default=None, repr=False)
    # Whether what it contacts is to be recorded; and the recording (SHA-256) that answers in place of the internet.
    record: bool = False
    offline_digest: str = ""
    # Limits on what it and all below it cost; the key at the root; whether only success of the root is charged.
    budgets: tuple[Budget, ...] = ()
    paying_key_id: str = ""
    charged_on_success: bool = False
    # The runs above it, the root first.
    above: tuple[str, ...] = ()

    @property
    def decides(self) -> bool:
        """How it ends says whether it, and all below it, is charged."""
        return self.charged_on_success and self.root_id in {"", self.run_id}

    @property
    def library(self) -> str:
        """The name of the library service that it is a run of, if of any."""
        return self.service_id if self.owner_id == SYSTEM else ""


@dataclass(frozen=True)
class Limits:
    """What a run may take in, put out and use; 0 in a version means the executor's default, in the default none."""

    request_bytes: int = 0
    response_bytes: int = 0
    # Of an answer without a content-length.
    stream_bytes: int = 0
    log_bytes: int = 0
    memory_bytes: int = 0
    # Processors.
    cpu: float = 0
    # Threads count.
    processes: int = 0
    # Of /tmp and the working directory.
    disk_bytes: int = 0

    def over(self, default: "Limits") -> "Limits":
        """These, and the default's where they say nothing."""
        return Limits(**{item.name: getattr(self, item.name) or getattr(default, item.name) for item in fields(self)})

    def within(self, most: "Limits") -> "Limits":
        """None above what `most` sets; what these leave open stays open."""
        both = ((item.name, getattr(self, item.name), getattr(most, item.name)) for item in fields(self))
        return Limits(**{name: min(value, ceiling) if ceiling else value for name, value, ceiling in both})


@dataclass(frozen=True)
class Secret:
    """One of an organization's. `hosts`: it stays outside of sandboxes and is filled in on the way there."""

    value: str = field(repr=False)
    hosts: tuple[str, ...] = ()

    def inside(self, name: str) -> str:
        """What a sandbox finds under this name."""
        return placeholder(name) if self.hosts else self.value


@dataclass(frozen=True)
class Version:
    """One immutable version of a workflow. In `env_vars` None means: no default, so a secret must exist."""

    id: str
    source_digest: str
    file_name: str
    python: str
    lock: str
    env_vars: Mapping[str, str | None] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    workflow_id: str = ""
    # Runs of the workflow at once; 0: as many as there is room for.
    concurrency: int = 0
    # run, instance or cold (SPEC §8).
    isolation: str = "run"
    # What its runs may reach (egress/rules.py); None: it says nothing.
    egress: tuple[str, ...] | None = None


@dataclass(frozen=True)
class BodyComplete:
    """The answer's last byte is out; background tasks may go on until the Outcome."""


@dataclass(frozen=True)
class Usage:
    """What a run used, nested calls not included: seconds of a processor, seconds from its sandbox's start to its end,
    the most bytes of memory at once, bytes sent and received on its way to the internet, tokens of models.
    """

    cpu_seconds: float = 0
    wall_seconds: float = 0
    memory_peak: int = 0
    egress_bytes: int = 0
    tokens_in: int = 0
    tokens_out: int = 0


# What whoever wants the answer is given, in this order: head, bytes …, BodyComplete, Outcome.
AnswerEvent = AnswerHead | bytes | BodyComplete | Outcome


@dataclass(frozen=True)
class KeptAnswer:
    """What is kept of an answer for /result: at most one of `content` (≤ 64 KiB) and `digest` is set."""

    head: AnswerHead
    size: int
    content: bytes = b""
    digest: str = ""


@dataclass(frozen=True)
class LogLine:
    """One line of a run's log. `data` is a JSON object, or empty."""

    created_at: datetime
    seq: int
    stream: str
    level: str
    message: str
    data: str = ""


def sha256_hex(data: bytes) -> str:
    """How the mesh names bytes."""
    return hashlib.sha256(data).hexdigest()
