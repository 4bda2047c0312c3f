"""Starts a script until it hands its app over, asks the app for its OpenAPI document, and kills it: Validate's imports.

Nothing is served. It reaches of the internet what a run of it would.
"""

import asyncio
import os
from collections.abc import Sequence
from contextlib import AsyncExitStack
from io import FileIO
from types import TracebackType
from typing import Self

from executor.cgroups import Bounds
from executor.egress.log import EgressLog
from executor.imports import Imports
from executor.model import Limits
from executor.sandbox import Crashed, Driver, Environment, Launch, Process, StartFailed
from executor.validate import ImportReport
from executor.variables import environment as with_platform
from kit.names import new_id
from kit.telemetry import log

TAIL_BYTES = 4096
CLOSING_SECONDS = 1.0


class Inspect:
    """`executor.validate.ImportCheck`. Errors: Unavailable when no sandbox can be had."""

    def __init__(self, driver: Driver, imports: Imports | None = None) -> None:
        """Without `imports` there is no network."""
        self._driver = driver
        self._imports = imports

    async def __call__(
        self,
        environment: Environment,
        source: bytes,
        file_name: str,
        env: dict[str, str],
        timeout_s: float,
        limits: Limits,
        egress: Sequence[str] | None = None,
    ) -> ImportReport:
        """`env` holds what the script declares; the platform's own variables are added, as in a run."""
        bounds = Bounds(limits.memory_bytes, limits.processes, limits.cpu)
        launch = Launch(new_id("check"), environment, source, file_name, with_platform(env), "check", bounds=bounds)
        async with AsyncExitStack() as stack:
            sandbox = await self._driver.start(launch)
            printed = await stack.enter_async_context(_Tail(sandbox.process))
            stack.push_async_callback(sandbox.close)
            contacts = EgressLog()
            stack.callback(note, contacts)
            network = await stack.enter_async_context(AsyncExitStack())
            if self._imports is None:
                sandbox.process.close_ways()  # refused at once, instead of a connection that nobody accepts
            else:
                await network.enter_async_context(self._imports.served(sandbox.process, egress, contacts))
            try:
                await sandbox.ready(timeout_s)
            except StartFailed as failure:
                await network.aclose()
                exit_ = await sandbox.close()
                tail = "\n".join(filter(None, [await printed.text(), *contacts.refusals]))
                if exit_.used.oom_kills:
                    detail = f"it needed more memory than its limit of {limits.memory_bytes >> 20} MiB: raise `memory`"
                    return ImportReport(False, "out_of_memory", f"{detail} in [tool.runmesh]", log_tail=tail)
                return ImportReport(False, failure.kind, failure.detail, failure.line, log_tail=tail)
            try:
                document = await sandbox.openapi()
            except Crashed as crash:  # an app that can't describe itself may serve all the same
                return ImportReport(True, detail=str(crash), obstacle=sandbox.obstacle)
            return ImportReport(True, openapi=document, obstacle=sandbox.obstacle)


def note(contacts: EgressLog) -> None:
    """What a check contacted: there is no run whose log could have it."""
    if contacts.bytes_carried or contacts.refusals:
        log().info("check.egress", bytes=contacts.bytes_carried, refused=contacts.refusals)


class _Tail:
    """The end of what a sandbox prints, both streams as they come. Reads all, so that the script never waits."""

    def __init__(self, process: Process) -> None:
        self._pipes = [os.fdopen(fd, "rb", buffering=0) for fd in (process.stdout, process.stderr)]
        self._kept = b""
        self._readings: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._readings = [asyncio.create_task(self._read(pipe)) for pipe in self._pipes]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for reading in self._readings:
            reading.cancel()
        await asyncio.gather(*self._readings, return_exceptions=True)
        for pipe in self._pipes:
            pipe.close()

    async def text(self) -> str:
        """What was printed last; when the sandbox is closed that is all there is to come."""
        await asyncio.wait(self._readings, timeout=CLOSING_SECONDS)
        return self._kept.decode("utf-8", "replace").strip()

    async def _read(self, pipe: FileIO) -> None:
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), pipe
        )
        try:
            while chunk := await reader.read(TAIL_BYTES):
                self._kept = (self._kept + chunk)[-TAIL_BYTES:]
        finally:
            transport.close()
