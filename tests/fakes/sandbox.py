"""A driver of sandboxes that are a Python coroutine each: real pipes for the output, nothing else is real."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from executor.cgroups import Usage
from executor.sandbox import AnswerEnd, Crashed, Event, Exit, Finished, Head, Launch, Process

App = Callable[["FakeSandbox", Head, AsyncIterator[bytes]], AsyncIterator[Event]]


def answering(
    body: bytes = b"hello", *, status: int = 200, headers: list[tuple[bytes, bytes]] | None = None, chunk: int = 65536
) -> App:
    """An app that answers this; with a content-length unless `headers` are given."""

    async def app(_sandbox: "FakeSandbox", _request: Head, _body: AsyncIterator[bytes]) -> AsyncIterator[Event]:
        length = [(b"content-length", str(len(body)).encode())]
        yield Head(length if headers is None else headers, status=status)
        for start in range(0, len(body), chunk):
            yield body[start : start + chunk]
        yield AnswerEnd()
        yield Finished()

    return app


async def echo(_sandbox: "FakeSandbox", request: Head, body: AsyncIterator[bytes]) -> AsyncIterator[Event]:
    """Answers with the request's own body and headers."""
    got = b"".join([chunk async for chunk in body])
    yield Head([*request.headers, (b"content-length", str(len(got)).encode())], status=200)
    yield got
    yield AnswerEnd()
    yield Finished()


async def hang(_sandbox: "FakeSandbox", _request: Head, _body: AsyncIterator[bytes]) -> AsyncIterator[Event]:
    """Never answers."""
    await asyncio.Event().wait()
    yield Finished()


@dataclass
class FakeDriver:
    """`app` serves; `fails` is raised by `ready`, or with `never_ready` it hangs. `started` has every sandbox."""

    app: App = field(default_factory=answering)
    fails: Exception | None = None
    refuses: Exception | None = None
    never_ready: bool = False
    lost: bool = False
    used: Usage = Usage()
    started: list["FakeSandbox"] = field(default_factory=list)

    async def start(self, launch: Launch) -> "FakeSandbox":
        if self.refuses is not None:
            raise self.refuses
        sandbox = FakeSandbox(self, launch)
        self.started.append(sandbox)
        return sandbox

    @property
    def running(self) -> int:
        """Sandboxes that nobody has closed."""
        return sum(not sandbox.closed for sandbox in self.started)


class FakeSandbox:
    """See FakeDriver."""

    obstacle = ""

    def __init__(self, driver: FakeDriver, launch: Launch) -> None:
        self.launch = launch
        self.closed = False
        self.told: list[bytes] = []
        self._driver = driver
        stdout, self._stdout = os.pipe()
        stderr, self._stderr = os.pipe()
        self.process = Process(stdout, stderr)

    def print(self, data: bytes, stream: str = "stdout") -> None:
        """What the workflow writes."""
        os.write(self._stdout if stream == "stdout" else self._stderr, data)

    async def ready(self, timeout: float) -> None:
        if self._driver.fails is not None:
            raise self._driver.fails
        if self._driver.never_ready:
            await asyncio.Event().wait()

    async def openapi(self) -> str:
        return ""

    async def serve(self, request: Head, body: AsyncIterator[bytes]) -> AsyncIterator[Event]:
        if self.closed:
            raise Crashed("closed")
        async for event in self._driver.app(self, request, body):
            yield event

    async def tell(self, payload: bytes) -> None:
        self.told.append(payload)

    async def caller_gone(self) -> None:
        return None

    def usage(self) -> Usage:
        return self._driver.used

    async def close(self) -> Exit:
        if not self.closed:
            self.closed = True
            os.close(self._stdout)
            os.close(self._stderr)
        return Exit(signal=9, used=self._driver.used)
