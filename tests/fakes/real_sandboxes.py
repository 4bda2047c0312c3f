"""Real sandboxes for tests: scripts run by our own virtual environment (it has uvicorn and Starlette)."""

import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from executor.sandbox import AnswerEnd, Driver, Environment, Event, Exit, Finished, Head, Launch, Sandbox

OUR_ENVIRONMENT = Environment(
    "tests", Path(sys.prefix), Path(sys.prefix) / "bin" / "python", Path(sys.base_prefix).resolve()
)
READY_SECONDS = 30.0
PUBLIC_URL = "http://127.0.0.1:8080"


@contextmanager
def a_home() -> Iterator[Path]:
    """A home of an executor, which must be empty of runs at the end."""
    with tempfile.TemporaryDirectory(prefix="home-") as directory:
        yield Path(directory)
        runs = Path(directory, "runs")
        assert not runs.exists() or [path.name for path in runs.iterdir()] == []


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    """A request's body."""
    for part in parts:
        yield part


@dataclass
class Answer:
    """All that came of one request."""

    head: Head | None = None
    body: bytes = b""
    ended: bool = False
    finished: Finished | None = None
    events: list[Event] = field(default_factory=list)

    def take(self, event: Event) -> None:
        self.events.append(event)
        match event:
            case Head():
                self.head = event
            case bytes():
                self.body += event
            case AnswerEnd():
                self.ended = True
            case Finished():
                self.finished = event

    @property
    def status(self) -> int:
        assert self.head is not None
        return self.head.status


@dataclass
class Started:
    """A sandbox with what it printed, which is complete after `end`."""

    sandbox: Sandbox
    stdout: bytes = b""
    stderr: bytes = b""
    exit: Exit | None = None

    async def call(self, head: Head | None = None, *body: bytes) -> Answer:
        """One request, to the end."""
        answer = Answer()
        async for event in self.sandbox.serve(head or Head([(b"host", b"test")]), chunks(*body)):
            answer.take(event)
        return answer

    async def end(self) -> Exit:
        """Closes the sandbox and reads the rest of the output."""
        if self.exit is None:
            self.exit = await self.sandbox.close()
            process = self.sandbox.process
            self.stdout, self.stderr = drain(process.stdout), drain(process.stderr)
        return self.exit


def drain(fd: int) -> bytes:
    """What is left in a pipe that nobody writes to any more; closes it."""
    data = b""
    with os.fdopen(fd, "rb", buffering=0) as pipe:
        while chunk := pipe.read(65536):
            data += chunk
    return data


@asynccontextmanager
async def started(
    driver: Driver,
    source: str,
    *,
    env: dict[str, str] | None = None,
    file_name: str = "workflow.py",
    environment: Environment = OUR_ENVIRONMENT,
    run_id: str = "run_test",
) -> AsyncIterator[Started]:
    """A sandbox that runs `source`; closed at the end."""
    sandbox = await driver.start(Launch(run_id, environment, source.encode(), file_name, env or {}))
    session = Started(sandbox)
    try:
        yield session
    finally:
        await session.end()


async def once(driver: Driver, source: str, head: Head | None = None, *body: bytes) -> tuple[Answer, Started]:
    """Start, ready, one request, end."""
    async with started(driver, source) as session:
        await session.sandbox.ready(READY_SECONDS)
        answer = await session.call(head, *body)
    return answer, session


def alive(marker: str) -> list[int]:
    """Processes of the whole machine that have `marker` in their command line."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with suppress(OSError):
                if marker.encode() in (process / "cmdline").read_bytes() and int(process.name) != os.getpid():
                    found.append(int(process.name))
    return found


async def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Waits until `condition` holds. Errors: TimeoutError."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  # what other processes do is no event of ours
            await asyncio.sleep(0.01)


async def until_gone(marker: str) -> None:
    """Waits until no process has `marker` in its command line. Errors: TimeoutError."""
    await until(lambda: not alive(marker))
