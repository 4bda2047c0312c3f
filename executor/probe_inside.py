"""What the self-check runs in a sandbox: a workflow that tries what must fail, and tells. See self_check.py.

It tries twice: while it is imported (in a template, if there is one) and while it serves. An attempt answers `allowed`,
or the name of the error that stopped it.
"""

import ctypes
import errno
import json
import os
import platform
import socket
import stat
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

CANARY = "RUNMESH_CANARY"  # names a file of the host that any of its users may read
_PTRACE = {"x86_64": 101, "aarch64": 117}
_KEYCTL = {"x86_64": 250, "aarch64": 219}
_NEW_USER, _NEW_NET = 0x10000000, 0x40000000
_ADDRESS_FAMILY_PACKET = 17

_libc = ctypes.CDLL(None, use_errno=True)


def _write(path: str) -> None:
    os.close(os.open(path, os.O_WRONLY))


def _make(path: str) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    Path(path).unlink()


def _call(function: Callable[..., int], *arguments: object) -> None:
    if function(*arguments) < 0:
        raise OSError(ctypes.get_errno(), "")


def _raw(numbers: dict[str, int], *arguments: int) -> None:
    _call(_libc.syscall, numbers[platform.machine()], *arguments)


ATTEMPTS: dict[str, Callable[[], object]] = {
    "to write to the kernel's settings": lambda: _write("/proc/sys/kernel/core_pattern"),
    "to write to /": lambda: _make("/runmesh-probe"),
    "to write to /usr": lambda: _make("/usr/runmesh-probe"),
    "to write to /etc": lambda: _make("/etc/runmesh-probe"),
    "to write to /dev": lambda: _make("/dev/runmesh-probe"),
    "to write to the shim's directory": lambda: _make("/runmesh/probe"),
    "to read a file of the host": lambda: Path(os.getenv(CANARY, "")).read_bytes(),
    "to become root": lambda: os.setresuid(0, 0, 0),
    "to make a user namespace": lambda: _call(_libc.unshare, _NEW_USER),
    "to make a network namespace": lambda: _call(_libc.unshare, _NEW_NET),
    "to mount": lambda: _call(_libc.mount, b"none", b"/tmp", b"tmpfs", 0, None),
    "to trace": lambda: _raw(_PTRACE, 0, 0, 0, 0),
    "to use the kernel's keys": lambda: _raw(_KEYCTL, 0, -3, 1),
    "to open a netlink socket": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0).close(),
    "to open a packet socket": lambda: socket.socket(_ADDRESS_FAMILY_PACKET, socket.SOCK_RAW, 0).close(),
    "to open a raw socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1).close(),
}


def _make_node() -> None:
    """What any user may, and Landlock forbids a workflow: a whiteout. Not in /tmp: an overlay forbids it too."""
    os.mknod("/dev/shm/probe", stat.S_IFCHR, 0)  # noqa: S108  # inside


def tried() -> dict[str, str]:
    """Attempt → what came of it."""
    return {name: _outcome(attempt) for name, attempt in ATTEMPTS.items()}


def _outcome(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, "OSError")
    return "allowed"


def told(while_imported: dict[str, str]) -> dict[str, Any]:
    """All that it has to say."""
    Path("/tmp/probe").write_text("x")  # noqa: S108  # what must work
    environ = ""
    with suppress(OSError):
        environ = Path("/proc/1/environ").read_text()
    return {
        "kernel": Path("/proc/version").read_text(),
        "pid": os.getpid(),
        "uid": os.getuid(),
        "processes": sum(path.name.isdigit() for path in Path("/proc").iterdir()),
        "environ": len(environ),
        "landlock": _outcome(_make_node) != "allowed",
        "imported": while_imported,
        "served": tried(),
    }


def app(while_imported: dict[str, str]) -> Callable[..., Awaitable[None]]:
    """Tells, and stays until the request's body has come to its end."""

    async def serve(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return
        body = json.dumps(told(while_imported)).encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body, "more_body": True})
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.body", "body": b""})

    return serve


if __name__ == "__main__":
    import uvicorn

    uvicorn.run(app(tried()), log_level="error")
