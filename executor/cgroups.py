"""Control groups for sandboxes: limits of memory, processor and processes, and what was used. Part of the spawner (the
executor only reads).

Version 2 where its controllers can be had, else version 1, each controller a tree of its own. A group is entered by a
single-threaded process that writes `0` to a file that the spawner opened: moving it from outside would stall every fork
of the machine. Standard library only.
"""

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PERIOD_MICROSECONDS = 100_000
_WANTED = ("memory", "pids", "cpu")
_ACCOUNTING = "cpuacct"  # a tree of its own in version 1


@dataclass(frozen=True)
class Bounds:
    """Of one sandbox; 0: none. `memory` in bytes, `cpu` in processors."""

    memory: int = 0
    processes: int = 0
    cpu: float = 0


@dataclass(frozen=True)
class Usage:
    """What a sandbox used: seconds of a processor, most bytes of memory at once; how often the kernel killed for want
    of memory.
    """

    cpu_seconds: float = 0
    memory_peak: int = 0
    oom_kills: int = 0


class Group:
    """One sandbox's, in each of the trees."""

    def __init__(self, directories: Mapping[str, Path]) -> None:
        self._directories = directories  # controller → directory; several may share one

    @property
    def places(self) -> dict[str, str]:
        """Controller → directory."""
        return {controller: str(directory) for controller, directory in self._directories.items()}

    def doors(self) -> list[int]:
        """Descriptors to which whoever enters writes `0`. Errors: OSError."""
        doors: list[int] = []
        try:
            for directory in self._distinct():
                name = "tasks" if (directory / "tasks").exists() else "cgroup.procs"
                doors.append(os.open(directory / name, os.O_WRONLY | os.O_CLOEXEC))
        except OSError:
            for door in doors:
                os.close(door)
            raise
        return doors

    def holds(self, pid: int) -> bool:
        """Whether a process is in it, in every tree."""
        ending = f"/{self._distinct()[0].name}"
        with suppress(OSError):
            lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
            return sum(line.endswith(ending) for line in lines) >= len(self._distinct())
        return False

    def usage(self) -> Usage:
        """So far. What can't be read is zero."""
        memory, cpu = self._directories.get("memory"), self._directories.get(_ACCOUNTING)
        peak = _number(memory, "memory.peak") or _number(memory, "memory.max_usage_in_bytes")
        kills = _field(memory, "memory.events", "oom_kill") or _field(memory, "memory.oom_control", "oom_kill")
        seconds = _field(cpu, "cpu.stat", "usage_usec") / 1e6 or _number(cpu, "cpuacct.usage") / 1e9
        return Usage(seconds, peak, kills)

    def memory(self) -> int:
        """Bytes now; 0 where that can't be read."""
        memory = self._directories.get("memory")
        return _number(memory, "memory.current") or _number(memory, "memory.usage_in_bytes")

    def remove(self) -> bool:
        """When it is empty; False when it isn't yet."""
        gone = True
        for directory in self._distinct():
            try:
                directory.rmdir()
            except FileNotFoundError:
                pass
            except OSError:
                gone = False
        return gone

    def _distinct(self) -> list[Path]:
        return list(dict.fromkeys(self._directories.values()))


class Cgroups:
    """The trees that this process may make groups in."""

    def __init__(self, trees: Mapping[str, Path]) -> None:
        self._trees = trees  # controller → our own directory

    @classmethod
    def open(cls, name: str) -> "Cgroups":
        """Makes a directory `name` in each tree, below where this process is. Errors: OSError, which says why not."""
        mounts = _mounts(Path("/proc/self/mountinfo").read_text())
        places = _places(Path("/proc/self/cgroup").read_text())
        trees: dict[str, Path] = {}
        unified = mounts.get("")
        if unified is not None:
            trees = _unified(unified / places.get("", "").lstrip("/"), name)
        if not trees:
            trees = _separate(mounts, places, name)
        for tree in dict.fromkeys(trees.values()):
            _sweep_dead(tree.parent)
        return cls(trees)

    def make(self, name: str, bounds: Bounds) -> Group:
        """Errors: OSError."""
        directories = {controller: tree / name for controller, tree in self._trees.items()}
        group = Group(directories)
        try:
            for directory in dict.fromkeys(directories.values()):
                directory.mkdir()
            _limit(directories, bounds)
        except OSError:
            group.remove()
            raise
        return group

    def sweep(self) -> None:
        """Removes groups that are empty; then our own directories, if nothing is left in them."""
        for tree in dict.fromkeys(self._trees.values()):
            with suppress(OSError):
                for group in tree.iterdir():
                    if group.is_dir():
                        with suppress(OSError):
                            group.rmdir()
                tree.rmdir()


def _sweep_dead(place: Path) -> None:
    """What spawners left that were killed: their sandboxes died with them."""
    for left in place.glob("runmesh-[0-9]*"):
        if not Path("/proc", left.name.partition("-")[2]).exists():
            for directory in (*(path for path in left.iterdir() if path.is_dir()), left):
                with suppress(OSError):
                    directory.rmdir()


def _mounts(mountinfo: str) -> dict[str, Path]:
    """Controller → where its tree is mounted; "" is version 2's."""
    found: dict[str, Path] = {}
    for line in mountinfo.splitlines():
        fields, _, rest = line.partition(" - ")
        kind, _, options = rest.split(" ", 2)
        place = Path(fields.split(" ")[4])
        if kind == "cgroup2":
            found[""] = place
        elif kind == "cgroup":
            for option in options.split(" ")[-1].split(","):
                found[option] = place
    return found


def _places(text: str) -> dict[str, str]:
    """Controller → the path of this process's group in its tree; "" is version 2's."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            found[controller] = path
    return found


def _unified(place: Path, name: str) -> dict[str, Path]:
    """Version 2: nothing when its controllers are elsewhere. A group with processes in it can't have children with
    controllers, so what is where we are moves into a child of its own. Errors: OSError.
    """
    with suppress(OSError):
        if set(_WANTED) <= set((place / "cgroup.controllers").read_text().split()):
            ours = place / name
            ours.mkdir(exist_ok=True)
            enable = " ".join(f"+{controller}" for controller in _WANTED)
            if not set(_WANTED) <= set((place / "cgroup.subtree_control").read_text().split()):
                leaf = place / "runmesh-services"
                leaf.mkdir(exist_ok=True)
                for pid in (place / "cgroup.procs").read_text().split():
                    with suppress(OSError):  # it has just ended
                        (leaf / "cgroup.procs").write_text(pid)
                (place / "cgroup.subtree_control").write_text(enable)
            (ours / "cgroup.subtree_control").write_text(enable)
            return dict.fromkeys((*_WANTED, _ACCOUNTING), ours)
    return {}


def _separate(mounts: Mapping[str, Path], places: Mapping[str, str], name: str) -> dict[str, Path]:
    """Version 1. Errors: OSError."""
    missing = [controller for controller in (*_WANTED, _ACCOUNTING) if controller not in mounts]
    if missing:
        raise OSError(f"no cgroup controller for {', '.join(missing)} is mounted")
    trees = {}
    for controller in (*_WANTED, _ACCOUNTING):
        tree = mounts[controller] / places.get(controller, "/").lstrip("/") / name
        tree.mkdir(exist_ok=True)
        trees[controller] = tree
    return trees


def _limit(directories: Mapping[str, Path], bounds: Bounds) -> None:
    memory, pids, cpu = (directories[controller] for controller in _WANTED)
    quota = int(bounds.cpu * PERIOD_MICROSECONDS)
    if (memory / "memory.max").exists():
        _write(memory, "memory.max", bounds.memory)
        _write(memory, "memory.swap.max", "0" if bounds.memory else 0)
        _write(memory, "memory.oom.group", "1")
        _write(cpu, "cpu.max", f"{quota} {PERIOD_MICROSECONDS}" if quota else 0)
    else:
        _write(memory, "memory.limit_in_bytes", bounds.memory)
        if (memory / "memory.memsw.limit_in_bytes").exists():
            _write(memory, "memory.memsw.limit_in_bytes", bounds.memory)
        _write(cpu, "cpu.cfs_quota_us", quota)
    _write(pids, "pids.max", bounds.processes)


def _write(directory: Path, name: str, value: int | str) -> None:
    """0: no limit, which is what a new group has."""
    if value:
        (directory / name).write_text(str(value))


def _number(directory: Path | None, name: str) -> int:
    with suppress(OSError, ValueError):
        if directory is not None:
            return int((directory / name).read_text())
    return 0


def _field(directory: Path | None, name: str, field: str) -> int:
    with suppress(OSError, ValueError):
        if directory is not None:
            for line in (directory / name).read_text().splitlines():
                key, _, value = line.partition(" ")
                if key == field:
                    return int(value)
    return 0
