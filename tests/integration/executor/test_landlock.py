"""Landlock as the shim applies it: in a plain process, in a cold sandbox, in a template and its slots."""

import json
import os
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from executor import shim_landlock
from executor.driver import BubblewrapDriver
from executor.sandbox import Head, Launch, StartFailed
from executor.templates import Templates, open_templates
from kit.clock import SystemClock
from tests.fakes.real_sandboxes import OUR_ENVIRONMENT, READY_SECONDS, Started

LANDLOCK = Path(shim_landlock.__file__)
TRIED = """
import errno, json, os, socket, sys, tempfile

def tried(action):
    try:
        action()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"

"""
# What must go on working; `tried` of each gives "done".
USUAL = """
def moved():
    os.makedirs("/tmp/a/b"); os.makedirs("/tmp/c")
    open("/tmp/a/b/file", "w").close()
    os.rename("/tmp/a/b/file", "/tmp/c/file"); os.link("/tmp/c/file", "/tmp/a/link"); os.truncate("/tmp/c/file", 0)
    os.symlink("x", "/tmp/c/symlink"); os.mkfifo("/tmp/c/fifo")
    os.replace("/tmp/c/file", "/tmp/a/link"); os.rmdir("/tmp/a/b")

def heard():
    with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as two:
        one.bind("\\0ours"); one.listen(); two.connect("\\0ours")
    with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as two:
        one.bind("/tmp/sock"); one.listen(); two.connect("/tmp/sock")

def signalled():
    child = os.fork()
    if not child:
        import time
        time.sleep(60)
    os.kill(child, 9); os.waitpid(child, 0)

def ran():
    import subprocess
    with open("/tmp/program", "w") as file:
        file.write("#!/bin/sh\\nexit 0\\n")
    os.chmod("/tmp/program", 0o700)
    assert subprocess.run(["/tmp/program"]).returncode == 0
    assert subprocess.run([sys.executable, "-c", "import ssl, sqlite3"]).returncode == 0

def stored():
    import sqlite3
    with sqlite3.connect("/workflow/db") as db:
        db.execute("pragma journal_mode=wal"); db.execute("create table t (a)")
    db.close()

def shared():
    import multiprocessing
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(abs, [-1]) == [1]
    open("/dev/shm/x", "w").close(); open("/var/tmp/x", "w").close(); open("/workflow/x", "w").close()

def devices():
    import pty
    for place in ("/dev/null", "/dev/zero", "/dev/urandom"):
        open(place, "rb").read(1)
    open("/dev/null", "w").write("x")
    first, second = pty.openpty()
    assert os.isatty(second)
    import termios
    termios.tcgetattr(second)

def read():
    for place in ("/etc/passwd", "/etc/hosts", "/proc/self/status", "/usr/bin/env", sys.prefix + "/pyvenv.cfg"):
        open(place, "rb").read(1)
    os.listdir("/usr"); os.listdir("/proc/self/fd"); os.listdir("/tmp")

USUAL = {each.__name__: tried(each) for each in (moved, heard, signalled, ran, stored, shared, devices, read)}
"""
WORKING = dict.fromkeys(("moved", "heard", "signalled", "ran", "stored", "shared", "devices", "read"), "done")
APP = """
import uvicorn
%s
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        return
%s
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps(result).encode()})

uvicorn.run(app)
"""


def confine(call: str) -> str:
    """Code that makes `how` what confining tells."""
    return f"ll = {{'__name__': 'landlock'}}\nexec({LANDLOCK.read_text()!r}, ll)\nhow = ll['confine']({call})\n"


def app(on_import: str, handle: str) -> str:
    return APP % (TRIED + on_import, textwrap.indent(handle, "    "))


@pytest.fixture
async def templates(driver: BubblewrapDriver) -> AsyncIterator[Templates]:
    async with open_templates(driver, SystemClock(), READY_SECONDS) as templates:
        yield templates


async def said(templates: Templates, source: str, isolation: str = "run") -> Any:
    launch = Launch("run_1", OUR_ENVIRONMENT, source.encode(), "w.py", {}, isolation, source[-2000:], "org")
    session = Started(await templates.start(launch))
    try:
        await session.sandbox.ready(READY_SECONDS)
        answer = await session.call(Head([(b"host", b"test")]))
    finally:
        await session.end()
    assert not templates._cold
    return json.loads(answer.body)


def plainly(code: str, outside: Path) -> Any:
    """What `result` is after the code has run in a process of its own, not in a sandbox."""
    source = f"{TRIED}import ctypes\nctypes.CDLL(None).prctl(38, 1, 0, 0, 0)\noutside = {str(outside)!r}\n{code}"
    ended = subprocess.run(
        [sys.executable, "-c", source + "\nprint(json.dumps(result))"], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


ATTACKS = """
def connected():
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect("\\0" + outside)
result = {
    "read": tried(lambda: open(outside + "/there").close()), "list": tried(lambda: os.listdir(outside)),
    "root": tried(lambda: os.listdir("/")), "write": tried(lambda: open(outside + "/there", "a").close()),
    "make": tried(lambda: open(outside + "/new", "w").close()), "directory": tried(lambda: os.mkdir(outside + "/d")),
    "truncate": tried(lambda: os.truncate(outside + "/there", 0)),
    "link": tried(lambda: os.symlink("x", outside + "/l")), "run": tried(lambda: os.posix_spawn(
        outside + "/program", ["program"], {})), "remove": tried(lambda: os.unlink(outside + "/there")),
    "signal": tried(lambda: os.kill(os.getppid(), 0)), "connect": tried(connected),
}
"""


@pytest.fixture
def outside() -> Any:
    """A directory of the host, and an abstract socket by the same name."""
    import socket  # noqa: PLC0415

    with (
        tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".landlock-") as name,
        socket.socket(socket.AF_UNIX) as listening,
    ):
        listening.bind(f"\0{name}")
        listening.listen()
        place = Path(name)
        (place / "there").write_text("there")
        (place / "program").write_text("#!/bin/sh\n")
        (place / "program").chmod(0o755)
        yield place


def test_a_process_that_is_not_confined_may_all_that(outside: Path) -> None:
    """The positive control of the next test."""
    assert set(plainly(ATTACKS, outside).values()) == {"done"}


def test_a_confined_process_may_none_of_it(outside: Path) -> None:
    result = plainly(confine("") + ATTACKS, outside)
    assert result.pop("signal") == "EPERM"
    assert result.pop("connect") == "EPERM"
    assert set(result.values()) == {"EACCES"}, result


async def test_this_kernel_can_all_of_it() -> None:
    assert shim_landlock.VERSION >= 6


@pytest.mark.parametrize("version", range(6))
def test_an_older_kernel_does_what_it_can(version: int, outside: Path) -> None:
    """As far as that can be had here: only what that version knows is asked for."""
    code = confine("").replace("how =", f"ll['VERSION'] = {version}\nhow =")
    result = plainly(f"{code}{ATTACKS}result['how'] = how", outside)
    assert result["how"].startswith(("no Landlock", "Landlock (version"))
    assert result["signal"] == result["connect"] == "done"
    confined = "EACCES" if version >= 2 else "done"
    assert [result[it] for it in ("read", "list", "write", "make", "run", "remove")] == [confined] * 6
    assert result["truncate"] == ("EACCES" if version >= 3 else "done")


def test_it_holds_for_children_and_for_good(outside: Path) -> None:
    code = f"""
import subprocess
{confine("")}
ll["_RULES"].append((outside, ll["READ_FILE"] | ll["READ_DIR"]))
again = ll["confine"]()
child = subprocess.run(["/bin/ls", outside], capture_output=True).returncode
result = [how, again, tried(lambda: os.listdir(outside)), child]
"""
    assert plainly(code, outside) == ["", "", "EACCES", 2]


async def test_a_cold_sandbox(templates: Templates) -> None:
    before = 'before = tried(lambda: os.listdir("/"))\n'
    source = app(before + confine("") + USUAL, 'result = [how, before, tried(lambda: os.listdir("/")), USUAL]')
    how, before, after, usual = await said(templates, source, "cold")
    assert (how, after, usual) == ("", "EACCES", WORKING)
    assert before in {"done", "EACCES"}  # the latter once the shim has done it


async def test_a_slot_confines_itself_below_its_template(templates: Templates) -> None:
    on_import = confine("template=True") + 'before = tried(lambda: open("/tmp/made", "w").close())\n'
    handle = confine("") + f'exec({USUAL!r}, globals())\nresult = [how, before, tried(lambda: os.listdir("/")), USUAL]'
    assert await said(templates, app(on_import, handle)) == ["", "done", "EACCES", WORKING]


async def test_why_a_template_is_not_confined_like_a_slot(templates: Templates) -> None:
    """Its rules don't cover what is mounted over them: such a slot couldn't even read its own /proc."""
    with pytest.raises(StartFailed, match="Permission denied: '/proc/self/"):
        await said(templates, app(confine(""), "result = 1"))


NODE = 'tried(lambda: os.mknod(f"{outside}/node", 0o020600, 0))'


def test_a_process_confined_as_a_template_makes_no_device_nodes(outside: Path) -> None:
    """Nor anything else less: it moves files as before, which a ruleset that says nothing of that would forbid."""
    move = "tried(lambda: os.rename(outside + '/there', outside + '/d/there'))"
    before = f"before = {NODE}\nos.unlink(outside + '/node')\nos.mkdir(outside + '/d')\n"
    result = plainly(before + confine("template=True") + f"result = [before, {NODE}, {move}]", outside)
    assert result == ["done", "EACCES", "done"]


async def test_a_template_makes_no_device_nodes_and_its_slots_have_terminals(templates: Templates) -> None:
    on_import = confine("template=True") + 'made = tried(lambda: os.mknod("/tmp/node", 0o020600, 0))'
    handle = "import pty, termios\nresult = [made, tried(lambda: termios.tcgetattr(pty.openpty()[1]))]"
    assert await said(templates, app(on_import, handle)) == ["EACCES", "done"]


def test_only_the_standard_library() -> None:
    assert os.path.commonpath([LANDLOCK, Path(sys.modules["executor"].__path__[0])]).endswith("executor")
    imported = {line.split()[1] for line in LANDLOCK.read_text().splitlines() if line.startswith(("import ", "from "))}
    assert {name.split(".")[0] for name in imported} <= sys.stdlib_module_names
