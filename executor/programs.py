"""`executor.commands.Commands` by the spawner: interpreters are looked for as we are; an sdist is built in bubblewrap
without a network; uv runs in bubblewrap too, with a network from which only the package index can be reached.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from executor.bubblewrap import WAIT_FD, Bind, Plan, etc_files
from executor.cgroups import Bounds
from executor.commands import MAX_OUTPUT, Completed
from executor.confinement import Confinement
from executor.egress.egress import Egress
from executor.egress.fixed import FixedGate
from executor.egress.gate import Internet
from executor.egress.log import EgressLog
from executor.egress.names import Names
from executor.egress.resolve import Resolver
from executor.egress.rules import Rules
from executor.netns import DNS_ADDRESS
from executor.reach import Reach
from executor.spawner_client import PACKAGER, Job, SpawnerClient
from kit.clock import SystemClock
from kit.errors import Unavailable

LISTEN_SECONDS = 5.0
_HOME = {"HOME": "/tmp"}  # noqa: S108  # inside
# How long the pipe may stay open, and a killed program alive.
CLOSING_SECONDS = 5.0
# Of a build, which may compile.
BOUNDS = Bounds(memory=4 << 30, processes=1024)


class Programs:
    """Runs programs to their end; without a `confinement`, none in bubblewrap."""

    def __init__(self, spawner: SpawnerClient, confinement: Confinement | None) -> None:
        self._spawner = spawner
        self._confinement = confinement
        self._clock = SystemClock()
        self._internet = Internet(Resolver(self._clock))

    @property
    def packager(self) -> int | None:
        """The uid of `run_packager`; None: ours."""
        return PACKAGER if self._confinement is not None and os.getuid() == 0 else None

    def close(self) -> None:
        """No name is asked for any more."""
        self._internet.resolver.close()

    async def run(self, argv: Sequence[str], *, env: Mapping[str, str], cwd: Path, timeout: float) -> Completed:
        """As we are. Errors: kit.errors.Unavailable."""
        output, told = os.pipe()
        job = self._spawner.spawn(argv, {1: told, 2: told}, confined=False, env=env, cwd=str(cwd))
        return await self._finish(job, output, told, timeout)

    async def run_sandboxed(
        self,
        argv: Sequence[str],
        *,
        binds_ro: Sequence[Path],
        binds_rw: Sequence[Path],
        env: Mapping[str, str],
        cwd: Path,
        timeout: float,
    ) -> Completed:
        """In bubblewrap. Errors: kit.errors.Unavailable."""
        confinement, directory = self._confined("program")
        plan = Plan(await self._shown(directory, binds_ro, binds_rw), etc_files([]), {**_HOME, **env}, str(cwd))
        output, told = os.pipe()
        job = confinement.spawn(plan, argv, {1: told, 2: told}, directory=directory, bounds=BOUNDS)
        return await self._finish(job, output, told, timeout)

    async def run_packager(
        self,
        argv: Sequence[str],
        *,
        reach: Reach | None,
        binds_ro: Sequence[Path],
        binds_rw: Sequence[Path],
        env: Mapping[str, str],
        cwd: Path,
        timeout: float,
    ) -> Completed:
        """In bubblewrap, with the packager's uid. Errors: kit.errors.Unavailable."""
        confinement, directory = self._confined("packager")
        binds = await self._shown(directory, binds_ro, binds_rw)
        files = etc_files([], DNS_ADDRESS if reach else "")
        plan = Plan(binds, files, {**_HOME, **env}, str(cwd), packager=True, waits=reach is not None)
        contacts = EgressLog()
        output, told = os.pipe()
        fds = {1: told, 2: told}
        with ExitStack() as ours:
            if reach is None:
                spawned = confinement.spawn(plan, argv, fds, directory=directory, bounds=BOUNDS)
                return await self._finish(spawned, output, told, timeout)
            wait, go = os.pipe()
            for end in (wait, go):
                ours.callback(os.close, end)
            fds[WAIT_FD] = wait
            spawned = confinement.spawn(plan, argv, fds, directory=directory, listen=reach.doors, bounds=BOUNDS)
            done = await self._finish(
                spawned, output, told, timeout, lambda job: self._network(job, reach, contacts, go)
            )
        return replace(done, refused=contacts.refusals)

    @asynccontextmanager
    async def _network(self, job: Job, reach: Reach, contacts: EgressLog, go: int) -> AsyncIterator[None]:
        """Answers in the network of `job`, which begins when something is written to `go`. Errors: Unavailable."""
        try:
            async with asyncio.timeout(LISTEN_SECONDS):
                sockets = await job.listening
        except TimeoutError:
            raise Unavailable("the sandbox of uv has no network") from None
        except asyncio.CancelledError:
            job.hang_up()
            raise
        gate = FixedGate(self._internet, reach.targets)
        doors = len(reach.doors)  # they come first here, and last there
        try:
            ordered = [*sockets[doors:], *sockets[:doors]]
            async with Egress(ordered, Names(), self._internet, Rules(), contacts, self._clock, gate=gate):
                os.write(go, b".")
                yield
        finally:
            for sock in sockets:
                sock.close()

    def _confined(self, name: str) -> tuple[Confinement, str]:
        """And a new directory. Errors: Unavailable."""
        if self._confinement is None:
            raise Unavailable("there is no bubblewrap to run it in")
        return self._confinement, self._confinement.directory(name)

    async def _shown(self, directory: str, binds_ro: Sequence[Path], binds_rw: Sequence[Path]) -> list[Bind]:
        confinement = self._confinement
        assert confinement is not None
        shown = [await confinement.show(path) for path in binds_ro]
        shown += [await confinement.show(path, writable=True) for path in binds_rw]
        return shown + confinement.own(directory)

    async def _finish(
        self,
        start: Awaitable[Job],
        output: int,
        told: int,
        timeout: float,
        network: Callable[[Job], AbstractAsyncContextManager[None]] = lambda _: nullcontext(),
    ) -> Completed:
        """Reads what it prints until it ends."""
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(output, "rb", buffering=0)
        )
        kept = bytearray()
        try:
            try:
                job = await start
            finally:
                os.close(told)
            reading = asyncio.create_task(_keep(reader, kept))
            try:
                async with network(job):
                    done, _ = await asyncio.wait({job.exited}, timeout=timeout)
                self._spawner.kill(job)
                ends: set[asyncio.Future[Any]] = {job.exited, reading}
                await asyncio.wait(ends, timeout=CLOSING_SECONDS)
            finally:
                self._spawner.kill(job)
                reading.cancel()
            status = job.exited.result() if job.exited.done() else -9
            return Completed(status, bytes(kept), timed_out=not done)
        finally:
            transport.close()


async def _keep(reader: asyncio.StreamReader, kept: bytearray) -> None:
    while chunk := await reader.read(64 << 10):
        kept += chunk[: max(MAX_OUTPUT - len(kept), 0)]
