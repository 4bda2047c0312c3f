"""The spawner: programs run for us, and that nothing outlives whoever should have ended it."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from executor.commands import Commands
from executor.confinement import Confinement
from executor.driver import BubblewrapDriver
from executor.programs import Programs
from executor.sandbox import Crashed, Exit, Launch, StartFailed
from executor.spawner_client import SpawnerClient, open_spawner
from kit.errors import Unavailable
from tests.fakes.real_sandboxes import (
    OUR_ENVIRONMENT,
    PUBLIC_URL,
    READY_SECONDS,
    Started,
    alive,
    started,
    until,
    until_gone,
)

ROOT = Path(__file__).parents[3]


@pytest.fixture
async def spawner(sandbox_home: Path) -> AsyncIterator[SpawnerClient]:
    async with open_spawner(sandbox_home / "runs", [], None) as spawner:
        yield spawner


@pytest.fixture
def programs(spawner: SpawnerClient) -> Commands:
    return Programs(spawner, Confinement(spawner))


async def test_a_program_runs_to_its_end(programs: Commands, tmp_path: Path) -> None:
    code = "import os, sys; print(sorted(os.environ), os.getcwd()); print('two', file=sys.stderr); sys.exit(5)"
    done = await programs.run([sys.executable, "-Ic", code], env={"ONLY": "this"}, cwd=tmp_path, timeout=30)
    assert (done.returncode, done.timed_out) == (5, False)
    seen, second = sorted(done.text.splitlines())
    assert seen in (f"['ONLY'] {tmp_path}", f"['LC_CTYPE', 'ONLY'] {tmp_path}")
    assert second == "two"


async def test_a_program_that_isnt_there(programs: Commands, tmp_path: Path) -> None:
    done = await programs.run(["/nowhere/program"], env={}, cwd=tmp_path, timeout=30)
    assert done.returncode == 127
    assert "No such file" in done.text


async def test_a_program_that_takes_too_long_dies_with_its_children(programs: Commands, tmp_path: Path) -> None:
    marker = f"marker-{uuid.uuid4()}"
    shell = f"echo begun; sh -c 'sleep 600; : {marker}' & sleep 600; : {marker}"
    done = await programs.run(["/bin/sh", "-c", shell], env={"PATH": os.defpath}, cwd=tmp_path, timeout=0.5)
    assert (done.timed_out, done.returncode, done.output) == (True, -9, b"begun\n")
    await until_gone(marker)


async def test_a_program_whose_caller_is_cancelled_dies(programs: Commands, tmp_path: Path) -> None:
    marker = f"marker-{uuid.uuid4()}"
    shell = f"sleep 600; : {marker}"
    running = asyncio.create_task(programs.run(["/bin/sh", "-c", shell], env={}, cwd=tmp_path, timeout=600))
    await until(lambda: alive(marker), READY_SECONDS)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await until_gone(marker)


async def test_a_flood_is_cut_and_many_run_at_once(programs: Commands, tmp_path: Path) -> None:
    flood = [sys.executable, "-Ic", "import os\nfor _ in range(300): os.write(1, b'x' * 10000)"]
    done = await asyncio.gather(*(programs.run(flood, env={}, cwd=tmp_path, timeout=60) for _ in range(8)))
    assert [len(one.output) for one in done] == [1 << 20] * 8
    assert {one.returncode for one in done} == {0}


async def test_a_sandboxed_program(programs: Commands, tmp_path: Path) -> None:
    shown, writable, hidden = tmp_path / "shown", tmp_path / "writable", tmp_path / "hidden"
    for directory in (shown, writable, hidden):
        directory.mkdir()
    tmp_path.chmod(0o700)  # what lies behind a closed door can be shown all the same
    writable.chmod(0o777)
    (shown / "file").write_text("text")
    code = f"""
    import os, socket
    told = []
    def tried(action):
        try:
            action()
            told.append("yes")
        except OSError as error:
            told.append(type(error).__name__)
    tried(lambda: open("{shown}/file").read())
    tried(lambda: open("{shown}/new", "w"))
    tried(lambda: open("{writable}/made", "w").close())
    tried(lambda: os.listdir("{hidden}"))
    tried(lambda: open("/tmp/x", "w").close())
    tried(lambda: socket.create_connection(("127.0.0.1", 80), timeout=3))
    print(told, os.getcwd(), os.environ["NAME"], os.getuid())
    """
    done = await programs.run_sandboxed(
        [str(OUR_ENVIRONMENT.interpreter), "-Ic", textwrap.dedent(code)],
        binds_ro=[shown, OUR_ENVIRONMENT.path, OUR_ENVIRONMENT.base_prefix],
        binds_rw=[writable],
        env={"NAME": "value"},
        cwd=writable,
        timeout=30,
    )
    expected = ["yes", "OSError", "yes", "FileNotFoundError", "yes", "ConnectionRefusedError"]
    assert done.text == f"{expected} {writable} value 1000\n"
    assert (writable / "made").stat().st_uid != 0 or os.getuid() != 0


async def test_a_sandboxed_program_that_takes_too_long(programs: Commands, tmp_path: Path) -> None:
    done = await programs.run_sandboxed(
        ["/bin/sh", "-c", "echo begun; setsid sleep 600 & sleep 600"],
        binds_ro=[],
        binds_rw=[],
        env={"PATH": "/usr/bin:/bin"},
        cwd=Path("/tmp"),
        timeout=0.5,
    )
    assert (done.timed_out, done.output) == (True, b"begun\n")


async def test_leftovers_of_a_dead_executor_are_swept(sandbox_home: Path) -> None:
    left = sandbox_home / "runs" / "run_left-1-1" / "tmp" / "deep"
    left.mkdir(parents=True)
    (left / "file").touch()
    if os.getuid() == 0:
        for path in (left, left.parent, left.parent.parent, left / "file"):
            os.chown(path, 205_000, 205_000)
    async with open_spawner(sandbox_home / "runs", [], None):
        await until(lambda: not list((sandbox_home / "runs").iterdir()))


async def test_a_directorys_name_is_no_path(spawner: SpawnerClient) -> None:
    with pytest.raises(Unavailable, match="no name"):
        await spawner.spawn(["/bin/true"], {}, confined=True, run="../outside")
    done = await Programs(spawner, Confinement(spawner)).run(["/bin/true"], env={}, cwd=Path("/"), timeout=10)
    assert done.returncode == 0


async def test_the_hosts_mounts_stay_as_they_are(driver: BubblewrapDriver) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    async with started(driver, "import time; time.sleep(600)"):
        assert Path("/proc/self/mountinfo").read_text() == before


async def test_a_start_that_is_cancelled_leaves_nothing(spawner: SpawnerClient, sandbox_home: Path) -> None:
    driver = BubblewrapDriver(spawner, Confinement(spawner), PUBLIC_URL)
    launch = Launch("run_c", OUR_ENVIRONMENT, b"import time; time.sleep(600)", "w.py", {})
    for steps in (1, 2, 3, 5, 8):
        starting = asyncio.create_task(driver.start(launch))
        for _ in range(steps):
            await asyncio.sleep(0.002)
        starting.cancel()
        (outcome,) = await asyncio.gather(starting, return_exceptions=True)
        if not isinstance(outcome, BaseException):  # it was faster
            await Started(outcome).end()
    await until(lambda: not list((sandbox_home / "runs").iterdir()))


async def test_a_lost_spawner_takes_everything_along(spawner: SpawnerClient, sandbox_home: Path) -> None:
    driver = BubblewrapDriver(spawner, Confinement(spawner), PUBLIC_URL)
    marker = f"marker-{uuid.uuid4()}"
    source = (
        f"import os, sys; os.execv(sys.executable, [sys.executable, '-c', 'import time; time.sleep(600)', '{marker}'])"
    )
    async with started(driver, source) as session:
        await until(lambda: alive(marker), READY_SECONDS)
        os.kill(spawner.pid, signal.SIGKILL)
        with pytest.raises((StartFailed, Crashed)):
            await session.sandbox.ready(READY_SECONDS)
        await until_gone(marker)
        assert driver.lost
        assert (await session.end()) == Exit(signal=9)
        with pytest.raises(Unavailable, match="spawner is gone"):
            await driver.start(Launch("run_d", OUR_ENVIRONMENT, b"", "w.py", {}))
    async with open_spawner(sandbox_home / "runs", [], None):  # the next one cleans up
        await until(lambda: not list((sandbox_home / "runs").iterdir()))


EXECUTOR = """
import asyncio, sys
from pathlib import Path
from executor.driver import open_driver
from executor.sandbox import Launch
from tests.fakes.real_sandboxes import OUR_ENVIRONMENT

async def main(home, marker):
    sleep = "import time; time.sleep(600)"
    source = f"import os, sys, subprocess; subprocess.run([sys.executable, '-c', {sleep!r}, '{marker}'])"
    async with open_driver(Path(home), "http://127.0.0.1:8080") as driver:
        for number in range(3):
            await driver.start(Launch(f"run_{number}", OUR_ENVIRONMENT, source.encode(), "w.py", {}))
        print("up", flush=True)
        await asyncio.sleep(600)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_dead_executor_leaves_nothing(sandbox_home: Path, number: signal.Signals) -> None:
    marker = f"marker-{uuid.uuid4()}"
    with subprocess.Popen(  # noqa: ASYNC220  # it takes a moment, and nothing else is to happen
        [sys.executable, "-c", EXECUTOR, str(sandbox_home), marker], cwd=ROOT, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert await asyncio.to_thread(process.stdout.readline) == b"up\n"
        await until(lambda: len(alive(marker)) >= 4, READY_SECONDS)
        process.send_signal(number)
    await until_gone(marker)
    await until(lambda: not list((sandbox_home / "runs").iterdir()))
