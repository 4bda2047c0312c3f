"""Tries what a sandbox needs of the kernel, each in a child that is thrown away. Standard library only: it forks.

Each function is called as the user that a sandbox would have; it raises OSError, with what didn't work.
"""

import ctypes
import encodings.idna  # noqa: F401  # what resolves a name needs it, and the new user may not get at it
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from executor import netns
from executor.spawned import drop_to

_NEW_NS, _NEW_USER, _NEW_PID, _NEW_NET = 0x00020000, 0x10000000, 0x20000000, 0x40000000
_PRIVATE = 0x40000 | 0x4000
_PR_SET_DUMPABLE = 4
_SAID_BYTES = 1000
_UID = 1000


def attempt(action: Callable[[], object], uid: int | None, directory: Path) -> str:
    """Runs it in a child of that uid (None: ours) that stands in `directory`; why it failed, empty when it didn't."""
    said, say = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(said)
        _act(action, uid, directory, say)
    os.close(say)
    with os.fdopen(said, "rb") as pipe:
        text = pipe.read(_SAID_BYTES).decode("utf-8", "replace")
    _, status = os.waitpid(pid, 0)
    return text or ("" if status == 0 else f"the attempt ended with {os.waitstatus_to_exitcode(status)}")


def _act(action: Callable[[], object], uid: int | None, directory: Path, say: int) -> NoReturn:
    status = 1
    try:
        os.chdir(directory)  # before: the new user may not get there
        if uid is not None:
            drop_to(uid)
            ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)  # /proc/self is ours again
        action()
        status = 0
    except BaseException as error:  # noqa: BLE001  # nothing may return from here
        with suppress(OSError):
            os.write(say, str(error).encode()[:_SAID_BYTES])
    finally:
        os._exit(status)


def user_namespace() -> None:
    """A namespace in which one is oneself."""
    _enter(_NEW_USER)


def overlay() -> None:
    """An overlay of directories that stand where we are: what a slot's /tmp is."""
    _enter(_NEW_USER | _NEW_NS)
    _mount("none", "/", None, _PRIVATE)
    for name in ("lower", "upper", "work", "merged"):
        Path(name).mkdir()
    _mount("overlay", "merged", "overlay", 0, "lowerdir=lower,upperdir=upper,workdir=work,userxattr")
    Path("merged", "file").write_text("x")


def fresh_proc() -> None:
    """A /proc of one's own, in namespaces within namespaces."""
    for _ in range(2):
        _enter(_NEW_USER | _NEW_NS | _NEW_PID)
        _mount("none", "/", None, _PRIVATE)
        child = os.fork()  # a pid namespace is entered by children only
        if child:
            _, status = os.waitpid(child, 0)
            os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    where = Path("proc")
    where.mkdir(exist_ok=True)
    _mount("proc", str(where), "proc", 0)
    if not (where / "1").exists():
        raise OSError("/proc shows other processes than those of its namespace")


def network() -> None:
    """A network whose connections all lead to us: a sandbox's."""
    _enter(_NEW_USER | _NEW_NET)
    netns.bring_up_loopback()
    made = netns.open_network([("127.0.0.2", 80)])
    made[0].listen()
    with socket.create_connection(("127.0.0.2", 80), timeout=2):
        pass


def _enter(namespaces: int) -> None:
    uid, gid = os.getuid(), os.getgid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(namespaces):
        raise OSError(ctypes.get_errno(), f"unshare: {os.strerror(ctypes.get_errno())}")
    for name, text in (("setgroups", "deny"), ("uid_map", f"{_UID} {uid} 1"), ("gid_map", f"{_UID} {gid} 1")):
        Path("/proc/self", name).write_text(text)


def _mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(source.encode(), target.encode(), kind.encode() if kind else None, flags, options.encode()):
        number = ctypes.get_errno()
        raise OSError(number, f"mount {kind or target}: {os.strerror(number)}")
