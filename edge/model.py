"""Who speaks, and what they may do. Standard library only, with kit.errors."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum

from kit.errors import Denied, Invalid

SYSTEM = "org_system"
"""Owns the library services."""
# Library services that may do, for the key that calls them, all that it may do itself.
FOR_KEYS = frozenset({"devx_mcp"})
# Those that use their caller's secrets where it asks for that (Run-As-Template). They hold none of the operator's: runs
# by somebody's secrets show that one their logs and what they contact.
AS_CALLER = frozenset({"slack_trigger", "whatsapp_trigger"})


@dataclass(frozen=True)
class Budget:
    """A hard limit in micro-credits on what runs cost together: `key:KEY_ID` or `run:…`."""

    id: str
    limit: int


@dataclass(frozen=True)
class Binding:
    """What a one-time key may be used for; an empty field binds nothing. `path` as of RequestHead; a digest in hex."""

    service_id: str = ""
    path: str = ""
    body_sha256: str = ""


@dataclass(frozen=True)
class Rates:
    """How often a key, and all of its organization, may call; None: as the settings say, the organization's: unlimited.
    `api…`: under /api/v1.
    """

    per_second: int | None = None
    api_per_minute: int | None = None
    organization_per_second: int | None = None
    organization_api_per_minute: int | None = None


@dataclass(frozen=True)
class RunIdentity:
    """A run that calls back (mesh.runs.v1.RunIdentity): vouched for by the executor, checked by edge/identity.py."""

    run_id: str
    root_id: str
    acting_id: str
    caller_id: str
    depth: int
    correlation_id: str
    traceparent: str
    deadline: datetime
    owner_id: str = ""
    service_id: str = ""
    requester_id: str = ""
    may_deploy: bool = False
    # As of RunSpec: what runs below it inherit.
    budgets: tuple[Budget, ...] = ()
    paying_key_id: str = ""
    charged_on_success: bool = False
    above: tuple[str, ...] = ()


@dataclass(frozen=True)
class Principal:
    """What a valid key, or the identity of a run, stands for.

    `kind` is standard, one_time, run, or open: anyone without a key, who has no organization. For a run
    `organization_id` is the organization that it acts as (a library service's is that of who asked for it), `key_id` is
    empty and `identity` is set; its caller, who pays, is `identity.caller_id`. `credit` (what its organization may
    spend and has reserved) and `budget_left` (of `budget`) are micro-credits of when the key was verified; None where
    nobody counts, and for a run.
    """

    key_id: str
    organization_id: str
    kind: str
    scopes: frozenset[str]
    first_organization: bool = False
    identity: RunIdentity | None = None
    bind: Binding | None = None
    budget: Budget | None = None
    rates: Rates = Rates()
    credit: int | None = None
    budget_left: int | None = None
    # `key:KEY_ID` of the first of the keys that were rotated into this one; empty: it is itself the first.
    lineage_id: str = ""
    # Who pays in the place of its organization; empty: that one does.
    payer_id: str = ""

    @property
    def one_time(self) -> bool:
        return self.kind == "one_time"

    @property
    def may_deploy(self) -> bool:
        """Whether it has the scope `deploy`; for a run, whether the key at its root had it, and all code since was its
        organization's own or the library's.
        """
        if self.identity is not None:
            return self.identity.may_deploy
        return "deploy" in self.scopes and not self.one_time

    @property
    def budgets(self) -> tuple[Budget, ...]:
        """All that count what its runs cost: its key's, or for a run its own and those of all above it."""
        if self.identity is not None:
            return self.identity.budgets
        return (self.budget,) if self.budget else ()

    @property
    def paying_key_id(self) -> str:
        """The key, or for a run the one at its root."""
        return self.identity.paying_key_id if self.identity else self.key_id

    @property
    def caller_id(self) -> str:
        """The organization that pays, and `userId` in records."""
        return self.identity.caller_id if self.identity else self.payer_id or self.organization_id

    def check_run(self, service_id: str) -> None:
        """`run`, or `run:SERVICE` for this service (any version of it). Errors: Denied."""
        name = service_id.partition("@")[0]
        if not self.scopes & {"run", f"run:{name}"}:
            raise Denied(f"this key may not run {name!r}: it lacks the scope run (or run:{name})")


class Access(Enum):
    """What a public call asks of its key; checked by edge/auth.py before the handler is called."""

    OPEN = "no key at all"
    ANY = "any standard key or run"
    CALL = "as START; no key at all where the workflow is open (edge/anyone.py)"
    START = "run or run:SERVICE; a one-time key too. The handler calls `check_run`"
    READ = "run or run:SERVICE; a one-time key too. The scheduler shows it its own run only"
    RUN = "run or run:SERVICE; standard keys and runs only"
    FILES = "files"
    DEPLOY = "deploy"
    SCHEDULE = "deploy; or schedules, which only the library service schedule_runs can have"
    HOOK = "deploy; or hooks, which only the library services slack_trigger and whatsapp_trigger can have"
    ADMIN = "admin"
    FIRST_ADMIN = "admin, of the first organization"

    def check(self, principal: Principal) -> None:
        """Errors: Denied."""
        if self in {Access.CALL, Access.START, Access.READ, Access.RUN}:
            if principal.one_time and self is Access.RUN:
                raise Denied("a one-time key starts one run and reads it, nothing else")
            if not any(scope == "run" or scope.startswith("run:") for scope in principal.scopes):
                raise Denied("this key lacks the scope run")
            return
        if principal.one_time:
            raise Denied("a one-time key starts one run and reads it, nothing else")
        if self is Access.ANY:
            return
        if {Access.SCHEDULE: "schedules", Access.HOOK: "hooks"}.get(self) in principal.scopes:
            return
        scope = {Access.FIRST_ADMIN: "admin", Access.SCHEDULE: "deploy", Access.HOOK: "deploy"}.get(
            self, self.name.lower()
        )
        if scope not in principal.scopes:
            raise Denied(f"this key lacks the scope {scope}")
        if self is Access.FIRST_ADMIN and not principal.first_organization:
            raise Denied("only an admin key of the first organization may do this")


@dataclass(frozen=True)
class ApiKey:
    """A key as lists show it; never the key itself. `kind` is standard or one_time; `budget` in micro-credits, of which
    `budget_used` is spent or reserved.
    """

    id: str
    name: str
    kind: str
    prefix: str
    scopes: tuple[str, ...]
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    bind: Binding | None = None
    budget: int | None = None
    budget_used: int = 0
    rates: Rates = Rates()


@dataclass(frozen=True)
class KeyWish:
    """A key as it is asked for. Without `scopes`: what such a key has where nothing is said."""

    kind: str
    name: str = ""
    scopes: tuple[str, ...] = ()
    expires_at: datetime | None = None
    bind: Binding | None = None
    budget: int | None = None
    rates: Rates = Rates()


@dataclass(frozen=True)
class SecretInfo:
    """A secret as lists show it; never its value."""

    name: str
    updated_at: datetime
    hosts: tuple[str, ...] = ()


LIMITS = (
    "sync_timeout_ms",
    "async_timeout_ms",
    "max_request_bytes",
    "max_response_bytes",
    "max_stream_bytes",
    "max_log_bytes",
    "concurrency",
    "memory_bytes",
    "cpu_millis",
    "processes",
    "disk_bytes",
    "retries",
    "calls_per_second",
    "api_calls_per_minute",
)
"""The limits that a workflow may set; 0 is the platform's default."""

VISIBILITIES = ("private", "public", "template", "open")


@dataclass(frozen=True)
class Prompt:
    """What a prompt workflow's version is made of. `model` is VENDOR/NAME, `parameters` a JSON object."""

    template: str
    model: str
    parameters: str = "{}"
    web_search: bool = False
    variables: tuple[str, ...] = ()


@dataclass(frozen=True)
class Workflow:
    """A workflow as its organization sees it. `openapi` is a JSON document or empty; `limits` by their names."""

    organization_id: str
    service_id: str
    name: str
    kind: str
    version: int
    visibility: str
    limits: dict[str, int]
    openapi: str
    created_at: datetime
    updated_at: datetime
    # Whether /api/v1 runs it.
    published: bool = False
    # (version, per cent of the calls), the oldest first, where several are served.
    traffic: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Version:
    """One version of a workflow."""

    id: str
    number: int
    # SHA-256 (hex) of its source.
    source_digest: str
    python: str
    created_at: datetime


@dataclass(frozen=True)
class Check:
    """A line of a deploy report. `line` is of the source, 0 where none applies."""

    check: str
    passed: bool
    detail: str
    line: int


class FailedChecks(Invalid):
    """A deploy was refused; the report says why."""

    default_code = "invalid_workflow"

    def __init__(self, message: str, report: Sequence[Check]) -> None:
        super().__init__(message)
        self.report = report


@dataclass(frozen=True)
class Upload:
    """A place for a file."""

    upload_uri: str
    download_uri: str
    upload_headers: dict[str, str]


def iso(moment: datetime | None) -> str | None:
    """YYYY-MM-DDTHH:MM:SS.mmmZ."""
    if moment is None:
        return None
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
