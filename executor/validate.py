"""The use case Validate: is this file a workflow that would run here? Checks in order, each with a reason and a line.

Also gives what a version needs besides its source: interpreter, lock, declared variables, limits, OpenAPI document.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import NamedTuple, Protocol
from weakref import WeakValueDictionary

from executor.header import MAX_SOURCE, EnvVar, Header, HeaderError, parse
from executor.loglines import clean
from executor.model import Limits, Secret
from executor.redact import Redaction
from executor.remedies import About, remedy
from executor.sandbox import Environment
from kit.errors import Invalid

IMPORT_SECONDS = 60.0
MAX_DETAIL = 6000
MAX_CAUSE = 2500
MAX_ROW = 200  # characters of a line of the source
MAX_NAMES = 200  # characters of the names of packages
# Takes a sentence about what is done now, which may take a while.
Tell = Callable[[str], Awaitable[None]]


@dataclass(frozen=True)
class Check:
    """One line of the report. `line` is 1-based, 0 where none applies; a failed `advisory` check stops nothing."""

    check: str
    passed: bool
    detail: str = ""
    line: int = 0
    advisory: bool = False


@dataclass(frozen=True)
class ImportReport:
    """What came of starting the script in a sandbox. `error_kind` as in executor.sandbox.StartFailed, empty when ok;
    `openapi` is JSON, empty where the app gives none; `log_tail` is what it printed last; `obstacle` says why it can't
    be forked, empty when it can.
    """

    ok: bool
    error_kind: str = ""
    detail: str = ""
    line: int = 0
    openapi: str = ""
    log_tail: str = ""
    obstacle: str = ""


@dataclass(frozen=True)
class SyntaxFault:
    """Why the source doesn't compile."""

    message: str
    line: int = 0


@dataclass
class Report:
    """All checks up to the first that failed. The rest is set when only advisory ones failed; None: the platform's
    default.
    """

    checks: list[Check] = field(default_factory=list)
    python: str = ""
    lock: str = ""
    env_vars: tuple[EnvVar, ...] = ()
    isolation: str = ""
    timeout: timedelta | None = None
    concurrency: int | None = None
    retries: int | None = None
    # Of what a run may use; 0 where the header says nothing.
    limits: Limits = Limits()
    openapi: str = ""
    # What it may reach; None: its header says nothing.
    egress: tuple[str, ...] | None = None

    @property
    def accepted(self) -> bool:
        """Whether it may be deployed."""
        return all(check.passed or check.advisory for check in self.checks)


class Builds(Protocol):
    """Interpreters and environments. Errors of all: Invalid with a reason for the author; Unavailable."""

    async def choose(self, requires_python: str) -> str: ...

    async def resolve(self, python: str, requirements: list[str]) -> str: ...

    async def ensure(self, python: str, lock: str) -> Environment: ...


class SecretNames(Protocol):
    """An organization's secrets."""

    async def values(self, organization_id: str, names: list[str]) -> dict[str, Secret]:
        """Those of `names` that exist."""


class SyntaxCheck(Protocol):
    """Compiles the source by an interpreter, `3.11`; empty: the platform's own."""

    async def __call__(self, source: bytes, python: str) -> SyntaxFault | None: ...


class ImportCheck(Protocol):
    """Starts the script in a sandbox until it hands its app over, and asks the app for its OpenAPI document."""

    async def __call__(
        self,
        environment: Environment,
        source: bytes,
        file_name: str,
        env: dict[str, str],
        timeout_s: float,
        limits: Limits,
        egress: Sequence[str] | None,
    ) -> ImportReport: ...


class Preloading(Protocol):
    """Loads what is about to be called, in place of an import check; None when it can't."""

    async def __call__(
        self,
        organization_id: str,
        environment: Environment,
        source: bytes,
        file_name: str,
        env: Mapping[str, str],
        limits: Limits,
        egress: Sequence[str] | None,
        isolation: str,
    ) -> ImportReport | None: ...


class _Candidate(NamedTuple):
    """What is imported, and as whose."""

    organization_id: str
    environment: Environment
    source: bytes
    file_name: str
    env: Mapping[str, str]
    limits: Limits
    egress: Sequence[str] | None


class _Failed(Exception):
    """A check failed; those after it make no sense. `printed`: what the script said last."""

    def __init__(self, check: str, detail: str, line: int, printed: str = "") -> None:
        super().__init__(detail)
        self.check = check
        self.detail = detail
        self.line = line
        self.printed = printed


async def _nobody(_told: str) -> None:
    """Where nobody listens."""


class Validate:
    """Errors: Unavailable when the package index or the host can't; what is wrong with the source is in the report.

    `default`: of a run whose header says nothing; `most`: more is refused.
    """

    def __init__(
        self,
        builds: Builds,
        syntax: SyntaxCheck,
        secrets: SecretNames,
        import_check: ImportCheck,
        *,
        default: Limits,
        most: Limits,
        preloading: Preloading | None = None,
    ) -> None:
        self._builds = builds
        self._syntax = syntax
        self._secrets = secrets
        self._import_check = import_check
        self._preloading = preloading
        # Nobody pays for it: an organization's scripts are imported one after the other.
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._default = default
        self._most = most

    async def __call__(
        self, organization_id: str, source: bytes, file_name: str, *, preload: bool = False, tell: Tell = _nobody
    ) -> Report:
        """Checks `source` as `organization_id` would run it; with `preload` its first call finds it loaded."""
        report = Report()
        try:
            header = await self._read(report, source)
            environment = await self._build(report, header, tell)
            env, missing, values = await self._declared(report, organization_id, header)
            filled = any(secret.hosts for secret in values)
            redact = Redaction(secret.value for secret in values)
            limits = header.options.limits.over(self._default)
            candidate = _Candidate(organization_id, environment, source, file_name, env, limits, header.options.egress)
            keep = preload and not filled and header.options.isolation != "cold"
            turn = self._turns.setdefault(organization_id, asyncio.Lock())
            if turn.locked():
                await tell("waiting for another check of the organization's to end")
            async with turn:
                await self._import(report, candidate, missing, header.options.isolation, redact, tell, keep=keep)
        except _Failed as failed:
            return Report([*report.checks, _told(failed, source, report.python)])
        report.env_vars = header.env_vars
        report.isolation = header.options.isolation
        report.timeout = header.options.timeout
        report.concurrency = header.options.concurrency
        report.retries = header.options.retries
        report.limits = header.options.limits
        report.egress = header.options.egress
        return report

    async def _read(self, report: Report, source: bytes) -> Header:
        """syntax, header, interpreter. The header is read first: it names the Python whose syntax counts."""
        header_fault = interpreter_fault = None
        header = Header()
        try:
            header = parse(source)
            header.check(self._most)
            report.python = await self._builds.choose(header.requires_python)
        except HeaderError as error:
            header_fault = error
        except Invalid as error:
            interpreter_fault = error.message
        if header_fault is not None and header_fault.about_source:
            raise _Failed("syntax", header_fault.message, header_fault.line)
        fault = await self._syntax(source, report.python)
        if fault is not None:
            raise _Failed("syntax", fault.message, fault.line)
        _pass(report, "syntax")
        if header_fault is not None:
            raise _Failed("header", header_fault.message, header_fault.line)
        _pass(report, "header")
        if interpreter_fault is not None:
            raise _Failed("interpreter", interpreter_fault, header.requires_python_line)
        _pass(report, "interpreter", f"Python {report.python}")
        return header

    async def _build(self, report: Report, header: Header, tell: Tell) -> Environment:
        try:
            if header.dependencies:
                await tell(f"resolving {_counted(len(header.dependencies), 'dependency', 'dependencies')}")
            report.lock = await self._builds.resolve(report.python, list(header.dependencies))
            if report.lock:
                await tell(f"getting {_packages(report.lock)} ready")
            environment = await self._builds.ensure(report.python, report.lock)
        except Invalid as error:
            raise _Failed("dependencies", error.message, _line_named(header, error.message)) from None
        _pass(report, "dependencies", _counted(len(report.lock.splitlines()), "package", "packages"))
        return environment

    async def _declared(
        self, report: Report, organization_id: str, header: Header
    ) -> tuple[dict[str, str], list[str], list[Secret]]:
        """What the script finds in its environment, the names that it would miss, the secrets that it declares."""
        names = [variable.name for variable in header.env_vars]
        values = await self._secrets.values(organization_id, names) if names else {}
        defaults = {variable.name: variable.default for variable in header.env_vars if variable.default is not None}
        env = defaults | {name: secret.inside(name) for name, secret in values.items() if name in names}
        missing = [variable for variable in header.env_vars if variable.name not in env]
        if missing:
            listed = ", ".join(variable.name for variable in missing)
            detail = (
                f"no secret is set for {listed}: a run will fail (missing_secret) until it is. Set each by "
                'PUT /secrets/NAME {"value": "…"}, or give it a default in the header: "NAME=value".'
            )
            report.checks.append(Check("secrets", passed=False, detail=detail, line=missing[0].line, advisory=True))
        else:
            _pass(report, "secrets")
        return env, [variable.name for variable in missing], [values[name] for name in names if name in values]

    async def _import(
        self,
        report: Report,
        candidate: "_Candidate",
        missing: list[str],
        isolation: str,
        redact: Redaction,
        tell: Tell,
        *,
        keep: bool,
    ) -> None:
        if missing:
            detail = f"not run: secret {', '.join(missing)} is missing. Whether it starts can be told once that is set."
            report.checks.append(Check("imports", passed=False, detail=detail, advisory=True))
            return
        await tell("starting the script")
        found = await self._preloading(*candidate, isolation or "run") if keep and self._preloading else None
        if found is None:
            _, environment, source, file_name, env, limits, egress = candidate
            found = await self._import_check(environment, source, file_name, dict(env), IMPORT_SECONDS, limits, egress)
        if not found.ok:
            told = _shortened(redact(found.detail or found.error_kind or "the script can't be started"), candidate)
            if found.error_kind == "refused":
                told = f"this host's isolation is incomplete: {told}"
            raise _Failed("imports", told, found.line, _shortened(redact(found.log_tail), candidate))
        _pass(report, "imports")
        report.openapi = _encodable(found.openapi)
        if found.detail:
            _advise(report, "openapi", redact(found.detail))
        else:
            _pass(report, "openapi", "" if found.openapi else "the app gives none")
        if found.obstacle and isolation != "cold":
            _advise(report, "isolation", f"each call starts a new process, which is slow: {redact(found.obstacle)}")
        else:
            _pass(report, "isolation", isolation or "run")


def _pass(report: Report, check: str, detail: str = "") -> None:
    report.checks.append(Check(check, passed=True, detail=detail))


def _advise(report: Report, check: str, detail: str) -> None:
    """Failed, but it stops nothing."""
    detail = _sentences(detail[:MAX_CAUSE], remedy(check, detail[:MAX_CAUSE], About("")))
    report.checks.append(Check(check, passed=False, detail=_encodable(detail), advisory=True))


def _told(failed: _Failed, source: bytes, python: str) -> Check:
    """Cause, remedy, the line as it stands there, and what else there is to say."""
    # A script's own words may be anything: bounded, encodable, and a line that a file can have.
    text = source[: MAX_SOURCE + 1].decode("utf-8-sig", "replace")
    rows = text.splitlines()
    line = failed.line if 0 < failed.line <= MAX_SOURCE else 0
    advice = remedy(failed.check, failed.detail[:MAX_CAUSE], About(text, python, failed.printed))
    detail = _sentences(failed.detail[:MAX_CAUSE], advice)
    if line <= len(rows) and line and rows[line - 1].strip():
        detail += f"\n{line:5} | {rows[line - 1].rstrip()[:MAX_ROW]}"
    if failed.printed:  # the end of it tells most
        detail += "\nIt printed: "
        detail += failed.printed[max(0, len(failed.printed) + len(detail) - MAX_DETAIL) :]
    return Check(failed.check, passed=False, detail=_encodable(detail)[:MAX_DETAIL], line=line)


def _shortened(text: str, candidate: _Candidate) -> str:
    """Without where this host keeps packages."""
    for packages in candidate.environment.path.glob("lib/python3*/site-packages"):
        text = text.replace(f"{packages}/", "")
    return text


def _sentences(cause: str, advice: str) -> str:
    return f"{cause.rstrip('. ')}. {advice}" if advice else cause


def _encodable(text: str) -> str:
    """Nor may it move a terminal's cursor."""
    return clean(text)


def _counted(count: int, one: str, several: str) -> str:
    return f"{count} {one if count == 1 else several}"


def _packages(lock: str) -> str:
    """`2 packages (fastapi 0.115.0, …)`"""
    rows = lock.splitlines()
    names = ", ".join(" ".join(row.split(" ", 1)[0].split("==")) for row in rows)
    names = names if len(names) <= MAX_NAMES else names[:MAX_NAMES].rsplit(", ", 1)[0] + ", …"
    return f"{_counted(len(rows), 'package', 'packages')} ({names})"


def _line_named(header: Header, message: str) -> int:
    """The line of the first dependency that the message names, spelled in whichever way."""
    told = _plain(message)
    for entry, line in zip(header.dependencies, header.dependency_lines, strict=True):
        name = _plain(re.split(r"[^A-Za-z0-9._-]", entry, maxsplit=1)[0])
        if re.search(rf"(?<![a-z0-9-]){re.escape(name)}(?![a-z0-9]|-[a-z])", told):
            return line
    return header.dependency_lines[0] if header.dependency_lines else 0


def _plain(text: str) -> str:
    return re.sub(r"[-_.]+", "-", text).lower()
