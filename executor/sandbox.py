"""The port to a sandbox: a driver starts one, the run talks to it. `bubblewrap` is the driver; tests have a fake.

Everything that comes out of a sandbox is hostile: bounded, and never trusted to be well-formed.
"""

import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from executor.cgroups import Bounds, Usage
from executor.egress.log import EgressLog
from executor.egress.names import Names

DEFAULT_BOUNDS = Bounds(memory=2 << 30, processes=256, cpu=1.0)


@dataclass(frozen=True)
class Environment:
    """A built dependency environment, shared read-only by all sandboxes with the same lock."""

    digest: str
    path: Path
    # `path / "bin" / "python"`.
    interpreter: Path
    # The real `sys.base_prefix` of the interpreter that it was made from.
    base_prefix: Path


@dataclass(frozen=True)
class Launch:
    """All that a sandbox is started with. `env` holds secrets: it travels over the control socket only."""

    run_id: str
    environment: Environment
    source: bytes
    file_name: str
    env: Mapping[str, str] = field(repr=False)
    # run: forked from a template where that can be · cold: a new process from nothing (SPEC §8) · check: cold, and it
    # says whether it could be forked.
    isolation: str = "cold"
    # What may share a template: the version, and whose secrets are in `env`.
    version_id: str = ""
    acting_id: str = ""
    bounds: Bounds = DEFAULT_BOUNDS
    # What one file may hold; 0: any. The whole is looked after by the run (disk.py).
    disk_bytes: int = 0
    # A directory of this host that it sees as `bubblewrap.CERTIFICATES`: where its egress is intercepted.
    certificates: Path | None = None
    # What a template that is made for it may reach while it loads (egress/rules.py), and where that is written down:
    # the run's own log.
    egress: Sequence[str] | None = None
    contacts: EgressLog = field(default_factory=EgressLog, repr=False, compare=False)
    owner_id: str = ""  # whose workflow it is


@dataclass(frozen=True)
class Head:
    """A request's or an answer's head. Header names are lower-case bytes as ASGI wants them."""

    headers: list[tuple[bytes, bytes]]
    method: str = "GET"
    path: str = "/"  # percent-encoded, as it was sent
    query: str = ""
    status: int = 0
    # Of a request of a run that is recorded or repeats another: what the sandbox needs for it (shim_replay.py).
    repeat: Mapping[str, Any] = field(default_factory=dict)
    # Of a request: whether the app may say what it uses of models.
    metered: bool = False


@dataclass(frozen=True)
class AnswerEnd:
    """The answer's last byte is out."""


@dataclass(frozen=True)
class Finished:
    """The app callable and its shutdown are done. `error` is empty when it returned; else what it raised, one line."""

    error: str = ""


@dataclass(frozen=True)
class Said:
    """Something about the use of models (model_calls.py); it may be answered by `Sandbox.tell`."""

    payload: bytes


AnswerPart = Head | bytes | AnswerEnd | Finished
Event = AnswerPart | Said


@dataclass(frozen=True)
class Exit:
    """How the sandbox's process ended: an exit status, or the signal that killed it."""

    status: int = 0
    signal: int = 0
    used: Usage = field(default=Usage(), compare=False)


class StartFailed(Exception):
    """The script never came to serving. `kind`: syntax, import, no_app, exited, lifespan, refused, timeout, killed."""

    def __init__(self, kind: str, detail: str, *, line: int = 0, traceback: str = "") -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.line = line
        self.traceback = traceback


class Unforkable(Exception):
    """It can be loaded, but not be forked; says why."""


class Crashed(Exception):
    """The sandbox died or broke the protocol before it had finished."""


@dataclass
class Process:
    """What a driver hands out with a started sandbox, besides its methods."""

    stdout: int  # read ends, non-blocking, owned by whoever took them
    stderr: int
    # Listening sockets inside the sandbox's network that lead to the runtime: (socket, whether TLS is spoken there).
    way_out: list[tuple[socket.socket, bool]] = field(default_factory=list)
    # Those to everywhere else, in the order of `netns.open_network`.
    egress: list[socket.socket] = field(default_factory=list)
    # What addresses mean in it: a process that serves many calls may remember them.
    names: Names = field(default_factory=Names)
    # The directories on the host that it writes to.
    places: Sequence[Path] = ()

    def close_ways(self) -> None:
        """Its sockets, on our side."""
        for sock in (*(sock for sock, _ in self.way_out), *self.egress):
            sock.close()


class Sandbox(Protocol):
    """One started sandbox, for one run."""

    process: Process
    # Why it couldn't be forked, after the `ready` of a check; empty when it could.
    obstacle: str

    async def ready(self, timeout: float) -> None:
        """Returns when the script handed its app over. Errors: StartFailed."""

    async def openapi(self) -> str:
        """The app's OpenAPI document as JSON, empty where it gives none. After `ready`. Errors: Crashed."""

    def serve(self, request: Head, body: AsyncIterator[bytes]) -> AsyncIterator[Event]:
        """Sends one request; yields Head, bytes …, AnswerEnd, Finished; where it is metered Said, before Finished.
        Errors, at any point: Crashed; StartFailed `lifespan` when the app's own startup failed; whatever `body` raises.
        """

    async def tell(self, payload: bytes) -> None:
        """Answers what the app said of its use of models. Errors: Crashed."""

    async def caller_gone(self) -> None:
        """Tells the app (http.disconnect)."""

    def usage(self) -> Usage:
        """So far; nothing where that can't be told."""

    async def close(self) -> Exit:
        """Kills what still runs and removes every trace: processes, directories, sockets. Idempotent."""


class Driver(Protocol):
    """Starts sandboxes."""

    @property
    def lost(self) -> bool:
        """Those that were there have died with what started them, and no other can be had."""

    async def start(self, launch: Launch) -> Sandbox:
        """Errors: kit.errors.Unavailable when the host can't (no process, no space)."""
