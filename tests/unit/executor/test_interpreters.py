"""Choosing an interpreter among those that the host has."""

import json
import sys
from pathlib import Path

import pytest

from executor.commands import Completed, Uv, search_path
from executor.interpreters import Interpreters
from kit.errors import Invalid
from tests.fakes.scripted_commands import ScriptedCommands

OWN = list(sys.version_info[:3])
ABOUT = {
    "shims/python3.13": ["/real/3.13/bin/python3.13", "/real/3.13", [3, 13, 0], "cpython", "final", ""],
    "bin/python3.12": ["/usr/bin/python3.12", "/usr", [3, 12, 1], "cpython", "final", ""],
    "bin/python3.10": ["/usr/bin/python3.10", "/usr", [3, 10, 4], "cpython", "final", ""],
    "bin/python3.15": ["/usr/bin/python3.15", "/usr", [3, 15, 0], "cpython", "beta", ""],
    "bin/python3.14": ["/usr/bin/python3.14", "/usr", [3, 14, 0], "cpython", "final", "t"],
    "other/python3.16": ["/opt/pypy", "/opt", [3, 16, 0], "pypy", "final", ""],
}
BROKEN = "bin/python3.11"
NOT_ASKED = ("bin/python3.9", "bin/python2", "bin/python2.7", "bin/python3", "bin/python3.14t", "bin/python3.12-config")


class Host:
    """Directories with these files, and what each tells of itself."""

    def __init__(self, root: Path) -> None:
        for name in (*ABOUT, BROKEN, *NOT_ASKED):
            (root / name).parent.mkdir(exist_ok=True)
            (root / name).write_text(name)
        (root / "other" / "python3.12").symlink_to(root / "bin" / "python3.12")
        self.root = root
        self.commands = ScriptedCommands(self.answer)
        search = ":".join(str(root / name) for name in ("shims", "missing", "bin", "other"))
        self.interpreters = Interpreters(self.commands, Uv(self.commands, root / "home", {"PATH": search}))

    def answer(self, argv: list[str]) -> Completed:
        own = Path(argv[0]) == Path(getattr(sys, "_base_executable", sys.executable)).resolve()
        itself = [argv[0], str(Path(sys.base_prefix).resolve()), OWN, "cpython", "final", ""]
        about = itself if own else ABOUT.get(argv[0].removeprefix(f"{self.root}/"))
        return Completed(0, json.dumps(about).encode()) if about else Completed(127, b"pyenv: command not found")


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


async def test_real_interpreters_own_first_then_the_newest(host: Host) -> None:
    found = await host.interpreters.present()
    assert [str(one) for one in found] == [".".join(map(str, OWN)), "3.13.0", "3.12.1", "3.10.4"]
    assert found[1].path == Path("/real/3.13/bin/python3.13")
    asked = [argv[0] for argv, _ in host.commands.calls]
    assert sorted(asked[1:]) == sorted(str(host.root / name) for name in (*ABOUT, BROKEN))  # no file twice
    assert not {str(host.root / name) for name in NOT_ASKED} & set(asked)
    assert await host.interpreters.present() is found
    assert len(host.commands.calls) == len(asked)


async def test_none_is_not_remembered(host: Host) -> None:
    there, host.commands._answer = host.commands._answer, lambda _: Completed(1, b"")
    assert await host.interpreters.present() == []
    host.commands._answer = there
    assert await host.interpreters.present()


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
async def test_choose(host: Host, requires: str, chosen: str) -> None:
    assert str(await host.interpreters.choose(requires)) == chosen


async def test_none_fits_and_those_present_are_listed(host: Host) -> None:
    with pytest.raises(Invalid, match=r"requires-python '>=3\.99'; present: .*3\.13\.0, 3\.12\.1, 3\.10\.4") as raised:
        await host.interpreters.choose(">=3.99")
    assert raised.value.code == "invalid_workflow"
    with pytest.raises(Invalid, match=r"Python 3\.99 is not on this host; present: "):
        await host.interpreters.find("3.99")


async def test_find_by_minor_or_whole_version(host: Host) -> None:
    assert (await host.interpreters.find("3.12")).base_prefix == Path("/usr")
    assert str(await host.interpreters.find("3.10.4")) == "3.10.4"


async def test_they_are_asked_with_nothing_but_the_search_path(host: Host) -> None:
    await host.interpreters.present()
    assert {tuple(env) for _, env in host.commands.calls} == {("PATH",)}


def test_uv_never_downloads_and_sees_only_what_it_must() -> None:
    environ = {"PATH": "/usr/bin", "UV_DEFAULT_INDEX": "http://i", "AWS_SECRET_ACCESS_KEY": "no", "UV_PYTHON": "no"}
    env = Uv(ScriptedCommands(lambda _: Completed(0, b"")), Path("/home"), environ).env
    assert env["UV_PYTHON_DOWNLOADS"] == "never"
    assert env["UV_NO_CONFIG"] == "1"
    assert env["UV_DEFAULT_INDEX"] == "http://i"
    assert not set(env) & {"AWS_SECRET_ACCESS_KEY", "UV_PYTHON"}


def test_pyenv_shims_give_way_to_its_versions(tmp_path: Path) -> None:
    (tmp_path / "versions" / "3.12.1" / "bin").mkdir(parents=True)
    environ = {"PATH": f"{tmp_path}/shims:/usr/bin", "PYENV_ROOT": str(tmp_path)}
    assert search_path(environ) == "/usr/bin:" + str(tmp_path / "versions" / "3.12.1" / "bin")
