"""A process as the host's /proc shows it: what the self-check judges a sandbox by. Parsers, and a look."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

NAMESPACES = ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup")


@dataclass(frozen=True)
class Mount:
    """A line of mountinfo. `root` is what of the file system is shown at `point`."""

    number: int
    parent: int
    root: str
    point: str
    options: frozenset[str]
    kind: str


@dataclass(frozen=True)
class Seen:
    """One process, from outside."""

    # /proc/PID/status: ids and numbers are the host's.
    status: Mapping[str, str]
    # Kind → which one it is in.
    namespaces: Mapping[str, str]
    mounts: tuple[Mount, ...]
    # Controller ("" for all of version 2) → path.
    groups: Mapping[str, str]
    # Name as in /proc/PID/limits → soft limit as text.
    limits: Mapping[str, str]
    # Network devices.
    devices: frozenset[str]


def look(pid: int | str) -> Seen:
    """Errors: OSError when it is gone, or not ours to look at."""
    here = Path("/proc", str(pid))
    return Seen(
        status=fields((here / "status").read_text()),
        namespaces={kind: str((here / "ns" / kind).readlink()) for kind in NAMESPACES if (here / "ns" / kind).exists()},
        mounts=mounts((here / "mountinfo").read_text()),
        groups=groups((here / "cgroup").read_text()),
        limits=limits((here / "limits").read_text()),
        devices=devices((here / "net" / "dev").read_text()),
    )


def fields(status: str) -> dict[str, str]:
    """Name → value."""
    return {name: value.strip() for name, _, value in (line.partition(":") for line in status.splitlines())}


def mounts(mountinfo: str) -> tuple[Mount, ...]:
    """Those that can be reached: not what lies under a later mount."""
    found: list[Mount] = []
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        number, parent, _, root, point, options = left.split(" ")[:6]
        found.append(
            Mount(int(number), int(parent), root, point, frozenset(options.split(",")), right.split(" ", 1)[0])
        )
    parents = {mount.number: mount.parent for mount in found}
    return tuple(mount for place, mount in enumerate(found) if not _is_covered(mount, found[place + 1 :], parents))


def _is_covered(mount: Mount, later: list[Mount], parents: Mapping[int, int]) -> bool:
    carriers, step = set(), mount.number
    while step in parents and step not in carriers:
        carriers.add(step)
        step = parents[step]
    return any(
        other.number not in carriers and (mount.point == other.point or mount.point.startswith(f"{other.point}/"))
        for other in later
    )


def groups(text: str) -> dict[str, str]:
    """Controller → path."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        found |= dict.fromkeys(controllers.split(","), path)
    return found


def limits(text: str) -> dict[str, str]:
    """Name → soft limit; the columns are of fixed width."""
    return {line[:26].strip(): line[26:47].strip() for line in text.splitlines()[1:]}


def devices(text: str) -> frozenset[str]:
    """Names out of /proc/PID/net/dev."""
    return frozenset(line.split(":")[0].strip() for line in text.splitlines() if ":" in line)


def descendants(pid: int) -> list[int]:
    """Of a process, now."""
    children: dict[int, list[int]] = {}
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with suppress(OSError, IndexError, ValueError):
                parent = int((process / "stat").read_text().rsplit(") ", 1)[1].split()[1])
                children.setdefault(parent, []).append(int(process.name))
    found, waiting = [], [pid]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def innermost(pids: list[int], number: int) -> int:
    """The one of `pids` that is `number` in the deepest of its pid namespaces. Errors: OSError when there is none."""
    best = (1, 0)
    for pid in pids:
        with suppress(OSError):
            numbers = fields(Path(f"/proc/{pid}/status").read_text())["NSpid"].split()
            if len(numbers) > 1 and int(numbers[-1]) == number:
                best = max(best, (len(numbers), pid))
    if not best[1]:
        raise ProcessLookupError(f"no process of a sandbox is {number} inside")
    return best[1]


def name(pid: int) -> str:
    """Its zeroth argument, without directories; empty where it has none. Errors: OSError."""
    return Path("/proc", str(pid), "cmdline").read_bytes().partition(b"\0")[0].decode("utf-8", "replace").split("/")[-1]


def parent(pid: int) -> int:
    """Errors: OSError."""
    return int(fields(Path(f"/proc/{pid}/status").read_text())["PPid"])
