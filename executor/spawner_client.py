"""The executor's side of the spawner: orders out, news in.

`launch` must run before grpc is imported and by the main thread (the spawner's death is tied to it).
"""

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any

from executor.cgroups import Bounds, Group, Usage
from kit.errors import Unavailable

MAX_MESSAGE = 64 * 1024  # as the spawner's
ANSWER_SECONDS = 10.0
FAREWELL_SECONDS = 7.0
STATUS_SECONDS = 0.5
UIDS = (200_000, 10_000)
PACKAGER = sum(UIDS)  # owns uv's cache; see jobs.Uids
UNBOUND = Bounds()
_LOST = "the spawner is gone: no sandbox can be had"
_START = "import sys; sys.path.append(sys.argv[1]); from executor.spawner import main; main(int(sys.argv[2]))"


@dataclass(frozen=True)
class Launched:
    """A spawner that runs, and our end of its socket."""

    process: subprocess.Popen[bytes]
    sock: socket.socket


def launch() -> Launched:
    """Starts the spawner: an empty environment, one descriptor, a session of its own (Ctrl-C is ours to handle)."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with its:
        code = Path(__file__).resolve().parent.parent
        process = subprocess.Popen(  # noqa: S603  # our own interpreter and our own code
            [sys.executable, "-I", "-S", "-c", _START, str(code), str(its.fileno())],
            env={},
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[its.fileno()],
            start_new_session=True,
        )
    ours.setblocking(False)
    return Launched(process, ours)


def _future() -> asyncio.Future[Any]:
    return asyncio.get_running_loop().create_future()


@dataclass
class Job:
    """A process that the spawner started for us."""

    number: int
    has_directory: bool
    # bubblewrap's exit status (128 + n for signal n inside), or -n when signal n killed it; -9 when the spawner died.
    exited: asyncio.Future[int] = field(default_factory=_future)
    # The sockets in its network that were asked for. Errors: Unavailable.
    listening: asyncio.Future[list[socket.socket]] = field(default_factory=_future)
    # Where it is limited and counted, as long as it is there.
    group: Group | None = None
    # Once it has exited.
    used: Usage = Usage()
    # A slot is where it should be: furnished, and in its cgroup. Errors: Unavailable.
    placed: asyncio.Future[None] = field(default_factory=_future)
    # Its run directory is gone.
    removed: asyncio.Future[None] = field(default_factory=_future)

    @property
    def is_over(self) -> bool:
        """Whether no more news come."""
        return self.exited.done() and (self.removed.done() or not self.has_directory)

    def memory(self) -> int:
        """Bytes that it has now, what its forks have copied not counted; 0 if unknown."""
        return self.group.memory() if self.group else 0

    def usage(self) -> Usage:
        """So far; nothing where there are no control groups."""
        return self.group.usage() if self.group else Usage()

    def hear(self, did: str, news: Mapping[str, Any], sockets: list[socket.socket]) -> None:
        """What the spawner says about it."""
        if did == "listening" and not self.listening.done():
            self.listening.set_result(sockets)
            return
        for sock in sockets:
            sock.close()
        if places := news.get("group"):
            self.group = Group({controller: Path(place) for controller, place in places.items()})
        if did == "deaf":
            self._deaf(news["error"])
        elif did == "placed" and not self.placed.done():
            self.placed.set_result(None)
        elif did == "exited":
            self.used = Usage(**news["used"])
            self.end(news["status"])
            self._deaf("the sandbox ended")
            if news["removed"]:
                self.removed.set_result(None)
        elif did == "removed":
            self.removed.set_result(None)

    def end(self, status: int | None) -> None:
        """It has ended. None: a slot, of whose exit status only its template knows; if that says nothing soon, -9."""
        if status is None:
            asyncio.get_running_loop().call_later(STATUS_SECONDS, self.end, -9)
        elif not self.exited.done():
            self.exited.set_result(status)

    def hang_up(self) -> None:
        """Nobody wants its sockets any more."""
        if not self.listening.cancel() and not self.listening.cancelled() and not self.listening.exception():
            for sock in self.listening.result():
                sock.close()

    def lose(self, reason: str = _LOST) -> None:
        """It isn't there: the spawner is gone, and everything that it had started, or has refused it."""
        self._deaf(reason)
        if not self.exited.done():
            self.exited.set_result(-9)
        if not self.removed.done():
            self.removed.set_result(None)

    def _deaf(self, reason: str) -> None:
        for waiting in (self.listening, self.placed):
            if not waiting.done():
                waiting.set_exception(Unavailable(reason))
                waiting.exception()  # whoever doesn't ask needn't know


class SpawnerClient:
    """Orders and news. Everything fails with Unavailable once the spawner is gone: no run is possible then."""

    def __init__(self, launched: Launched) -> None:
        self.runs = ""  # where run directories are, as a sandbox's uid reaches them
        self.own_runs = Path()  # the same, as we reach them
        self.no_cgroups = ""  # why there are none, where there are none
        self.lost = asyncio.Event()
        self.pid = launched.process.pid
        self._process = launched.process
        self._sock = launched.sock
        self._last = 0
        self._jobs: dict[int, Job] = {}
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._staged: dict[Path, str] = {}
        self._unsent: deque[tuple[bytes, list[int]]] = deque()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._sock.fileno(), self._hear)

    async def configure(self, runs: Path, needed: Sequence[Path]) -> None:
        """Errors: Unavailable when sandboxes can't be had here, which it says."""
        order = {"runs": str(runs), "uids": UIDS, "needed": [str(path) for path in needed]}
        self.own_runs = runs
        answer = await self._ask("configure", order)
        self.runs, self.no_cgroups = answer["runs"], answer["no_cgroups"]

    async def stage(self, path: Path) -> str:
        """Where a sandbox's uid reaches a path of the host. Errors: Unavailable."""
        if path not in self._staged:
            self._staged[path] = (await self._ask("stage", {"path": str(path)}))["path"]
        return self._staged[path]

    async def spawn(
        self, argv: Sequence[str], fds: Mapping[int, int], *, confined: bool, env: Mapping[str, str] | None = None,
        cwd: str = "/", run: str = "", listen: Sequence[tuple[str, int]] | None = None, bounds: Bounds = UNBOUND,
        kind: str = "",
    ) -> Job:  # fmt: skip
        """Starts a process; `fds` (number there → ours, copied) are all that it has. `run` names a directory to make.
        `listen`: where its network is opened, None: not at all. `kind`: template, base, or packager, which has the uid
        that owns uv's cache.

        Errors: Unavailable.
        """
        job = Job(self._last + 1, has_directory=bool(run))
        self._jobs[job.number] = job
        order = {"argv": list(argv), "env": dict(env or {}), "cwd": cwd, "fds": list(fds), "confined": confined}
        own: dict[str, Any] = {"run": run, "bounds": astuple(bounds), "kind": kind}
        own["listen"] = None if listen is None else list(listen)
        try:
            await self._ask("spawn", order | own, list(fds.values()))
        except (Unavailable, asyncio.CancelledError):
            self.kill(job)  # if it is there; the spawner's news end what we know of it
            raise
        return job

    def adopt(
        self, template: Job, word: socket.socket, *, run: str, listen: Sequence[tuple[str, int]], bounds: Bounds,
        forks: bool = False,
    ) -> Job:  # fmt: skip
        """Has a slot taken on that `template` is about to be told to fork, with the other end of `word`; one that
        `forks` is a template itself. Nobody waits for an answer: if it can't be, its sockets are where that is heard.

        Errors: Unavailable.
        """
        if self.lost.is_set():
            raise Unavailable(_LOST)
        self._last += 1
        job = self._jobs[self._last] = Job(self._last, has_directory=True)
        job.exited.add_done_callback(lambda _: self._forget(job))
        own = {"template": template.number, "run": run, "listen": list(listen), "bounds": astuple(bounds)}
        self._send({"do": "adopt", "job": job.number, "forks": forks, **own}, [word.fileno()])
        return job

    def kill(self, job: Job) -> None:
        """Kills it and all that it started; `exited` tells when, or its template, which may lie."""
        if not job.is_over:
            self._send({"do": "kill", "job": job.number})

    async def close(self) -> None:
        """Everything that was started dies; returns when the spawner has ended."""
        self._let_go()
        until = self._loop.time() + FAREWELL_SECONDS
        while self._process.poll() is None:  # a child's end is no event that a loop could wait for
            if self._loop.time() > until:
                self._process.kill()
            await asyncio.sleep(0.005)

    async def _ask(self, do: str, order: dict[str, Any], fds: Sequence[int] = ()) -> dict[str, Any]:
        if self.lost.is_set():
            raise Unavailable(_LOST)
        self._last += 1
        number = self._last
        answer: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        self._answers[number] = answer
        try:
            self._send({"do": do, "job": number, **order}, fds)
            async with asyncio.timeout(ANSWER_SECONDS):
                return await answer
        except TimeoutError:
            raise Unavailable("the spawner doesn't answer") from None
        finally:
            del self._answers[number]

    def _send(self, order: dict[str, Any], fds: Sequence[int] = ()) -> None:
        data = json.dumps(order).encode()
        if len(data) > MAX_MESSAGE:
            raise Unavailable(f"a command of {len(data)} bytes is too long for the spawner")
        if not self.lost.is_set():
            self._unsent.append((data, [os.dup(fd) for fd in fds]))
            self._flush()

    def _flush(self) -> None:
        while self._unsent:
            data, fds = self._unsent[0]
            try:
                socket.send_fds(self._sock, [data], fds)
            except BlockingIOError:
                self._loop.add_writer(self._sock.fileno(), self._flush)
                return
            except OSError:
                self._let_go()
                return
            self._unsent.popleft()
            for fd in fds:
                os.close(fd)
        self._loop.remove_writer(self._sock.fileno())

    def _hear(self) -> None:
        try:
            data, fds, _, _ = socket.recv_fds(self._sock, MAX_MESSAGE, 16, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        except OSError:
            data, fds = b"", []
        if not data:
            self._let_go()
            return
        news = json.loads(data)
        did, number = news["did"], news["job"]
        answer, job = self._answers.get(number), self._jobs.get(number)
        if did == "refused":
            self._jobs.pop(number, None)
            if job is not None and answer is None:
                job.lose(news["error"])
        if answer is not None and not answer.done():
            if did == "refused":
                answer.set_exception(Unavailable(news["error"]))
            else:
                answer.set_result(news)
        if job is not None:
            job.hear(did, news, [socket.socket(fileno=fd) for fd in fds])
            self._forget(job)

    def _forget(self, job: Job) -> None:
        if job.is_over:
            self._jobs.pop(job.number, None)

    def _let_go(self) -> None:
        """The spawner is gone, or is to go."""
        if self.lost.is_set():
            return
        self.lost.set()
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        self._sock.close()
        for _, fds in self._unsent:
            for fd in fds:
                os.close(fd)
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(Unavailable(_LOST))
        for job in self._jobs.values():
            job.lose()
        self._jobs.clear()


@asynccontextmanager
async def open_spawner(runs: Path, needed: Sequence[Path], launched: Launched | None) -> AsyncIterator[SpawnerClient]:
    """A spawner that is ready; launched here when it wasn't before (tests). Errors: Unavailable."""
    client = SpawnerClient(launched or launch())
    try:
        await client.configure(runs, needed)
        yield client
    finally:
        await client.close()
