"""A template from outside: a workflow that is loaded once, and the slots that are forked from it."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

from executor.conversation import OPENAPI_SECONDS, BubblewrapSandbox, openapi_in, start_failure
from executor.frames import ControlChannel
from executor.loglines import clean
from executor.sandbox import Crashed, Process, StartFailed, Unforkable
from executor.spawner_client import Job

MAX_SAID = 32 << 10  # of what it prints while it is imported; a pipe holds that much


class Forked(Protocol):
    """What a process forks: a slot, or a template."""

    job: Job


T = TypeVar("T", bound=Forked)


class Template:
    """Ready until it ends, by itself or by `retire`."""

    def __init__(
        self,
        job: Job,
        control: ControlChannel,
        process: Process,
        diagnosis: int,
        directory: str,
        fork: Callable[[bool], Awaitable[BubblewrapSandbox]],
        kill: Callable[[Job], None],
    ) -> None:
        self._said = (bytearray(), bytearray())
        self.slots = 0  # that aren't over
        self.gone = asyncio.Event()
        self.job = job
        self.control = control
        self.process = process
        self.directory = directory  # below the driver's `runs`
        self._diagnosis = diagnosis
        self._fork = fork
        self._kill = kill
        self._by_number: dict[int, Job] = {}
        self._retired = False
        self._described: asyncio.Future[dict[str, Any]] | None = None
        self._hearing: asyncio.Task[None] | None = None
        for pipe, kept in zip((process.stdout, process.stderr), self._said, strict=True):
            asyncio.get_running_loop().add_reader(pipe, _read, pipe, kept)
        job.exited.add_done_callback(lambda _: self._end())

    @property
    def said(self) -> tuple[bytes, bytes]:
        """What it has printed: (stdout, stderr), each its first 32 KiB."""
        return bytes(self._said[0]), bytes(self._said[1])

    async def ready(self, timeout: float) -> None:
        """Returns when it can be forked; else it ends. Errors: StartFailed, Unforkable."""
        try:
            async with asyncio.timeout(timeout):
                kind, content = await self.control.receive()
        except TimeoutError:
            self.retire()
            raise StartFailed("timeout", "it took too long to load") from None
        except Crashed as crash:
            self.retire()
            raise StartFailed("exited", str(crash)) from crash
        except asyncio.CancelledError:
            self.retire()
            raise
        if kind != b"R" or content.get("fork"):
            self.retire()
            raise start_failure(content) if kind != b"R" else Unforkable(clean(str(content["fork"]))[:500])
        self._hearing = asyncio.create_task(self._hear())

    async def openapi(self) -> str:
        """Its app's OpenAPI document as JSON, empty where it gives none. Errors: Crashed."""
        self._described = asyncio.get_running_loop().create_future()
        await self.control.send(b"O", {})
        try:
            async with asyncio.timeout(OPENAPI_SECONDS):
                return openapi_in(await self._described)
        except TimeoutError:
            raise Crashed("the app didn't give its OpenAPI document") from None

    async def fork(self, over: Callable[[], None], *, warm: bool = False) -> BubblewrapSandbox:
        """A slot; `over` is called when it has ended. `warm`: it has time before its first request, and warms up.

        Errors: Unavailable.
        """
        return await self.hold(self._fork(warm), over)

    async def hold(self, making: Awaitable[T], over: Callable[[], None] = lambda: None) -> T:
        """What is forked from it in this way: it lives until that has ended, when `over` is called."""
        self.slots += 1
        try:
            forked = await making
        except BaseException:
            self._released()
            raise
        job = forked.job
        self._by_number[job.number] = job
        job.exited.add_done_callback(lambda _: self._forget(job))
        job.exited.add_done_callback(lambda _: over())
        return forked

    def memory(self) -> int:
        """Bytes; 0 if unknown."""
        return self.job.memory()

    def retire(self) -> None:
        """It ends when its last slot has."""
        self._retired = True
        if not self.slots:
            self._kill(self.job)

    def _forget(self, job: Job) -> None:
        self._by_number.pop(job.number, None)
        self._released()

    def _released(self) -> None:
        self.slots -= 1
        if self._retired and not self.slots:
            self._kill(self.job)

    async def _hear(self) -> None:
        """What it says about its slots, and that it is gone."""
        try:
            while True:
                kind, content = await self.control.receive()
                number, status = content.get("slot"), content.get("status")
                if kind == b"W" and isinstance(number, int) and isinstance(status, int) and -64 <= status <= 255:
                    job = self._by_number.get(number)
                    if job is not None:
                        job.end(status)
                elif kind == b"P" and self._described is not None and not self._described.done():
                    self._described.set_result(content)
        except Crashed as crash:
            if self._described is not None and not self._described.done():
                self._described.set_exception(crash)
            self._kill(self.job)

    def _end(self) -> None:
        self.gone.set()
        if self._hearing is not None:
            self._hearing.cancel()
        self.control.close()
        loop = asyncio.get_running_loop()
        for fd in (self.process.stdout, self.process.stderr, self._diagnosis):
            loop.remove_reader(fd)
            os.close(fd)


def _read(pipe: int, kept: bytearray) -> None:
    """Always, or it would stop; keeps the beginning."""
    try:
        data = os.read(pipe, MAX_SAID)
    except BlockingIOError:
        return
    kept += data[: MAX_SAID - len(kept)]
    if not data:
        asyncio.get_running_loop().remove_reader(pipe)
