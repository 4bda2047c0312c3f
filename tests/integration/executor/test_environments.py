"""Resolving and building environments with the real uv, from a package index on a loopback port."""

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from executor.environments import Environments
from executor.sandbox import Environment
from kit.errors import Invalid
from tests.fakes.host_commands import HostCommands
from tests.fakes.package_index import PackageIndex


@pytest.fixture
def index() -> Iterator[PackageIndex]:
    with PackageIndex() as index:
        index.add_wheel(
            "app-lib", "1.0", requires=("base-lib<2",), app_lib="import base_lib\nvalue = base_lib.value + 1"
        )
        index.add_wheel("base-lib", "1.5", base_lib="value = 41\ndef fail():\n    raise ValueError\n")
        index.add_wheel("base-lib", "2.0", base_lib="value = 2")
        yield index


@pytest.fixture
def commands() -> HostCommands:
    return HostCommands()


@pytest.fixture
def environments(tmp_path: Path, commands: HostCommands, index: PackageIndex) -> Environments:
    return Environments(tmp_path / "home", commands, index.environ)


async def run(commands: HostCommands, environment: Environment, code: str) -> str:
    """What the environment's interpreter prints, in a sandbox."""
    done = await commands.run_sandboxed(
        [str(environment.interpreter), "-c", code],
        binds_ro=[environment.path, environment.base_prefix],
        binds_rw=[],
        env={},
        cwd=Path("/"),
        timeout=20,
    )
    assert done.returncode == 0, done.text
    return done.text.strip()


async def python_of(environments: Environments) -> str:
    return await environments.choose("")


async def test_from_requirements_to_a_running_import(
    environments: Environments, commands: HostCommands, tmp_path: Path
) -> None:
    python = await python_of(environments)
    lock = await environments.resolve(python, ["app-lib"])
    assert [line.split(" --hash=sha256:")[0] for line in lock.splitlines()] == ["app-lib==1.0", "base-lib==1.5"]
    environment = await environments.ensure(python, lock)
    assert await run(commands, environment, "import app_lib; print(app_lib.value)") == "42"
    assert environment.path == tmp_path / "home" / "envs" / environment.digest
    assert environment.interpreter == environment.path / "bin" / "python"
    assert [entry.name for entry in (tmp_path / "home" / "envs").iterdir()] == [environment.digest]


async def test_an_environment_is_compiled_readable_for_all_and_writable_for_none(
    environments: Environments, commands: HostCommands
) -> None:
    python = await python_of(environments)
    environment = await environments.ensure(python, await environments.resolve(python, ["base-lib<2"]))
    paths = [path for path in environment.path.rglob("*") if not path.is_symlink()]
    assert {oct(path.stat().st_mode & 0o777) for path in paths if path.is_dir()} == {"0o755"}
    assert {oct(path.stat().st_mode & 0o777) for path in paths if path.is_file()} <= {"0o444", "0o555"}
    code = "import base_lib, os; print(os.path.exists(base_lib.__cached__), base_lib.fail.__code__.co_filename)"
    module = next(environment.path.rglob("base_lib.py"))
    assert await run(commands, environment, code) == f"True {module}"
    # Hard-linked: the same file as in uv's cache.
    assert module.stat().st_nlink == 2


async def test_a_built_environment_is_there_at_once(
    environments: Environments, commands: HostCommands, tmp_path: Path, index: PackageIndex
) -> None:
    python = await python_of(environments)
    lock = await environments.resolve(python, ["base-lib"])
    first = await environments.ensure(python, lock)
    commands.ran.clear()
    assert await environments.ensure(python, lock) == first
    assert commands.ran == []
    # Another start on the same home finds it too, and the index isn't asked.
    index.files.clear()
    later = Environments(tmp_path / "home", commands, index.environ)
    assert await later.ensure(python, lock) == first
    assert not [argv for argv in commands.ran if "venv" in argv]


async def test_many_who_want_it_at_once_get_one_build(environments: Environments, commands: HostCommands) -> None:
    python = await python_of(environments)
    lock = await environments.resolve(python, ["base-lib"])
    waiters = [asyncio.create_task(environments.ensure(python, lock)) for _ in range(6)]
    await asyncio.sleep(0)
    waiters[0].cancel()  # the one who began it: the others don't lose their build
    found = await asyncio.gather(*waiters, return_exceptions=True)
    assert isinstance(found[0], asyncio.CancelledError)
    assert len({environment.digest for environment in found[1:] if isinstance(environment, Environment)}) == 1
    assert len([argv for argv in commands.ran if argv[1] == "venv"]) == 1


async def test_no_dependencies(environments: Environments, commands: HostCommands, index: PackageIndex) -> None:
    index.announced.clear()
    python = await python_of(environments)
    assert await environments.resolve(python, []) == ""
    environment = await environments.ensure(python, "")
    assert await run(commands, environment, "print(1)") == "1"


async def test_nothing_of_a_package_runs_outside(
    environments: Environments, commands: HostCommands, index: PackageIndex, tmp_path: Path
) -> None:
    """A `.pth` file and sitecustomize run whenever the environment's interpreter starts."""
    evil = f"import pathlib; pathlib.Path({str(tmp_path / 'pwned')!r}).write_text('x')"
    index.add_raw_wheel("evil", "1", {"evil.pth": evil, "sitecustomize.py": evil, "evil.py": "x = 1"})
    python = await python_of(environments)
    environment = await environments.ensure(python, await environments.resolve(python, ["evil"]))
    assert next(environment.path.rglob("evil.pth")).read_text() == evil
    assert not (tmp_path / "pwned").exists()
    assert not [argv for argv in commands.ran if argv[0].startswith(str(environment.path.parent))]
    # The trap works: started by hand, it springs.
    await commands.run([str(environment.interpreter), "-c", "0"], env={}, cwd=tmp_path, timeout=20)
    assert (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    ("requirements", "reason"),
    [
        (["base-lib", "no-such-lib"], "there is no package named no-such-lib in the package index"),
        (["base-lib==7"], "base-lib==7"),
        (["app-lib", "base-lib>=2"], "app-lib==1.0 depends on base-lib<2|base-lib<2.*app-lib"),
        (["base-lib @ http://127.0.0.1:9/x.whl"], "points at an address"),
        (["-r /etc/passwd"], "not a requirement"),
    ],
)
async def test_what_cannot_be_resolved(environments: Environments, requirements: list[str], reason: str) -> None:
    with pytest.raises(Invalid, match=reason) as raised:
        await environments.resolve(await python_of(environments), requirements)
    assert raised.value.code == "invalid_workflow"
    assert "--no-build" not in raised.value.message
    assert "\n" not in raised.value.message


async def test_a_failed_build_leaves_nothing_and_may_be_tried_again(
    environments: Environments, index: PackageIndex, tmp_path: Path
) -> None:
    python = await python_of(environments)
    lock = await environments.resolve(python, ["app-lib"])
    good = index.files["base_lib-1.5-py3-none-any.whl"]
    index.add_wheel("base-lib", "1.5", base_lib="value = 'swapped'")
    with pytest.raises(Invalid, match=r"(?i)hash"):
        await environments.ensure(python, lock)
    assert list((tmp_path / "home" / "envs").iterdir()) == []
    index.files["base_lib-1.5-py3-none-any.whl"] = good
    assert (await environments.ensure(python, lock)).interpreter.exists()


@pytest.mark.parametrize("line", ["--index-url http://127.0.0.1:9", "base-lib", "-r /etc/passwd", "x @ file:///"])
async def test_a_forged_lock_never_reaches_uv(environments: Environments, commands: HostCommands, line: str) -> None:
    python = await python_of(environments)
    commands.ran.clear()
    with pytest.raises(Invalid, match="not a line of a lock"):
        await environments.ensure(python, f"{line}\n")
    assert commands.ran == []


async def test_a_python_that_is_not_here(environments: Environments) -> None:
    with pytest.raises(Invalid, match=r"Python 3\.99 is not on this host; present: 3\.\d+\.\d+"):
        await environments.ensure("3.99", "")


async def test_a_start_sweeps_what_a_dead_executor_left(tmp_path: Path, commands: HostCommands) -> None:
    envs, builds = tmp_path / "home" / "envs", tmp_path / "home" / "builds"
    making = tmp_path / "home" / "packages" / "making"
    for leftover in (
        envs / ".build-x" / "env",
        making / "y" / "made",
        envs / "done",
        builds / "z",
    ):
        leftover.mkdir(parents=True)
    Environments(tmp_path / "home", commands, os.environ)
    assert [path.name for path in envs.iterdir()] == ["done"]
    assert [*builds.iterdir(), *making.iterdir()] == []


async def test_closing_ends_a_build(
    environments: Environments, commands: HostCommands, index: PackageIndex, tmp_path: Path
) -> None:
    python = await python_of(environments)
    lock = await environments.resolve(python, ["base-lib"])
    waiting = asyncio.create_task(environments.ensure(python, lock))
    for _ in range(2000):
        if any(argv[1] == "venv" for argv in commands.ran):
            break
        await asyncio.sleep(0.005)
    await environments.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert list((tmp_path / "home" / "envs").iterdir()) == []


async def test_another_host_builds_the_same_from_the_lock(
    environments: Environments, commands: HostCommands, index: PackageIndex, tmp_path: Path
) -> None:
    python = await python_of(environments)
    lock = await environments.resolve(python, ["app-lib"])
    elsewhere = Environments(tmp_path / "elsewhere", commands, index.environ)
    environment = await elsewhere.ensure(python, lock)
    assert json.loads(await run(commands, environment, "import app_lib; print(app_lib.value)")) == 42
