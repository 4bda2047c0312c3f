"""What the functions give."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Check:
    """A line of a report. `line` is of the code, None where none applies."""

    check: str
    passed: bool
    detail: str = ""
    line: int | None = None


def checks(told: Sequence[Any]) -> tuple[Check, ...]:
    """Of the lines that a server tells."""
    return tuple(Check(line["check"], line["passed"], line["detail"], line["line"]) for line in told)


@dataclass(frozen=True)
class Validation:
    """Whether all checks passed. Of those that failed a missing secret stops no deploy, only runs."""

    all_passed: bool
    report: tuple[Check, ...]


@dataclass(frozen=True)
class Deployment:
    """A version that was deployed. `url` is what anybody calls it by, with a key that may."""

    service_id: str
    version: int
    url: str
    report: tuple[Check, ...]


@dataclass(frozen=True)
class WorkflowOutput:
    """What came of a run. `output` is its answer: JSON as a value, else its text; None where it gave none, or that
    isn't kept. `status` is `succeeded failed timed_out cancelled dead`; `response_status` the answer's, None without
    one; `detail` and `code` tell why it failed; `record` is the whole record (docs/api.md).
    """

    request_id: str
    status: str
    response_status: int | None
    output: Any
    detail: str
    code: str
    record: dict[str, Any] = field(repr=False)

    @property
    def succeeded(self) -> bool:
        """Whether it answered, with less than 400."""
        return self.status == "succeeded" and self.response_status is not None and self.response_status < 400


@dataclass(frozen=True)
class Secret:
    """Never its value. `hosts`: where it is filled in, outside the sandbox; `updated_at` is empty of one just set."""

    name: str
    updated_at: str = ""
    hosts: tuple[str, ...] = ()


@dataclass(frozen=True)
class SecretsResult:
    """What `manage_secrets` did: those listed, the one that was set or found; none after `delete`."""

    operation: str
    secrets: tuple[Secret, ...]

    @property
    def exists(self) -> bool:
        """Whether there is one."""
        return bool(self.secrets)


@dataclass(frozen=True)
class Integration:
    """Whether an account of the app is connected; else the page where one is, to be opened by its owner."""

    app_slug: str
    connected: bool
    connect_link_url: str | None
