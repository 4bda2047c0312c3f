"""What a sandbox looks at in itself before it runs anything, from inside. Standard library only, beside shim.py."""

from __future__ import annotations

import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from shim_control import CONTROL_FD  # type: ignore[import-not-found]  # it lies beside us in the sandbox

# Of /proc/self/status, in a sandbox: what rights show in, and how it must be.
RIGHTS = ("Cap", "NoNewPrivs:", "Seccomp:")
WANTED = {"NoNewPrivs": "1", "Seccomp": "2"}


def no_rights() -> str:
    """What this process may do that it shouldn't; empty when that is nothing. All that a slot checks in each run: the
    rest is as in its template, and what differs is checked when the executor starts (self_check.py).
    """
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:  # noqa: PTH123  # cheap in each start
        status = dict(line.rstrip().split(":\t", 1) for line in file if line.startswith(RIGHTS))
    faults = [f"{name} is {status.get(name)}" for name, value in WANTED.items() if status.get(name) != value]
    faults += [f"{name} is {held}" for name, held in status.items() if name.startswith("Cap") and int(held, 16)]
    if os.getuid() == 0:
        faults.append("uid is 0")
    return "; ".join(faults)


def self_check(known: Collection[int]) -> str:
    """Why this is no sandbox; empty when it is one. The last line of defence against a wrong start from outside.

    `known` descriptors are ours.
    """
    faults = [fault] if (fault := no_rights()) else []
    with suppress(OSError):  # only the host's uid 0 may open it, whatever the uid is in here
        os.close(os.open("/proc/sys/kernel/core_pattern", os.O_WRONLY))
        faults.append("the kernel's settings are writable")
    if strangers := [
        fd for fd in (int(path.name) for path in Path("/proc/self/fd").iterdir()) if _is_strange(fd, known)
    ]:
        faults.append(f"descriptors {sorted(strangers)} are open")
    devices = {
        line.split(":")[0].strip() for line in Path("/proc/self/net/dev").read_text().splitlines() if ":" in line
    }
    if devices - {"lo"}:
        faults.append(f"network devices {sorted(devices)}")
    return "; ".join(faults)


def _is_strange(fd: int, known: Collection[int]) -> bool:
    """Whether a descriptor is open (that of the listing itself isn't any more) and none that we were given."""
    with suppress(OSError):
        os.fstat(fd)
        return fd > CONTROL_FD and fd not in known
    return False
