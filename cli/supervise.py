"""Processes in order: start each when the one before is ready, prefix what they print, start again what dies (with
back-off), stop in reverse. Children get SIGKILL from the kernel should the supervisor itself die.
"""

import asyncio
import ctypes
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

STEADY_SECONDS = 30.0
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class StartFailed(Exception):
    """A program ended, or wasn't ready in time, during the start."""


@dataclass(frozen=True)
class Program:
    """One process to keep alive. `ready_line` is what it prints when it serves; `probe` is asked besides. Lines with
    one of `hides` in them are not shown.
    """

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    ready_line: str = ""
    probe: Callable[[], Awaitable[bool]] | None = None
    ready_seconds: float = 50.0
    hides: Sequence[str] = ()


@dataclass
class _Child:
    program: Program
    process: asyncio.subprocess.Process | None = None
    output: asyncio.Task[None] | None = None
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    keeper: asyncio.Task[None] | None = None
    stopping: bool = False


class Supervisor:
    """`start` programs one after another or several at once; `stop_all` ends them in reverse. `quiet`: what they
    print is read but not shown. `stop_seconds`: how long each may take to end.
    """

    def __init__(self, *, quiet: bool = False, stop_seconds: float = 15.0) -> None:
        self._children: list[_Child] = []
        self._quiet = quiet
        self._stop_seconds = stop_seconds

    async def start(self, *programs: Program) -> None:
        """Starts them side by side; returns when all are ready. Errors: StartFailed."""
        children = [_Child(program) for program in programs]
        self._children += children
        for child in children:
            await self._spawn(child)
        await asyncio.gather(*(self._until_ready(child) for child in children))
        for child in children:
            child.keeper = asyncio.create_task(self._keep(child))

    async def finish(self, program: Program) -> None:
        """Runs one to its end. Errors: StartFailed unless that is a success."""
        child = _Child(program)
        self._children.append(child)
        await self._spawn(child)
        assert child.process is not None
        code = await child.process.wait()
        await _drained(child)
        self._children.remove(child)
        if code:
            raise StartFailed(f"{program.name} ended with {code}")

    async def stop_all(self) -> None:
        """SIGTERM, in reverse order, each given its time; then SIGKILL to its process group."""
        for child in reversed(self._children):
            child.stopping = True
            if child.keeper:
                child.keeper.cancel()
                await asyncio.gather(child.keeper, return_exceptions=True)
            await _stop(child, self._stop_seconds)
        self._children.clear()

    async def _spawn(self, child: _Child) -> None:
        child.ready.clear()
        child.process = await asyncio.create_subprocess_exec(
            *child.program.argv,
            env=dict(child.program.env),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            process_group=0,
            preexec_fn=_die_with_parent,
            limit=1 << 20,
        )
        child.output = asyncio.create_task(self._print_output(child, child.process))

    async def _print_output(self, child: _Child, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while True:
            try:
                line = await process.stdout.readline()
            except ValueError:  # longer than the limit
                continue
            if not line:
                return
            text = line.decode("utf-8", "replace").rstrip()
            if child.program.ready_line and child.program.ready_line in text:
                child.ready.set()
            if not self._quiet and not any(words in text for words in child.program.hides):
                say(child.program.name, text)

    async def _until_ready(self, child: _Child) -> None:
        process, program = child.process, child.program
        assert process is not None
        ended = asyncio.create_task(process.wait())
        ready = asyncio.create_task(self._ready(child))
        done, _ = await asyncio.wait({ended, ready}, timeout=program.ready_seconds, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        ended.cancel()
        if ready not in done:
            how = f"was not ready in {program.ready_seconds:.0f} s"
            if ended in done:
                how = f"ended with {process.returncode}"
                await _drained(child)
            raise StartFailed(f"{program.name} {how}")

    async def _ready(self, child: _Child) -> None:
        if child.program.ready_line:
            await child.ready.wait()
        while child.program.probe and not await child.program.probe():  # noqa: ASYNC110  # another process's state
            await asyncio.sleep(0.05)

    async def _keep(self, child: _Child) -> None:
        delay = 0.2
        while True:
            assert child.process is not None
            started = asyncio.get_running_loop().time()
            code = await child.process.wait()
            if child.stopping:
                return
            if asyncio.get_running_loop().time() - started > STEADY_SECONDS:
                delay = 0.2
            say("runmesh", f"{child.program.name} ended with {code}; starting it again in {delay:.1f} s")
            await asyncio.sleep(delay)
            delay = min(delay * 2, 10.0)
            try:
                await self._spawn(child)
            except OSError as error:  # no memory, its file is being replaced: tried again
                say("runmesh", f"{child.program.name} could not be started: {error}")


async def _stop(child: _Child, seconds: float) -> None:
    process = child.process
    if process is None:
        return
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.terminate()
    try:
        await asyncio.wait_for(process.wait(), seconds)
    except TimeoutError:
        say("runmesh", f"{child.program.name} did not stop in {seconds:.0f} s: killed")
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # what it may have left behind
    await process.wait()
    await _drained(child)


async def _drained(child: _Child) -> None:
    """All that an ended process printed has been read; its pipe may live on in a grandchild, so not for ever."""
    if child.output:
        await asyncio.wait({child.output}, timeout=1)
        child.output.cancel()


def say(name: str, text: str) -> None:
    """The common output, each line under the name of who says it. Nobody has to listen: `| head`, a closed terminal."""
    try:
        for line in text.splitlines() or [""]:
            sys.stdout.write(f"{name:9s} | {line}\n")
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
