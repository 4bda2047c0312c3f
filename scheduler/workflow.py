"""Workflows and their versions: their nouns, names and rules. Standard library only."""

import enum
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from datetime import datetime

from kit.errors import Invalid, NotFound

SYSTEM = "org_system"
MOST_NAME = 200
MOST_CODE_BYTES = 1 << 20
# Of a check's words, in an error.
MOST_TOLD = 3000
# The library's (SPEC §7), and two that the newest client package knows: nobody else may answer to them.
RESERVED = frozenset(
    (
        *("openai", "anthropic", "gemini", "redis_coordinator", "schedule_runs", "send_email", "firecrawl"),
        *("webpage_to_markdown", "github", "reddit", "searchapi", "hunter", "slack_trigger", "whatsapp_trigger"),
        *("pipedream", "user_login", "chrome_extension", "web_automation_agent", "devx_mcp", "perplexity", "composio"),
    )
)
_SERVICE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
_REFERENCE = re.compile(
    r"(?:(?P<organization>[A-Za-z0-9_-]{1,100})\.)?(?P<name>[A-Za-z0-9][A-Za-z0-9_-]{0,99})(?:@(?P<number>[1-9][0-9]{0,8}))?"
)


class Visibility(enum.IntEnum):
    """Who may call a workflow; the numbers are those of mesh.workflows.v1.Visibility."""

    PRIVATE = 1
    PUBLIC = 2
    TEMPLATE = 3
    OPEN = 4


@dataclass(frozen=True)
class EnvVar:
    """A declared variable; without a default a secret of this name must exist."""

    name: str
    default: str | None = None


@dataclass(frozen=True)
class Limits:
    """Zero means the platform's default."""

    sync_timeout_ms: int = 0
    async_timeout_ms: int = 0
    max_request_bytes: int = 0
    max_response_bytes: int = 0
    max_stream_bytes: int = 0
    max_log_bytes: int = 0
    concurrency: int = 0
    memory_bytes: int = 0
    # 1000: one processor.
    cpu_millis: int = 0
    processes: int = 0
    disk_bytes: int = 0
    # Of asynchronous runs that the workflow fails.
    retries: int = 0
    # Calls of it, by everybody, which the edges count.
    calls_per_second: int = 0
    api_calls_per_minute: int = 0

    def overlaid(self, other: "Limits") -> "Limits":
        """With what `other` sets."""
        return replace(self, **{item.name: value for item in fields(other) if (value := getattr(other, item.name))})

    def check(self, most: "Limits") -> None:
        """Errors: Invalid for a limit that nothing could run with, or beyond what a workflow's owner may set."""
        for item in fields(self):
            value, lowest, highest = (getattr(limits, item.name) for limits in (self, LEAST, most))
            if value and not lowest <= value <= highest:
                raise Invalid(f"the limit {item.name} must be {lowest} to {highest}")


DAY_MS = 24 * 3600 * 1000
MIB = 1 << 20
# As executor/header_options.py has them.
LEAST = Limits(
    *(1,) * 7,
    memory_bytes=16 * MIB,
    cpu_millis=50,
    processes=8,
    disk_bytes=MIB,
    retries=1,
    calls_per_second=1,
    api_calls_per_minute=1,
)
MOST = Limits(
    sync_timeout_ms=DAY_MS,
    async_timeout_ms=DAY_MS,
    max_request_bytes=100 * MIB,
    max_response_bytes=100 * MIB,
    max_stream_bytes=1024 * MIB,
    max_log_bytes=100 * MIB,
    concurrency=10_000,
    memory_bytes=1 << 50,
    cpu_millis=1_024_000,
    processes=100_000,
    disk_bytes=1 << 50,
    retries=100,
    calls_per_second=1_000_000,
    api_calls_per_minute=1_000_000,
)


@dataclass(frozen=True)
class Check:
    """One line of a deploy report. An advisory one doesn't stop a deploy; `line` is 1-based, 0 where none applies."""

    check: str
    passed: bool
    detail: str = ""
    line: int = 0
    advisory: bool = False


@dataclass(frozen=True)
class Report:
    """What an executor found out about a source."""

    checks: tuple[Check, ...]
    python: str = ""
    lock: str = ""
    env_vars: tuple[EnvVar, ...] = ()
    isolation: str = ""
    limits: Limits = Limits()
    openapi: str = ""
    egress: tuple[str, ...] | None = None

    @property
    def all_passed(self) -> bool:
        return all(check.passed for check in self.checks)

    @property
    def deployable(self) -> bool:
        return all(check.passed or check.advisory for check in self.checks)


@dataclass(frozen=True)
class Workflow:
    """What a name stands for in an organization. `version` is the one being served, 0 if none is; of several, the one
    with the largest share.
    """

    id: str
    organization_id: str
    service_id: str
    name: str
    created_at: datetime
    updated_at: datetime
    kind: str = "code"
    visibility: Visibility = Visibility.PRIVATE
    limits: Limits = Limits()
    version: int = 0
    deleted_at: datetime | None = None
    # Whether /api/v1 runs it.
    published: bool = False
    # (version, per cent of the calls), the oldest first, where several are served.
    traffic: tuple[tuple[int, int], ...] = ()
    # What was served before `version`; 0: there is nothing to go back to.
    version_before: int = 0

    def serving(self, *shares: tuple[int, int]) -> "Workflow":
        """(version, per cent) from now on. Code is published with its first served version; whoever takes it back later
        has the last word.
        """
        version, _ = max(shares, key=lambda share: (share[1], share[0]))
        return replace(
            self,
            version=version,
            traffic=tuple(sorted(shares)) if len(shares) > 1 else (),
            version_before=self.version_before if version == self.version else self.version,
            published=self.published or (self.kind == "code" and not self.version),
        )

    @property
    def oldest_served(self) -> int:
        """Of a split; else what was served before. 0: none."""
        return self.traffic[0][0] if self.traffic else self.version_before

    @property
    def shares(self) -> tuple[tuple[int, int], ...]:
        """(version, per cent) of all that are served."""
        return self.traffic or (((self.version, 100),) if self.version else ())

    def callable_by(self, organization_id: str) -> bool:
        return self.organization_id == organization_id or self.visibility is not Visibility.PRIVATE


@dataclass(frozen=True)
class Prompt:
    """What a prompt workflow's version is made of. `model` is VENDOR/NAME, `parameters` a JSON object; `variables` are
    those of the template, in the order of their appearance.
    """

    template: str
    model: str
    parameters: str = "{}"
    web_search: bool = False
    variables: tuple[str, ...] = ()


@dataclass(frozen=True)
class Version:
    """One immutable version of a workflow. `source_digest` is the SHA-256 (hex) of its source in the filestore."""

    id: str
    workflow_id: str
    organization_id: str
    service_id: str
    number: int
    source_digest: str
    file_name: str
    created_at: datetime
    python: str = ""
    lock: str = ""
    env_vars: tuple[EnvVar, ...] = ()
    isolation: str = ""
    limits: Limits = Limits()
    openapi: str = ""
    # What its runs may reach; None: the source says nothing.
    egress: tuple[str, ...] | None = None
    # Of a prompt workflow.
    prompt: Prompt | None = None


@dataclass(frozen=True)
class Reference:
    """How a call names a workflow: NAME, ORGANIZATION.NAME, either with @VERSION. `number` 0: the served one."""

    organization_id: str
    service_id: str
    number: int = 0

    @classmethod
    def parse(cls, text: str) -> "Reference":
        """Errors: NotFound for whatever can't be one."""
        match = _REFERENCE.fullmatch(text)
        if match is None:
            raise unknown_workflow()
        return cls(match["organization"] or "", match["name"], int(match["number"] or 0))


def name_service(organization_id: str, service_id: str, name: str) -> str:
    """The id that a deploy gets: the given one, or a slug of the name. Errors: Invalid."""
    if not name.strip() and not service_id:
        raise Invalid("a workflow needs a name: set `name`")
    if len(name) > MOST_NAME:
        raise Invalid(f"the name has {len(name)} characters; at most {MOST_NAME} are allowed", code="too_large")
    wanted = service_id or _slug(name)
    if not _SERVICE_ID.fullmatch(wanted):
        why = "" if service_id else ": the name gives none, as its letters have no Latin form; set `service_id`"
        told = "a service_id is 1 to 100 letters, digits, `_` and `-`, and starts with a letter or digit"
        raise Invalid(told + why)
    if organization_id != SYSTEM and wanted.lower() in RESERVED:
        raise Invalid(f"{wanted!r} is the name of a library service: choose another service_id")
    return wanted


def _slug(name: str) -> str:
    """`Größe 2` is `grosse-2`; empty where letters would get lost, as other names might then give the same id."""
    plain = "".join(each for each in unicodedata.normalize("NFKD", name.casefold()) if not unicodedata.combining(each))
    if any(each.isalnum() and not each.isascii() for each in plain):
        return ""
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:100].rstrip("-")


def file_name(service_id: str) -> str:
    """The script's name in its sandbox, which can be imported too."""
    return service_id.replace("-", "_") + ".py"


def refusal(checks: Iterable[Check]) -> str:
    """Why a deploy was refused, in sentences that fit into an error."""
    faults = []
    for check in checks:
        if not check.passed and not check.advisory:
            where = f" (line {check.line})" if check.line else ""
            faults.append(f"{check.check}{where}: {_shortened(check.detail.strip()) or 'failed'}")
    return ("the workflow wasn't deployed. " + "; ".join(faults))[:4000]


def _shortened(text: str) -> str:
    """What it begins with tells why, what it ends with what was printed last."""
    return text if len(text) <= MOST_TOLD else f"{text[: MOST_TOLD // 2]}\n…\n{text[-MOST_TOLD // 2 :]}"


def unknown_workflow() -> NotFound:
    """Alike for unknown, private and deleted."""
    return NotFound("no such workflow: check the service id, and that it is yours, public or a library service")


def no_version(reference: Reference) -> NotFound:
    """Of a workflow that whoever asks may call. Number 0: it is about the one that is served."""
    if reference.number:
        return NotFound(f"workflow {reference.service_id!r} has no version {reference.number}")
    name = reference.service_id
    return NotFound(
        f"workflow {name!r} serves no version yet: a draft is called as {name}@VERSION, and served by "
        f"PUT /workflows/{name}/traffic"
    )
