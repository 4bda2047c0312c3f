"""What is said with one started sandbox, from the order to start to its end: `executor.sandbox.Sandbox`."""

import asyncio
import json
import os
import signal
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Any

from executor.cgroups import Usage
from executor.frames import MAX_DATA, AnswerFrames, ControlChannel, FrameSocket, Gone, frame, request_frame
from executor.loglines import clean
from executor.sandbox import Crashed, Event, Exit, Finished, Head, Process, StartFailed
from executor.spawner_client import Job, SpawnerClient

# What the script may still do after it has served, until its own end.
GRACE_SECONDS = 1.0
DYING_SECONDS = 5.0
OPENAPI_SECONDS = 30.0
_DIAGNOSIS_BYTES = 2000
_KINDS = {"syntax", "import", "no_app", "exited", "lifespan", "refused"}


class BubblewrapSandbox:
    """One run's. `outputs` are the write ends of its stdout and stderr, `diagnosis` what bubblewrap itself prints."""

    def __init__(
        self,
        spawner: SpawnerClient,
        job: Job,
        process: Process,
        control: ControlChannel,
        outputs: list[int],
        diagnosis: int,
    ) -> None:
        self.process = process
        self.job = job
        self._spawner = spawner
        self._control = control
        self._outputs = outputs
        self._diagnosis = diagnosis
        self._request: FrameSocket | None = None
        self._words: list[asyncio.Task[None]] = []
        self.obstacle = ""
        self._is_ready = False
        self._finished = False
        self._serves_many = False
        self._closing: asyncio.Task[Exit] | None = None
        # Whoever reads the output waits for its end: it must come when the sandbox dies.
        job.exited.add_done_callback(lambda _: close_all(self._outputs))

    async def begin(self, order: Mapping[str, Any]) -> None:
        """Lets the shim start the script. Errors: Crashed."""
        await self._control.send(b"S", order, self._outputs)

    async def ready(self, timeout: float) -> None:
        """Returns when the script handed its app over. Errors: StartFailed."""
        if self._is_ready:
            return
        try:
            async with asyncio.timeout(timeout):
                kind, content = await self._control.receive()
        except TimeoutError:
            told = f"the script didn't hand an app to uvicorn within {timeout:g} seconds"
            raise StartFailed("timeout", told) from None
        except Gone:
            raise self._start_failed(await self._exit(), "before it handed an app to uvicorn") from None
        except Crashed as crash:
            raise StartFailed("exited", str(crash)) from crash
        if kind != b"R":
            raise start_failure(content)
        self._is_ready = True
        self.obstacle = _text(content.get("fork"))[:500]

    def lend(self) -> Process:
        """What one request needs of a process that serves many: pipes of its own, its sockets once more."""
        with ExitStack() as ours:
            (stdout, stdout_end), (stderr, stderr_end) = pipe(ours), pipe(ours)
            ways = [(sock.dup(), tls) for sock, tls in self.process.way_out]
            egress = [sock.dup() for sock in self.process.egress]
            ours.pop_all()
        close_all(self._outputs)
        self._outputs = [stdout_end, stderr_end]
        self._finished, self._serves_many = False, True
        return Process(stdout, stderr, ways, egress, self.process.names, self.process.places)

    def usage(self) -> Usage:
        """So far."""
        return self.job.usage()

    @property
    def is_finished(self) -> bool:
        """Whether it has served, to the end."""
        return self._finished

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self.job.exited.done()

    def say_first(self, said: tuple[bytes, bytes]) -> None:
        """Puts this before what it prints: (stdout, stderr), 32 KiB each at most, which a pipe holds."""
        for fd, text in zip(self._outputs, said, strict=True):
            if text:
                os.write(fd, text)

    async def openapi(self) -> str:
        """The app's OpenAPI document as JSON, empty where it gives none. Errors: Crashed."""
        try:
            async with asyncio.timeout(OPENAPI_SECONDS):
                await self._control.send(b"O", {})
                _, content = await self._control.receive()
        except TimeoutError:
            raise Crashed("the app didn't give its OpenAPI document") from None
        return openapi_in(content)

    async def serve(self, request: Head, body: AsyncIterator[bytes]) -> AsyncIterator[Event]:
        """Errors: Crashed; StartFailed `lifespan` when the app's startup failed; whatever `body` raises."""
        ours, inner = socket.socketpair()
        self._request = frames = FrameSocket(ours)
        answer = AnswerFrames(frames, metered=request.metered)
        pump = asyncio.create_task(_send(request, body, frames))
        try:
            with inner:
                await self._control.send(b"V", request.repeat, [inner.fileno(), *self._outputs])
            close_all(self._outputs)
            while not self._finished:
                event = await answer.next()
                self._finished = isinstance(event, Finished)
                yield event
        except Gone as gone:
            if pump.done() and not pump.cancelled() and (error := pump.exception()) is not None:
                raise error from None
            raise await self._death() from gone
        finally:
            for sending in (pump, *self._words):
                sending.cancel()
            await asyncio.gather(pump, *self._words, return_exceptions=True)
            self._request = None
            frames.close()

    async def tell(self, payload: bytes) -> None:
        """Errors: Gone."""
        if self._request is not None:
            await self._request.send(frame(b"M", payload))

    async def caller_gone(self) -> None:
        """Tells the app (http.disconnect), as soon as it has read what was sent before."""
        if self._request is not None:
            self._words.append(asyncio.create_task(self._request.send(frame(b"G"))))

    async def close(self) -> Exit:
        """Kills what still runs and removes every trace. Idempotent; goes on when its caller is cancelled."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        return await asyncio.shield(self._closing)

    async def _close(self) -> Exit:
        job = self.job
        if self._finished and not self._serves_many:  # which waits for another request
            await asyncio.wait({job.exited}, timeout=GRACE_SECONDS)
        self._spawner.kill(job)
        ends: set[asyncio.Future[Any]] = {job.exited, job.removed}
        await asyncio.wait(ends, timeout=DYING_SECONDS)
        self._control.close()
        close_all(self._outputs)
        os.close(self._diagnosis)
        self.process.close_ways()
        end = _as_exit(job.exited.result()) if job.exited.done() else Exit(signal=signal.SIGKILL)
        return replace(end, used=job.used)

    async def _exit(self) -> Exit | None:
        """How it ended, which is imminent; None when it has only closed our sockets."""
        await asyncio.wait({self.job.exited}, timeout=DYING_SECONDS)
        return _as_exit(self.job.exited.result()) if self.job.exited.done() else None

    async def _death(self) -> Exception:
        """Why the request's socket is closed: the startup failed, or the process is gone."""
        with suppress(Crashed, TimeoutError):
            async with asyncio.timeout(DYING_SECONDS):
                kind, content = await self._control.receive()
                if kind == b"X":
                    return start_failure(content)
        return Crashed(_how(await self._exit()))

    def _start_failed(self, end: Exit | None, when: str) -> StartFailed:
        printed = ""
        with suppress(OSError):
            printed = os.read(self._diagnosis, _DIAGNOSIS_BYTES).decode("utf-8", "replace").strip()
        detail = f"{_how(end)} {when}" + (f": {printed}" if printed else "")
        return StartFailed("killed" if end and end.signal else "exited", detail)


def pipe(stack: ExitStack) -> tuple[int, int]:
    """A pipe whose read end is `stack`'s to close, and doesn't block."""
    reading, writing = os.pipe()
    stack.callback(os.close, reading)
    os.set_blocking(reading, False)
    return reading, writing


def close_all(fds: list[int]) -> None:
    """Closes descriptors and forgets them."""
    while fds:
        os.close(fds.pop())


async def _send(request: Head, body: AsyncIterator[bytes], frames: FrameSocket) -> None:
    """The request, as fast as the app reads it. What `body` raises comes out where the answer is read."""
    try:
        await frames.send(request_frame(request))
        async for chunk in body:
            for start in range(0, len(chunk), MAX_DATA):
                await frames.send(frame(b"D", chunk[start : start + MAX_DATA]))
        await frames.send(frame(b"E"))
    except Gone:
        pass  # the app has read enough, or is dead: its answer tells
    except Exception:
        frames.break_off()
        raise


def start_failure(content: Mapping[str, Any]) -> StartFailed:
    """The shim's own report, or what user code made of it."""
    kind, line = content.get("kind"), content.get("line")
    return StartFailed(
        kind if isinstance(kind, str) and kind in _KINDS else "exited",
        _text(content.get("error"))[:2000],
        line=line if type(line) is int and 0 < line < 1 << 31 else 0,
        traceback=_text(content.get("traceback"))[-8192:],
    )


def _text(value: object) -> str:
    """A string from inside, without what no message of ours can hold: lone surrogates, control characters."""
    return clean(value) if isinstance(value, str) else ""


def _as_exit(status: int) -> Exit:
    """bubblewrap says 128 + n for a signal."""
    if status < 0:
        return Exit(signal=-status)
    return Exit(signal=status - 128) if 128 < status <= 128 + 64 else Exit(status=status)


def _how(end: Exit | None) -> str:
    if end is None:
        return "the workflow closed its connection to the platform"
    if end.signal:
        name = signal.Signals(end.signal).name if end.signal in set(signal.Signals) else "unknown"
        return f"the workflow's process was killed by signal {end.signal} ({name})"
    return f"the workflow's process ended with exit status {end.status}"


def openapi_in(content: Mapping[str, Any]) -> str:
    """The document that a shim gives, as JSON; empty where there is none. Errors: Crashed."""
    if content.get("error"):
        raise Crashed(f"the app's OpenAPI document can't be made: {_text(content['error'])[:1000]}")
    document = content.get("document")
    try:
        return json.dumps(document, allow_nan=False) if isinstance(document, dict) else ""
    except (ValueError, RecursionError):
        raise Crashed("the app's OpenAPI document is no JSON") from None
