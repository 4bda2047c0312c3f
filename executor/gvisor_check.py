"""Refuses a host whose gVisor isn't what it should be: self_check.py, for `RUNMESH_ISOLATION=gvisor`.

From inside the probe must fail at the same things, and be answered by another kernel than the host's. From outside each
process that gVisor is made of is looked at: it has to be in an outer sandbox, as a workflow would be without gVisor.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from executor import bubblewrap, seen, self_check
from executor.seen import Seen
from executor.self_check import SelfCheck, Wanted
from executor.templates import Starter

# gVisor's kernel, and what serves it files, by the names that runsc gives them: the two that hostile code can talk to.
PARTS = ("runsc-sandbox", "runsc-gofer")
# Paths of the gofer, whose root is the sandbox's; of gVisor's kernel only the first exists.
_WRITABLE = frozenset({"/proc", "/tmp", "/var/tmp", bubblewrap.WORK})  # noqa: S108  # inside


class GvisorCheck(SelfCheck):
    """Of one driver, whose spawner has this pid."""

    def __init__(self, driver: Starter, home: Path, spawner: int, *, cgroups: bool) -> None:
        super().__init__(driver, home, spawner, cgroups=cgroups, landlock=False)
        self._wanted = replace(self._wanted, writable=_WRITABLE)

    def _judge(self, told: Mapping[str, Any], *, forked: bool) -> list[str]:  # noqa: ARG002  # none is
        # Its init is a part of gVisor's own, with nothing of ours in its environment.
        found = self_check.told_faults({**told, "environ": 0}, landlock=False)
        if told["kernel"] == Path("/proc/version").read_text():
            found.append("the host's kernel answers its system calls")
        ours, names = seen.look("self"), set()
        for pid in seen.descendants(self._spawner):
            with suppress(ProcessLookupError, FileNotFoundError):  # it has just ended
                name = seen.name(pid)
                it = seen.look(pid)
                if it.namespaces["pid"] != ours.namespaces["pid"]:  # else it is bubblewrap itself, outside of it
                    names.add(name)
                    found += part_faults(name, it, ours, self._wanted)
        return found + [f"there is no {part} around it" for part in PARTS if part not in names]


def part_faults(name: str, it: Seen, ours: Seen, wanted: Wanted) -> list[str]:
    """What is wrong with a process of the outer sandbox. Capabilities there mean gVisor's own user namespace only."""
    status = {key: value for key, value in it.status.items() if not key.startswith("Cap")}
    if name not in PARTS:
        status["Seccomp"] = "2"  # what starts and reaps: no hostile code talks to it
    it = replace(it, status=status)
    found = [*self_check.rights(it, wanted), *self_check.places(it, ours), *self_check.bounds(it, wanted)]
    return [f"{name or 'a process'}: {fault}" for fault in [*found, *(_mounts(it, wanted) if name in PARTS else ())]]


def _mounts(it: Seen, wanted: Wanted) -> Iterator[str]:
    for mount in it.mounts:
        if "ro" not in mount.options and mount.point not in wanted.writable:
            yield f"{mount.point} is writable"
