"""cli.supervise with tiny real processes: when a start is over, what is started again, how all of it ends."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from cli.supervise import Program, StartFailed, Supervisor, say

SERVES = "echo serving; exec sleep 60"


@pytest.fixture
async def supervisor() -> AsyncIterator[Supervisor]:
    supervisor = Supervisor()
    yield supervisor
    await supervisor.stop_all()


def program(name: str, script: str, **fields: object) -> Program:
    fields = {"ready_line": "serving", **fields}
    return Program(name, ["sh", "-c", script], {"PATH": os.environ["PATH"]}, **fields)  # type: ignore[arg-type]


def process(supervisor: Supervisor, index: int = 0) -> asyncio.subprocess.Process:
    found = supervisor._children[index].process
    assert found is not None
    return found


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110  # another process's state
            await asyncio.sleep(0.01)


def dead(pid: Path) -> bool:
    """Whether the process whose id is in the file `pid` is gone, or only its parent hasn't noticed."""
    stat = Path(f"/proc/{pid.read_text().strip()}/stat")
    return not stat.exists() or stat.read_text().rsplit(") ", 1)[1].startswith("Z")


async def test_a_start_waits_for_the_line_and_the_probe(supervisor: Supervisor, tmp_path: Path) -> None:
    asked = 0

    async def probe() -> bool:
        nonlocal asked
        asked += 1
        return asked == 3

    await supervisor.start(program("a", f"touch {tmp_path}/started; {SERVES}", probe=probe))
    assert (tmp_path / "started").exists()
    assert asked == 3


async def test_what_they_print_bears_their_names(supervisor: Supervisor, capsys: pytest.CaptureFixture[str]) -> None:
    await supervisor.start(program("a", f"echo 'one [INF] of many'; echo to stderr >&2; {SERVES}", hides=["[INF]"]))
    await supervisor.stop_all()
    assert capsys.readouterr().out.splitlines() == ["a         | to stderr", "a         | serving"]


async def test_one_that_ends_fails_the_start_after_its_last_words(
    supervisor: Supervisor, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(StartFailed, match="b ended with 3"):
        await supervisor.start(program("a", SERVES), program("b", "echo the reason; exit 3"))
    assert "b         | the reason" in capsys.readouterr().out
    first = process(supervisor)
    assert first.returncode is None
    await supervisor.stop_all()
    assert first.returncode == -signal.SIGTERM


async def test_one_that_never_serves_fails_the_start(supervisor: Supervisor) -> None:
    with pytest.raises(StartFailed, match="a was not ready in 0 s"):
        await supervisor.start(program("a", "exec sleep 60", ready_seconds=0.1))


async def test_a_program_that_is_not_there(supervisor: Supervisor) -> None:
    with pytest.raises(FileNotFoundError):
        await supervisor.start(Program("a", ["/nowhere/at-all"], {}))


async def test_what_dies_is_started_again_later_each_time(
    supervisor: Supervisor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    count = tmp_path / "count"
    again = f"if [ $(wc -l < {count}) -gt 2 ]; then exec sleep 60; fi"
    await supervisor.start(program("a", f"echo x >> {count}; echo serving; {again}; sleep 0.1"))
    await until(lambda: count.read_text() == "x\nx\nx\n")
    said = [line for line in capsys.readouterr().out.splitlines() if "starting it again" in line]
    assert [line.split(" in ")[1] for line in said] == ["0.2 s", "0.4 s"]


async def test_the_last_started_stops_first(supervisor: Supervisor, tmp_path: Path) -> None:
    log = tmp_path / "log"
    for name in ("a", "b"):
        trap = f"trap 'echo {name} >> {log}; exit' TERM; echo serving; while :; do sleep 0.02; done"
        await supervisor.start(program(name, trap))
    await supervisor.stop_all()
    assert log.read_text().split() == ["b", "a"]


async def test_one_that_will_not_stop_is_killed_with_its_children(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    supervisor = Supervisor(stop_seconds=0.2)
    child = tmp_path / "child"
    await supervisor.start(program("a", f"trap '' TERM; sleep 60 & echo $! > {child}; echo serving; wait; sleep 60"))
    stubborn = process(supervisor)
    await supervisor.stop_all()
    assert stubborn.returncode == -signal.SIGKILL
    assert "a did not stop" in capsys.readouterr().out
    await until(lambda: dead(child))


async def test_one_that_is_stopping_is_not_started_again(supervisor: Supervisor, tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    await supervisor.start(program("a", f"echo x >> {starts}; {SERVES}"))
    await supervisor.stop_all()
    assert starts.read_text() == "x\n"
    assert not supervisor._children


async def test_a_program_with_an_end(supervisor: Supervisor, capsys: pytest.CaptureFixture[str]) -> None:
    await supervisor.finish(program("a", "echo done"))
    assert capsys.readouterr().out == "a         | done\n"
    with pytest.raises(StartFailed, match="a ended with 1"):
        await supervisor.finish(program("a", "exit 1"))


async def test_a_program_with_an_end_is_stopped_too(supervisor: Supervisor) -> None:
    finishing = asyncio.create_task(supervisor.finish(program("a", "exec sleep 60")))
    await until(lambda: bool(supervisor._children) and supervisor._children[0].process is not None)
    running = process(supervisor)
    finishing.cancel()
    await asyncio.gather(finishing, return_exceptions=True)
    await supervisor.stop_all()
    assert running.returncode == -signal.SIGTERM


async def test_they_die_with_the_supervisor(tmp_path: Path) -> None:
    code = (
        "import asyncio, os\n"
        "from cli.supervise import Program, Supervisor\n"
        "async def main():\n"
        f"    script = 'echo $$ > {tmp_path}/pid; echo serving; exec sleep 60'\n"
        "    await Supervisor().start(Program('a', ['/bin/sh', '-c', script], {}, ready_line='serving'))\n"
        "    os.kill(os.getpid(), 9)\n"
        "asyncio.run(main())\n"
    )
    killed = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.DEVNULL)
    assert await killed.wait() == -signal.SIGKILL
    await until(lambda: dead(tmp_path / "pid"))


async def test_nobody_has_to_listen() -> None:
    """`runmesh up | head`: a pipe without a reader doesn't end what writes to it."""
    reading, writing = os.pipe()
    os.close(reading)
    code = "from cli.supervise import say\nfor _ in range(3): say('a', 'text')\n"
    speaker = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=writing, stderr=asyncio.subprocess.PIPE
    )
    os.close(writing)
    _, errors = await speaker.communicate()
    assert (speaker.returncode, errors) == (0, b"")


def test_every_line_bears_the_name(capsys: pytest.CaptureFixture[str]) -> None:
    say("a", "one\ntwo")
    assert capsys.readouterr().out == "a         | one\na         | two\n"
