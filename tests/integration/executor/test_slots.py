"""Templates and slots, with the real bubblewrap: fresh is fresh, what can't be forked runs cold, nothing stays."""

import asyncio
import json
import os
import shutil
import signal
import sys
import venv
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from executor.driver import BubblewrapDriver
from executor.sandbox import Crashed, Environment, Head, Launch
from executor.templates import Templates, open_templates
from kit.clock import SystemClock
from tests.fakes.real_sandboxes import OUR_ENVIRONMENT, READY_SECONDS, Started, until

# A bare ASGI app; the body of `handle` is each test's. Its import leaves what `IMPORT` says.
APP = """
import json, os, random, sys, tempfile, uuid
import uvicorn
%s
CALLS = []

def handle(path):
    global CALLS
%s

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        return
    said = json.dumps(handle(scope["path"])).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": said})

uvicorn.run(app)
"""


WHERE = "return len(os.listdir('/runmesh'))"  # the shim's own files, which slots don't see
FORKED = 0
PACKAGES = ("lib", f"python3.{sys.version_info.minor}", "site-packages")


def app(handle: str, on_import: str = "") -> str:
    body = "\n".join("    " + line for line in handle.splitlines())
    return APP % (on_import, body)


@pytest.fixture
async def templates(driver: BubblewrapDriver) -> AsyncIterator[Templates]:
    async with open_templates(driver, SystemClock(), READY_SECONDS) as templates:
        yield templates


@asynccontextmanager
async def run(
    templates: Templates,
    source: str,
    env: dict[str, str] | None = None,
    isolation: str = "run",
    environment: Environment = OUR_ENVIRONMENT,
    version: str = "v1",
) -> AsyncIterator[Started]:
    launch = Launch("run_1", environment, source.encode(), "w.py", env or {}, isolation, version, "org")
    session = Started(await templates.start(launch))
    try:
        await session.sandbox.ready(READY_SECONDS)
        yield session
    finally:
        await session.end()


async def said(
    templates: Templates, source: str, path: str = "/", env: dict[str, str] | None = None, isolation: str = "run"
) -> Any:
    async with run(templates, source, env, isolation) as session:
        answer = await session.call(Head([(b"host", b"test")], path=path))
    return json.loads(answer.body)


async def both(templates: Templates, source: str) -> tuple[Any, Any]:
    """Of two runs, forked from the same template."""
    first, second = await said(templates, source), await said(templates, source)
    assert not templates._cold
    return first, second


async def test_a_run_sees_nothing_of_the_one_before(templates: Templates) -> None:
    source = app(
        """
CALLS.append(1)
seen = [len(CALLS), os.environ.get("MARK"), sorted(map(os.path.exists, PLACES)), new(), os.listdir(".")]
os.environ["MARK"] = "here"
for place in PLACES:
    open(place, "w").close()
seen.append(sorted(int(name) for name in os.listdir("/proc") if name.isdigit()))
return seen
""",
        'PLACES = ["/tmp/mark", "/var/tmp/other", "/workflow/mark", "/dev/shm/mark"]\n'
        'THERE = set(os.listdir("/tmp"))\n'  # where an environment under /tmp is shown
        'def new(): return sorted(set(os.listdir("/tmp")) - THERE)',
    )
    fresh = [1, None, [False] * 4, [], ["w.py"], [1, 2]]
    assert await both(templates, source) == (fresh, fresh)


async def test_what_programs_of_the_import_left_dead_is_no_hindrance(templates: Templates) -> None:
    """A template is pid 1: orphans become its children."""
    left = "import subprocess, time\nsubprocess.run('sleep 0.05 & exit 0', shell=True)\ntime.sleep(0.3)"
    assert await both(templates, app(WHERE, left)) == (FORKED, FORKED)


async def test_an_environment_below_a_place_for_temporary_files(templates: Templates, tmp_path: Path) -> None:
    """It is mounted below what an overlay is to be made of, with which the kernel allows none."""
    own = tmp_path / "environment"
    venv.create(own, symlinks=True)
    for name in ("uvicorn", "click", "h11"):
        shutil.copytree(OUR_ENVIRONMENT.path.joinpath(*PACKAGES, name), own.joinpath(*PACKAGES, name))
    environment = replace(OUR_ENVIRONMENT, path=own, interpreter=own / "bin" / "python")
    source = app(f"return [os.listdir({str(own)!r}) != [], {WHERE.removeprefix('return ')}, sys.prefix]")
    async with run(templates, source, environment=environment) as session:
        answer = await session.call()
    assert json.loads(answer.body) == [True, FORKED, str(own)]


async def test_chance_is_different_in_every_run(templates: Templates) -> None:
    source = app(
        """
return [random.random(), OWN.random(), CHOICE.random(), tempfile.mktemp(), str(uuid.uuid4()), str(uuid.uuid1()),
        os.urandom(8).hex(), next(tempfile._get_candidate_names())]
""",
        "OWN = random.Random()\nCHOICE = random.SystemRandom()\ntempfile.mktemp()\nuuid.uuid1()",
    )
    first, second = await both(templates, source)
    assert not set(first) & set(second)


async def test_a_generator_with_a_seed_keeps_it(templates: Templates) -> None:
    first, second = await both(templates, app("return SEEDED.random()", "SEEDED = random.Random(7)"))
    assert first == second


async def test_what_the_import_left_is_there_and_stays_as_it_was(templates: Templates) -> None:
    source = app(
        """
kept = [open("/tmp/model").read(), open("cache/index").read()]
open("/tmp/model", "w").write("changed")
os.remove("cache/index")
return kept
""",
        'open("/tmp/model", "w").write("big")\nos.mkdir("cache")\nopen("cache/index", "w").write("small")',
    )
    assert await both(templates, source) == (["big", "small"], ["big", "small"])


async def test_what_the_import_prints_is_said_once(templates: Templates) -> None:
    source = app("print('called')", "print('imported'); print('oh', file=sys.stderr)")
    printed = []
    for _ in range(2):
        async with run(templates, source) as session:
            await session.call()
        printed.append((session.stdout, session.stderr))
    assert printed == [(b"imported\ncalled\n", b"oh\n"), (b"called\n", b"")]


@pytest.mark.parametrize(
    "on_import",
    [
        "import threading, time\nthreading.Thread(target=time.sleep, args=(600,), daemon=True).start()",
        "import subprocess\nsubprocess.Popen(['sleep', '600'])",
        "import mmap\nSHARED = mmap.mmap(-1, 4096)",
        "import socket\nKEPT = socket.socket()",
        "KEPT = open('/tmp/log', 'w')",
        "import asyncio\nLOOP = asyncio.new_event_loop()",
        "uvicorn.run = lambda app: __import__('asyncio').run(uvicorn.Server(uvicorn.Config(app)).serve())",
    ],
    ids=["thread", "child", "shared memory", "socket", "file to write", "event loop", "own event loop"],
)
async def test_what_cannot_be_forked_runs_cold(templates: Templates, on_import: str) -> None:
    source = app(WHERE, on_import)
    assert FORKED not in [await said(templates, source), await said(templates, source)]
    assert list(templates._cold.values()) == [None]


async def test_a_file_open_to_read_is_no_hindrance(templates: Templates) -> None:
    assert await both(templates, app(WHERE, "KEPT = open(__file__)")) == (FORKED, FORKED)


async def test_a_script_that_fails_fails_as_ever(templates: Templates) -> None:
    with pytest.raises(Exception, match="ValueError: broken"):
        await said(templates, "raise ValueError('broken')")


async def test_another_environment_is_another_template(templates: Templates) -> None:
    source = app("return SECRET", 'SECRET = os.environ["SECRET"]')
    assert await said(templates, source, env={"SECRET": "a"}) == "a"
    assert await said(templates, source, env={"SECRET": "b"}) == "b"
    assert await said(templates, source, env={"SECRET": "a"}) == "a"
    assert len(templates._entries) == 2


@pytest.mark.parametrize(
    ("end", "told"),
    [
        ("os._exit(3)", "exit status 3"),
        ("import ctypes; ctypes.string_at(0)", "SIGSEGV"),
        ("import signal; os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"),
        ("os.abort()", "SIGABRT"),
    ],
)
async def test_how_a_slot_ended_is_told(templates: Templates, end: str, told: str) -> None:
    with pytest.raises((Crashed, AssertionError), match=told):
        await said(templates, app(end))


async def test_a_slot_waits_for_the_next_call(templates: Templates) -> None:
    source = app(WHERE)
    await said(templates, source)
    (entry,) = templates._entries.values()
    await until(lambda: entry.waiting)
    slot = entry.waiting
    async with run(templates, source) as session:
        assert session.sandbox is slot


async def test_a_slot_that_died_while_it_waited_is_no_ones(templates: Templates, driver: BubblewrapDriver) -> None:
    source = app(WHERE)
    await said(templates, source)
    (entry,) = templates._entries.values()
    await until(lambda: entry.waiting)
    slot: Any = entry.waiting
    driver._spawner.kill(slot.job)
    await until(lambda: slot.is_over)
    assert await said(templates, source) == FORKED


async def test_a_template_that_died_is_replaced(templates: Templates, driver: BubblewrapDriver) -> None:
    source = app(WHERE)
    await said(templates, source)
    (entry,) = templates._entries.values()
    template: Any = entry.making.result()
    driver._spawner.kill(template.job)
    await template.gone.wait()
    assert await said(templates, source) == FORKED


async def test_many_runs_leave_nothing(templates: Templates, driver: BubblewrapDriver, sandbox_home: Path) -> None:
    source = app("open('/tmp/left', 'w').close()\nos.makedirs('deep/er')\nreturn os.getpid()")
    await said(templates, source)
    (entry,) = templates._entries.values()
    await until(lambda: entry.waiting)
    before = count(driver)
    for _ in range(5):
        await asyncio.gather(*(said(templates, source) for _ in range(8)))
    await until(lambda: entry.waiting and not entry.refilling)
    await until(lambda: count(driver) == before)
    assert len(list(sandbox_home.rglob("runs/**/slot-*"))) == 1


def count(driver: BubblewrapDriver) -> tuple[int, ...]:
    """(processes below the spawner, our descriptors, the spawner's, jobs)."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text(errors="replace").rpartition(")")[2].split()[1])
        except OSError:
            continue
    family = {driver._spawner.pid}
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    descriptors = [len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in (os.getpid(), driver._spawner.pid)]
    return len(family), *descriptors, len(driver._spawner._jobs)


async def test_a_slot_has_no_rights_at_all(templates: Templates) -> None:
    handle = """
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
tried = []
for flags in (0x10000000, 0x20000, 0x40000000):
    tried.append(libc.unshare(flags) and errno.errorcode[ctypes.get_errno()])
tried.append(libc.syscall(56, 0x7E020000 & ~0x2000000 | 17, 0, 0, 0, 0) and errno.errorcode[ctypes.get_errno()])
tried.append(libc.mount(b"none", b"/tmp", b"tmpfs", 0, None) and errno.errorcode[ctypes.get_errno()])
caps = {int(status[name], 16) for name in status if name.startswith("Cap")}
mounts = [line.split()[4] for line in open("/proc/self/mountinfo")]
return [status["NoNewPrivs"], status["Seccomp"], sorted(caps), tried, os.listdir("/runmesh"),
        os.path.getsize("/proc/kallsyms"), open("/proc/net/dev").read().count(":")]
"""
    assert await said(templates, app(handle)) == ["1", "2", [0], ["EPERM"] * 5, [], 0, 1]


async def test_closing_leaves_nothing(driver: BubblewrapDriver, sandbox_home: Path) -> None:
    async with open_templates(driver, SystemClock(), READY_SECONDS) as templates:
        await said(templates, app("return 1"))
    await until(lambda: not list(sandbox_home.glob("runs/base-*/slots/*")))
    assert len(list(sandbox_home.glob("runs/*"))) == 1  # the base may be of use to others
    assert signal.getsignal(signal.SIGCHLD) in (signal.SIG_DFL, None)


COUNT = app("CALLS.append(path)\nprint('call', len(CALLS))\nif path == '/die':\n    os._exit(1)\nreturn len(CALLS)")
THREADED = "import threading, time\nthreading.Thread(target=time.sleep, args=(600,), daemon=True).start()"


@pytest.mark.parametrize("source", [COUNT, COUNT.replace("import uvicorn", f"import uvicorn\n{THREADED}")])
async def test_an_instance_serves_one_call_after_the_other(templates: Templates, source: str) -> None:
    printed = []
    for number in (1, 2, 3):
        async with run(templates, source, isolation="instance") as session:
            answer = await session.call()
        assert json.loads(answer.body) == number
        printed.append(session.stdout)
    assert printed == [b"call 1\n", b"call 2\n", b"call 3\n"]


async def test_calls_at_once_have_instances_of_their_own(templates: Templates) -> None:
    one, other = (run(templates, COUNT, isolation="instance") for _ in range(2))
    async with one as first, other as second:
        bodies = [(await session.call()).body for session in (first, second)]
    assert bodies == [b"1", b"1"]
    assert await said(templates, COUNT, isolation="instance") == 2


async def test_versions_with_the_same_source_share_no_instance(templates: Templates) -> None:
    for version in ("v1", "v2"):
        async with run(templates, COUNT, isolation="instance", version=version) as session:
            assert (await session.call()).body == b"1"


async def test_instances_leave_nothing(driver: BubblewrapDriver) -> None:
    async with open_templates(driver, SystemClock(), READY_SECONDS) as templates:
        await said(templates, COUNT, isolation="instance")
    await until(lambda: not driver._spawner._jobs)
    before = count(driver)
    async with open_templates(driver, SystemClock(), READY_SECONDS) as templates:
        for path in ("/", "/", "/die", "/"):
            with suppress(Crashed):
                await said(templates, COUNT, path, isolation="instance")
    await until(lambda: count(driver) == before)


async def test_idle_instances_are_ended_at_once(driver: BubblewrapDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("executor.conversation.GRACE_SECONDS", 60.0)  # what a script that has served may take to end
    async with open_templates(driver, SystemClock(), READY_SECONDS) as templates:
        async with AsyncExitStack() as stack:
            for _ in range(3):
                session = await stack.enter_async_context(run(templates, COUNT, isolation="instance"))
                await session.call()
        async with asyncio.timeout(20):
            await templates.close()
    await until(lambda: len(driver._spawner._jobs) <= 1)  # the base


async def test_an_instance_that_died_or_was_cut_off_serves_nobody(templates: Templates) -> None:
    assert await said(templates, COUNT, isolation="instance") == 1
    with pytest.raises(Crashed):
        await said(templates, COUNT, "/die", isolation="instance")
    assert await said(templates, COUNT, isolation="instance") == 1
    async with run(templates, COUNT, isolation="instance"):
        pass  # a run that ends before it is served, as when its time is over
    assert await said(templates, COUNT, isolation="instance") == 1
