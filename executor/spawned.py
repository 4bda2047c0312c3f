"""What a process that the spawner forks does before it becomes somebody else. Standard library only.

Every function here ends the process: it runs between fork and exec.
"""

import ctypes
import fcntl
import json
import os
import resource
import signal
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from executor import furnish, netns, staging

NOT_STARTED = 127
_PR_SET_PDEATHSIG = 1
_OPEN_FILES = 4096
_FILE_BYTES = 10 << 30
_LOCKED_BYTES = 64 << 10
_LIMITS = (
    (resource.RLIMIT_CORE, 0),
    (resource.RLIMIT_NOFILE, _OPEN_FILES),
    (resource.RLIMIT_FSIZE, _FILE_BYTES),
    (resource.RLIMIT_MEMLOCK, _LOCKED_BYTES),
    (12, 0),  # RLIMIT_MSGQUEUE, which the module doesn't name: bytes in POSIX message queues
)


@dataclass(frozen=True)
class Order:
    """What to become. `fds` (number there → descriptor here); the standard ones are /dev/null where it names none."""

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: str
    fds: Mapping[int, int]
    # A sandbox gets limits, and a uid of its own where we are root.
    confined: bool
    uid: int | None
    # Of its uid, which is this one's alone, or shared by all slots of a template.
    processes: int = 1024
    # What bubblewrap makes in there is seen by other uids where a base's templates have some.
    umask: int = 0o077
    # Of its control groups: whoever writes `0` to them is in.
    doors: Sequence[int] = ()


def become(order: Order, parent: int) -> NoReturn:
    """Executes the order's program; exit status 127, and the reason on its stderr, when it can't."""
    try:
        _calm_signals()
        os.setsid()
        for door in order.doors:
            os.write(door, b"0")
        os.umask(order.umask)
        _place(order.fds)
        if order.confined:
            _limit()
        if order.uid is not None:
            resource.setrlimit(resource.RLIMIT_NPROC, (order.processes, order.processes))
            drop_to(order.uid)
        _die_with(parent)
        os.chdir(order.cwd)
        os.execvpe(order.argv[0], list(order.argv), dict(order.env))  # noqa: S606  # no shell is what we want
    except BaseException as error:  # noqa: BLE001  # nothing may return into the spawner's loop
        with suppress(OSError):
            os.write(2, f"{order.argv[0]}: {error}\n".encode())
    finally:
        os._exit(NOT_STARTED)


def listen(executor: socket.socket, job: int, pid: int, addresses: Sequence[tuple[str, int]]) -> NoReturn:
    """Hands the executor listening sockets of the sandbox's network."""
    try:
        made = netns.listeners(pid, addresses)
        socket.send_fds(executor, [json.dumps({"did": "listening", "job": job}).encode()], [s.fileno() for s in made])
    except BaseException as error:  # noqa: BLE001  # as above
        with suppress(OSError):
            executor.send(json.dumps({"did": "deaf", "job": job, "error": str(error)[:1000]}).encode())
    finally:
        os._exit(0)


def furnish_slot(
    executor: socket.socket, job: int, place: furnish.Place, maps: furnish.Maps | None, *, there: bool
) -> NoReturn:
    """Makes a slot's place its own; hands the executor listening sockets of its network. Exit status 1 if it can't."""
    status = 1
    try:
        made = furnish.furnish(place, maps, there=there)
        socket.send_fds(executor, [json.dumps({"did": "listening", "job": job}).encode()], [s.fileno() for s in made])
        status = 0
    except BaseException as error:  # noqa: BLE001  # as above
        with suppress(OSError):
            executor.send(json.dumps({"did": "deaf", "job": job, "error": str(error)[:1000]}).encode())
    finally:
        os._exit(status)


def sweep(root: Path, directory: Path, uid: int | None) -> NoReturn:
    """Empties a run's directory as the uid that filled it. Exit status 1 when something resists.

    What lies right in `root` belongs to nobody who lives any more: whatever of it is another uid's, a base's templates
    for one, is removed by us. Elsewhere somebody might move a directory while we are in it, and lead us out of there.
    """
    status = 1
    try:
        opened = staging.open_below(root, directory)
        os.nice(10)
        child = os.fork() if uid is not None and directory.parent == root else -1
        if child <= 0:
            if uid is not None:
                drop_to(uid)
            staging.clear(opened)
            status = 0
        elif os.waitpid(child, 0)[1]:
            staging.clear(opened)
            status = 0
        else:
            status = 0
    except BaseException as error:  # noqa: BLE001  # as above
        with suppress(OSError):
            os.write(2, f"spawner: {directory} can't be emptied: {error}\n".encode())
    finally:
        os._exit(status)


def drop_to(uid: int) -> None:
    """Becomes `uid` for good."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def _calm_signals() -> None:
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)


def _place(fds: Mapping[int, int]) -> None:
    """Moves descriptors to their numbers, by way of high ones so that none is overwritten; the rest is closed."""
    above = max(fds, default=2) + 1
    nowhere = os.open(os.devnull, os.O_RDWR)
    wanted = {0: nowhere, 1: nowhere, 2: nowhere, **fds}
    parked = {target: fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, above) for target, fd in wanted.items()}
    for target in range(above):
        if target in parked:
            os.dup2(parked[target], target)
        else:
            with suppress(OSError):
                os.close(target)
    os.closerange(above, resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def _limit() -> None:
    for kind, most in _LIMITS:
        allowed = resource.getrlimit(kind)[1]
        limit = most if allowed == resource.RLIM_INFINITY else min(most, allowed)
        resource.setrlimit(kind, (limit, limit))
    Path("/proc/self/oom_score_adj").write_text("1000")  # before anything of ours


def _die_with(parent: int) -> None:
    """After the change of uid, which clears it."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(NOT_STARTED)
