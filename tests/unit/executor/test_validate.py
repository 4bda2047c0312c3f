"""The report of a validation: which checks, in which order, and what stops it."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from executor.header import EnvVar
from executor.model import Limits, Secret
from executor.sandbox import Environment
from executor.validate import MAX_CAUSE, MAX_DETAIL, Check, ImportReport, Report, SyntaxFault, Validate
from kit.errors import Invalid, Unavailable

SOURCE = b"""\
# /// script
# requires-python = ">=3.11"
# dependencies = ["fastapi", "Zope.Interface>1"]
# [tool.env-checker]
# env_vars = ["TOKEN", "REGION=eu", "PORT=8000"]
# [tool.runmesh]
# timeout = "5m"
# concurrency = 2
# isolation = "cold"
# memory = "64M"
# ///
app = None
"""
PLAIN = b"app = None\n"
DEFAULT = Limits(memory_bytes=2 << 30, cpu=1.0, processes=256, disk_bytes=10 << 30)
MOST = Limits(memory_bytes=4 << 30, cpu=2.0, processes=512, disk_bytes=20 << 30)
LOCK = "fastapi==1 --hash=sha256:00\n"


@dataclass
class World:
    """All four ports. What they raise or answer is set by the test."""

    problems: dict[str, Exception] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=lambda: {"TOKEN": "t", "OTHER": "o"})
    hosts: tuple[str, ...] = ()
    fault: SyntaxFault | None = None
    loaded: ImportReport | None = None
    preloaded: list[tuple[str, str]] = field(default_factory=list)
    found: ImportReport = field(default_factory=lambda: ImportReport(ok=True, openapi='{"openapi": "3.1.0"}'))
    steps: list[str] = field(default_factory=list)
    compiled_by: str = "?"
    imported_with: dict[str, str] | None = None
    imported_within: Limits | None = None
    imported_reach: Sequence[str] | None = None

    async def choose(self, requires_python: str) -> str:
        self._raise("choose")
        return "3.11" if not requires_python else "3.12"

    async def resolve(self, python: str, requirements: list[str]) -> str:
        self._raise("resolve")
        return LOCK * len(requirements)

    async def ensure(self, python: str, lock: str) -> Environment:
        self._raise("ensure")
        return Environment("d", Path("/env"), Path("/env/bin/python"), Path("/usr"))

    async def values(self, organization_id: str, names: list[str]) -> dict[str, Secret]:
        known = self.secrets if organization_id == "org_a" else {}
        return {name: Secret(value, self.hosts) for name, value in known.items()}

    async def syntax(self, source: bytes, python: str) -> SyntaxFault | None:
        self.compiled_by = python
        return self.fault

    async def start(
        self,
        environment: Environment,
        source: bytes,
        file_name: str,
        env: dict[str, str],
        timeout_s: float,
        limits: Limits,
        egress: Sequence[str] | None,
    ) -> ImportReport:
        self.imported_with, self.imported_within, self.imported_reach = env, limits, egress
        return self.found

    async def validate(
        self, source: bytes = SOURCE, organization_id: str = "org_a", *, preload: bool = False
    ) -> Report:
        validate = Validate(self, self.syntax, self, self.start, default=DEFAULT, most=MOST, preloading=self.preload)
        return await validate(organization_id, source, "workflow.py", preload=preload, tell=self.tell)

    async def tell(self, step: str) -> None:
        self.steps.append(step)

    async def preload(
        self,
        organization_id: str,
        environment: Environment,
        source: bytes,
        file_name: str,
        env: Mapping[str, str],
        limits: Limits,
        egress: Sequence[str] | None,
        isolation: str,
    ) -> ImportReport | None:
        self.preloaded.append((organization_id, isolation))
        return self.loaded

    def _raise(self, step: str) -> None:
        if step in self.problems:
            raise self.problems[step]


def last(report: Report) -> Check:
    """The check that ended it; those before have passed."""
    assert all(check.passed for check in report.checks[:-1])
    return report.checks[-1]


async def test_a_good_workflow() -> None:
    world = World()
    report = await world.validate()
    names = ["syntax", "header", "interpreter", "dependencies", "secrets", "imports", "openapi", "isolation"]
    assert [check.check for check in report.checks] == names
    assert all(check.passed for check in report.checks)
    assert report.accepted
    assert (report.python, report.lock, report.isolation) == ("3.12", LOCK * 2, "cold")
    assert (report.timeout, report.concurrency) == (timedelta(minutes=5), 2)
    assert report.limits == Limits(memory_bytes=64 << 20)
    assert world.imported_within == replace(DEFAULT, memory_bytes=64 << 20)
    assert report.env_vars == (EnvVar("TOKEN"), EnvVar("REGION", "eu"))
    assert report.openapi == '{"openapi": "3.1.0"}'
    assert world.compiled_by == "3.12"
    assert world.steps == [
        "resolving 2 dependencies",
        "getting 2 packages (fastapi 1, fastapi 1) ready",
        "starting the script",
    ]


async def test_what_there_is_not_to_do_is_no_step() -> None:
    world = World()
    await world.validate(PLAIN)
    assert world.steps == ["starting the script"]


async def test_the_import_sees_declared_variables_only_and_a_secret_wins_over_a_default() -> None:
    world = World(secrets={"TOKEN": "t", "REGION": "us", "OTHER": "o"})
    await world.validate()
    assert world.imported_with == {"TOKEN": "t", "REGION": "us"}
    world.hosts = ("a.example",)
    await world.validate()
    assert world.imported_with == {"TOKEN": "secret://TOKEN", "REGION": "secret://REGION"}


async def test_a_file_without_a_header_is_fine() -> None:
    report = await World(found=ImportReport(ok=True)).validate(PLAIN)
    assert report.accepted
    assert report.checks[-2:] == [
        Check("openapi", passed=True, detail="the app gives none"),
        Check("isolation", passed=True, detail="run"),
    ]
    assert (report.lock, report.isolation, report.timeout, report.concurrency) == ("", "run", None, None)
    assert report.limits == Limits()


async def test_why_it_cannot_be_forked_is_told() -> None:
    report = await World(found=ImportReport(ok=True, obstacle="2 threads")).validate(PLAIN)
    assert report.accepted
    assert (last(report).check, last(report).passed, last(report).advisory) == ("isolation", False, True)
    assert "2 threads" in last(report).detail


async def test_syntax() -> None:
    report = await World(fault=SyntaxFault("SyntaxError: invalid syntax", 11)).validate()
    told = (
        "SyntaxError: invalid syntax. Correct this line, or what stands right before it; it was read by Python 3.12, "
    )
    told += "which `requires-python` chooses.\n   11 | # ///"
    assert report.checks == [Check("syntax", passed=False, detail=told, line=11)]
    assert not report.accepted
    assert (report.python, report.lock) == ("", "")


async def test_syntax_comes_before_a_bad_header_and_is_checked_by_the_platforms_own_python() -> None:
    world = World(fault=SyntaxFault("SyntaxError: x", 4))
    assert last(await world.validate(b"# /// script\n# x = \n# ///\n)")).check == "syntax"
    assert world.compiled_by == ""


async def test_a_source_that_is_no_text_is_not_compiled() -> None:
    world = World()
    check = last(await world.validate(b"x = 1\n\0"))
    assert (check.check, check.line) == ("syntax", 2)
    assert world.compiled_by == "?"


async def test_header() -> None:
    check = last(await World().validate(b"# /// script\n# x = \n# ///\n"))
    assert (check.check, check.passed, check.line) == ("header", False, 2)
    assert "not TOML" in check.detail


async def test_more_than_the_operator_allows() -> None:
    world = World()
    report = await world.validate(SOURCE.replace(b'"64M"', b'"5G"'))
    check = last(report)
    assert (check.check, check.line) == ("header", 10)
    assert check.detail.startswith("[tool.runmesh] memory: 5,120 MiB is more than the 4,096 MiB")
    assert not report.accepted
    assert world.imported_within is None


async def test_interpreter() -> None:
    problem = Invalid("no interpreter here fits; present: 3.11.7", code="invalid_workflow")
    report = await World({"choose": problem}).validate()
    check = last(report)
    assert (check.check, check.line) == ("interpreter", 2)
    assert check.detail.startswith(f"{problem.message}. Widen `requires-python`")
    assert check.detail.endswith('\n    2 | # requires-python = ">=3.11"')


@pytest.mark.parametrize("step", ["resolve", "ensure"])
@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("there is no package named zope-interface", 4),
        ("Because fastapi==9 …", 3),
        ("fastapi-users and zope.interface", 4),
    ],
)
async def test_dependencies(step: str, message: str, line: int) -> None:
    source = SOURCE.replace(b', "Zope', b',\n#   "Zope')
    check = last(await World({step: Invalid(message)}).validate(source))
    assert (check.check, check.passed, check.line) == ("dependencies", False, line)
    assert check.detail.startswith(message)
    assert check.detail.endswith(f"\n    {line} | {source.decode().splitlines()[line - 1]}")


@pytest.mark.parametrize("step", ["choose", "resolve", "ensure"])
async def test_what_is_not_the_workflows_fault_is_no_report(step: str) -> None:
    with pytest.raises(Unavailable):
        await World({step: Unavailable("the index is down")}).validate()


async def test_a_missing_secret_stops_only_the_import() -> None:
    world = World()
    report = await world.validate(organization_id="org_b")
    assert report.accepted
    secrets, imports = report.checks[-2:]
    assert (secrets.check, secrets.passed, secrets.advisory, secrets.line) == ("secrets", False, True, 5)
    assert "TOKEN" in secrets.detail
    assert (imports.check, imports.passed, imports.advisory) == ("imports", False, True)
    assert imports.detail.startswith("not run: secret TOKEN is missing")
    assert world.imported_with is None
    assert report.lock
    assert report.openapi == ""


async def test_imports() -> None:
    found = ImportReport(
        ok=False, error_kind="import", detail="ModuleNotFoundError: No module named 'x'", line=11, log_tail="hello"
    )
    report = await World(found=found).validate()
    check = last(report)
    assert (check.check, check.line) == ("imports", 11)
    assert check.detail.startswith(
        "ModuleNotFoundError: No module named 'x'. Add \"x\" to `dependencies` in the header"
    )
    assert "\n   11 | # ///\n" in check.detail
    assert check.detail.endswith("\nIt printed: hello")
    assert not report.accepted
    assert report.lock == ""


async def test_what_a_script_says_is_bounded_and_encodable() -> None:
    said = {"detail": "\ud800" + "x" * 100_000, "log_tail": "y" * 100_000}
    found = ImportReport(ok=False, error_kind="import", line=1 << 40, **said)
    check = last(await World(found=found).validate())
    assert check.detail.startswith("?" + "x" * (MAX_CAUSE - 1) + "\nIt printed: y")
    assert len(check.detail) == MAX_DETAIL
    assert check.line == 0
    report = await World(found=ImportReport(ok=True, openapi='"\ud800"')).validate()
    assert report.openapi == '"?"'


async def test_what_is_to_be_deployed_is_loaded_once() -> None:
    world = World(loaded=ImportReport(ok=True, openapi='{"openapi": "3.0.0"}'))
    report = await world.validate(PLAIN, preload=True)
    assert (report.accepted, report.openapi) == (True, '{"openapi": "3.0.0"}')
    assert (world.preloaded, world.imported_with) == ([("org_a", "run")], None)


async def test_what_cannot_be_preloaded_is_imported_in_a_new_process() -> None:
    world = World()
    report = await world.validate(PLAIN, preload=True)
    assert (report.accepted, report.openapi) == (True, '{"openapi": "3.1.0"}')
    assert world.preloaded


@pytest.mark.parametrize(
    ("world", "source", "preload"),
    [
        (World(), PLAIN, False),
        (World(), SOURCE, True),
        (World(hosts=("api.example.com",)), SOURCE.replace(b'"cold"', b'"run"'), True),
    ],
)
async def test_what_is_not_preloaded(world: World, source: bytes, preload: bool) -> None:
    """Only to be looked at; no template serves it; its egress is intercepted in a way of its own."""
    assert (await world.validate(source, preload=preload)).accepted
    assert not world.preloaded


async def test_an_organizations_scripts_are_imported_one_after_the_other() -> None:
    """Nobody pays for it, so nobody may have the host import many at once; others don't wait for that."""
    world, going_on, most, gate = World(), Counter[str](), Counter[str](), asyncio.Event()
    whose = ContextVar("whose", default="")

    async def slow(*_: Any, **__: Any) -> ImportReport:
        going_on[whose.get()] += 1
        most[whose.get()] = max(most[whose.get()], going_on[whose.get()])
        await gate.wait()
        going_on[whose.get()] -= 1
        return ImportReport(ok=True)

    async def checked(organization_id: str) -> Report:
        whose.set(organization_id)
        return await validate(organization_id, PLAIN, "x.py")

    validate = Validate(world, world.syntax, world, slow, default=DEFAULT, most=MOST)
    tasks = [asyncio.create_task(checked(one)) for one in ("org_a", "org_a", "org_b")]
    await asyncio.sleep(0.01)
    assert going_on == {"org_a": 1, "org_b": 1}
    gate.set()
    assert all(check.passed for report in await asyncio.gather(*tasks) for check in report.checks)
    assert most == {"org_a": 1, "org_b": 1}
    assert len(validate._turns) == 0


async def test_a_secret_that_the_script_tells_is_hidden() -> None:
    said = "connecting with t0p-secret to https://t0p-secret@host"
    found = ImportReport(ok=False, error_kind="import", detail=f"ValueError: {said}", line=3, log_tail=said)
    check = last(await World(secrets={"TOKEN": "t0p-secret"}, found=found).validate())
    assert "t0p-secret" not in check.detail
    assert check.detail.count("connecting with *** to https://***@host") == 2


async def test_a_schema_that_cant_be_made_stops_nothing_and_is_told() -> None:
    found = ImportReport(
        ok=True, detail="the app's OpenAPI document can't be made: ValueError: no", obstacle="2 threads"
    )
    report = await World(found=found).validate(PLAIN)
    openapi, isolation = report.checks[-2:]
    assert report.accepted
    assert (openapi.passed, openapi.advisory, report.openapi) == (False, True, "")
    assert openapi.detail.startswith("the app's OpenAPI document can't be made: ValueError: no. It serves all the same")
    assert isolation.detail.endswith(
        '2 threads. Start them in the app\'s lifespan, or set `isolation = "cold"` to say so.'
    )
