"""Where a run begins in gVisor: becomes an ordinary user behind the system-call filter, then is the shim (shim.py).

Standard library only, beside shim.py in the sandbox. Its control socket comes as its standard input, since runsc hands
over no other descriptors. The process that runsc starts only waits, so that signals which a workflow sends itself reach
it and what its children leave behind is reaped.
"""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

UID = 1000
CONTROL_FD = 3
FILTER = Path("/runmesh/filter.bpf")
_CLONE_NEWUSER = 0x10000000
_PR_SET_NO_NEW_PRIVS, _PR_GET_NO_NEW_PRIVS = 38, 39
_REFUSED = 65


def main() -> None:
    """Exit status 65, and the reason on stderr, where the sandbox isn't what it should be."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWUSER):
        raise OSError(ctypes.get_errno(), "no user namespace")
    for name in ("uid_map", "gid_map"):
        Path("/proc/self", name).write_text(f"{UID} 0 1")
    Path("/dev").chmod(0o555)  # whoever undoes it has only found memory of its own
    if main := os.fork():
        wait_for(main)
    os.dup2(0, CONTROL_FD)
    nowhere = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nowhere, 0)
    os.close(nowhere)
    import shim  # type: ignore[import-not-found]  # noqa: PLC0415  # not by the one that waits
    import shim_check  # type: ignore[import-not-found]  # noqa: PLC0415
    import shim_template  # type: ignore[import-not-found]  # noqa: PLC0415

    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    shim_template.drop_rights(FILTER.read_bytes())
    if libc.prctl(_PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1:
        raise OSError("no_new_privs isn't set")
    shim_check.WANTED.pop("NoNewPrivs")  # older gVisors don't say it in /proc
    sys.modules["__runmesh_start__"], sys.modules["__main__"] = sys.modules["__main__"], shim
    shim.main()


def wait_for(main: int) -> NoReturn:
    """Reaps all, and ends as `main` did: 128 + n for signal n."""
    for fd in range(3):
        with suppress(OSError):
            os.close(fd)
    while True:
        pid, status = os.wait()
        if pid == main:
            end = os.waitstatus_to_exitcode(status)
            os._exit(128 - end if end < 0 else end)


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        os.write(2, f"{error}\n".encode())
        os._exit(_REFUSED)
