"""Choosing an interpreter among those that the host has."""

import json
import sys
from pathlib import Path

import pytest

from executor.commands import Completed, Uv, search_path
from executor.interpreters import Interpreters
from kit.errors import Invalid, Unavailable
from tests.fakes.scripted_commands import ScriptedCommands

OWN = list(sys.version_info[:3])
ABOUT = {
    "/shims/python3.13": ["/real/3.13/bin/python3.13", "/real/3.13", [3, 13, 0], "cpython", "final"],
    "/usr/bin/python3.12": ["/usr/bin/python3.12", "/usr", [3, 12, 1], "cpython", "final"],
    "/usr/bin/python3.10": ["/usr/bin/python3.10", "/usr", [3, 10, 4], "cpython", "final"],
    "/usr/bin/python3.15": ["/usr/bin/python3.15", "/usr", [3, 15, 0], "cpython", "beta"],
}


def row(path: str, major: int, minor: int, **other: str) -> dict[str, object]:
    parts = {"version_parts": {"major": major, "minor": minor}}
    return {"path": path, "implementation": "cpython", "variant": "default", **parts, **other}


LISTED = [
    row("/shims/python3.13", 3, 13),
    row("/usr/bin/python3.10", 3, 10),
    row("/usr/bin/python3.12", 3, 12),
    row("/usr/bin/python3.15", 3, 15),
    row("/broken/python3.11", 3, 11),
    row("/usr/bin/python3.9", 3, 9),
    row("/usr/bin/python2", 2, 7),
    row("/usr/bin/pypy", 3, 11, implementation="pypy"),
    row("/usr/bin/python3.14t", 3, 14, variant="freethreaded"),
]


def answer(argv: list[str]) -> Completed:
    if argv[1:3] == ["python", "list"]:
        return Completed(0, b"warning: a shim is broken\n" + json.dumps(LISTED).encode() + b"\nwarning: another\n")
    own = argv[0] == getattr(sys, "_base_executable", sys.executable)
    about = [argv[0], str(Path(sys.base_prefix).resolve()), OWN, "cpython", "final"] if own else ABOUT.get(argv[0])
    return Completed(0, json.dumps(about).encode()) if about else Completed(127, b"pyenv: command not found")


def interpreters(commands: ScriptedCommands) -> Interpreters:
    return Interpreters(commands, Uv(commands, Path("/nonexistent"), {"PATH": "/usr/bin"}))


async def test_real_interpreters_own_first_then_the_newest() -> None:
    commands = ScriptedCommands(answer)
    looking = interpreters(commands)
    found = await looking.present()
    assert [str(one) for one in found] == [".".join(map(str, OWN)), "3.13.0", "3.12.1", "3.10.4"]
    assert found[1].path == Path("/real/3.13/bin/python3.13")
    asked = {argv[0] for argv, _ in commands.calls}
    assert not asked & {"/usr/bin/python3.9", "/usr/bin/python2", "/usr/bin/pypy", "/usr/bin/python3.14t"}
    calls = len(commands.calls)
    assert await looking.present() is found
    assert len(commands.calls) == calls


@pytest.mark.parametrize(
    ("requires", "chosen"),
    [
        ("", ".".join(map(str, OWN))),
        (">=3.10", ".".join(map(str, OWN))),
        ("!=" + ".".join(map(str, OWN)), "3.13.0"),
        ("==3.12.*", "3.12.1"),
        ("<3.11", "3.10.4"),
    ],
)
async def test_choose(requires: str, chosen: str) -> None:
    assert str(await interpreters(ScriptedCommands(answer)).choose(requires)) == chosen


async def test_none_fits_and_those_present_are_listed() -> None:
    with pytest.raises(Invalid, match=r"requires-python '>=3\.99'; present: .*3\.13\.0, 3\.12\.1, 3\.10\.4") as raised:
        await interpreters(ScriptedCommands(answer)).choose(">=3.99")
    assert raised.value.code == "invalid_workflow"
    with pytest.raises(Invalid, match=r"Python 3\.99 is not on this host; present: "):
        await interpreters(ScriptedCommands(answer)).find("3.99")


async def test_find_by_minor_or_whole_version() -> None:
    looking = interpreters(ScriptedCommands(answer))
    assert (await looking.find("3.12")).base_prefix == Path("/usr")
    assert str(await looking.find("3.10.4")) == "3.10.4"


async def test_nothing_is_remembered_of_a_failure() -> None:
    answers = [Completed(2, b"error: no")]
    looking = interpreters(ScriptedCommands(lambda argv: answers.pop() if answers else answer(argv)))
    with pytest.raises(Unavailable):
        await looking.present()
    assert await looking.present()


async def test_uv_never_downloads_and_sees_only_what_it_must() -> None:
    commands = ScriptedCommands(answer)
    environ = {"PATH": "/usr/bin", "UV_DEFAULT_INDEX": "http://i", "AWS_SECRET_ACCESS_KEY": "no", "UV_PYTHON": "no"}
    await Uv(commands, Path("/home"), environ).interpreters()
    env = commands.calls[0][1]
    assert env["UV_PYTHON_DOWNLOADS"] == "never"
    assert env["UV_NO_CONFIG"] == "1"
    assert env["UV_DEFAULT_INDEX"] == "http://i"
    assert not set(env) & {"AWS_SECRET_ACCESS_KEY", "UV_PYTHON"}


def test_pyenv_shims_give_way_to_its_versions(tmp_path: Path) -> None:
    (tmp_path / "versions" / "3.12.1" / "bin").mkdir(parents=True)
    environ = {"PATH": f"{tmp_path}/shims:/usr/bin", "PYENV_ROOT": str(tmp_path)}
    assert search_path(environ) == "/usr/bin:" + str(tmp_path / "versions" / "3.12.1" / "bin")
