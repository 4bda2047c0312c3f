"""The slots among the spawner's jobs: adopted before they are forked, then welcomed, furnished and settled.

A slot speaks on a socket of its own (shim_template.py says what). Its pid is the kernel's word, not its own. What is
forked from a base is a template, with a uid of its own where we are root. Standard library only.
"""

import os
import socket
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from executor import furnish, netns, spawned
from executor.cgroups import Group
from executor.jobs import Job
from executor.staging import PARTS, make_directory, remove_empty

# From a base's init to a template's: bubblewrap's own, the one that stands apart, and it (shim_base.py).
_GENERATIONS = 4


class Spawner(Protocol):
    """What the spawner does for us."""

    jobs: dict[int, Job]
    runs: Path

    def tell(self, did: str, **content: Any) -> None: ...

    def watch(self, fd: int, act: Callable[[], None]) -> None: ...

    def unwatch(self, fd: int) -> None: ...

    def kill(self, job: Job) -> None: ...

    def maybe_ended(self, job: Job) -> None: ...

    def group(self, name: str, bounds: Sequence[float]) -> Group | None: ...

    def take_uid(self) -> int | None: ...

    def give_back(self, uid: int | None) -> None: ...


class Slots:
    """Orders `adopt`, and what slots say until they are settled."""

    def __init__(self, spawner: Spawner, executor: socket.socket) -> None:
        self._spawner = spawner
        self._executor = executor
        self._furnishers: dict[int, Job] = {}

    def adopt(
        self,
        job: int,
        template: int,
        run: str,
        listen: list[tuple[str, int]],
        bounds: Sequence[float],
        given: list[int],
        *,
        forks: bool,
    ) -> None:
        """Errors: OSError."""
        parent = self._spawner.jobs.get(template)
        if parent is None or parent.directory is None or parent.killed_at:
            raise OSError("the template is gone")
        word = socket.socket(fileno=os.dup(given[0]))
        uid = self._spawner.take_uid() if forks else None
        parts = PARTS if forks else furnish.PARTS
        try:
            directory = parent.directory / "slots" / run
            make_directory(self._spawner.runs, directory, parent.uid if uid is None else uid, parts)
            try:
                group = self._spawner.group(run, bounds)
            except OSError:
                for part in (*parts, ""):
                    remove_empty(self._spawner.runs, directory / part)
                raise
        except OSError:
            self._spawner.give_back(uid)
            raise
        word.setblocking(False)
        slot = Job(job, 0, True, uid, directory, listen, told=-1, status=0, template=parent, word=word, group=group)
        slot.forks = forks
        self._spawner.jobs[job] = slot
        parent.slots.add(job)
        self._spawner.watch(word.fileno(), lambda: self._hear(slot))

    def reaped(self, pid: int, status: int) -> None:
        """A child of the spawner's has ended: perhaps one that furnished a slot, which may now enter its cgroup."""
        slot = self._furnishers.pop(pid, None)
        if slot is None or slot.word is None:
            return
        doors: list[int] = []
        try:
            if not status:
                doors = slot.group.doors() if slot.group else []
                socket.send_fds(slot.word, [b"G"], doors)
                return
        except OSError:
            pass
        finally:
            for door in doors:
                os.close(door)
        self._spawner.kill(slot)

    def hang_up(self, job: Job) -> None:
        """It has nothing more to say."""
        if job.word is not None:
            self._spawner.unwatch(job.word.fileno())
            job.word.close()
            job.word = None

    def _hear(self, slot: Job) -> None:
        """`!` it is born, `C` it is where it should be."""
        if slot.word is None:  # hung up since it spoke
            return
        try:
            data, ancillary, _, _ = slot.word.recvmsg(1, socket.CMSG_SPACE(12))
        except BlockingIOError:
            return
        except OSError:
            data, ancillary = b"", []
        try:
            if data == b"!" and slot.init is None and ancillary:
                self._welcome(slot, struct.unpack("3i", ancillary[0][2])[0])
            elif data == b"C" and slot.init is not None:
                self._settled(slot)
            else:
                self._spawner.kill(slot)
        except (OSError, ValueError, IndexError) as error:
            self._spawner.tell("deaf", job=slot.id, error=str(error)[:1000])
            self._spawner.kill(slot)

    def _welcome(self, slot: Job, pid: int) -> None:
        """It is the child of its init, with which all in it dies, or it is one. Errors: OSError."""
        slot.pid = pid
        assert slot.template is not None
        slot.init_pid = pid if slot.forks else _parent(pid)
        slot.init = _open_init(slot.init_pid, slot.template.init_pid)
        self._spawner.watch(slot.init, lambda: self._spawner.maybe_ended(slot))
        assert slot.directory is not None
        if slot.template.shown is None:
            slot.template.shown = furnish.shown_below_tmp(pid)
        name = slot.directory.name
        mounts = [] if slot.forks else furnish.mounts_of(name)
        place = furnish.Place(slot.init, name, mounts, slot.template.shown, slot.listen)
        maps = None
        if slot.uid is not None and slot.template.init is not None:
            maps = furnish.Maps(slot.template.init, pid, slot.uid)
        netns.network_of(slot.listen)
        helper, there = furnish.fork_into(slot.init)
        if helper == 0:
            spawned.furnish_slot(self._executor, slot.id, place, maps, there=there)
        self._furnishers[helper] = slot

    def _settled(self, slot: Job) -> None:
        """Errors: OSError."""
        assert slot.word is not None
        if slot.group is not None and not slot.group.holds(slot.pid):
            raise OSError("the slot isn't in its cgroup")
        self._spawner.tell("placed", job=slot.id, group=slot.group.places if slot.group else {})
        slot.word.send(b"K")
        self.hang_up(slot)


def _about(pid: int, field: bytes) -> bytes:
    """A field of /proc/PID/status, where a process's own name may hold anything but a line's end. Errors: OSError."""
    return Path(f"/proc/{pid}/status").read_bytes().split(b"\n" + field + b":\t", 1)[1].split(b"\n", 1)[0]


def _parent(pid: int) -> int:
    """Errors: OSError."""
    return int(_about(pid, b"PPid"))


def _open_init(pid: int, above: int) -> int:
    """A pidfd of what must be the init of a pid namespace, born below the process `above`. Errors: OSError."""
    opened = os.pidfd_open(pid)
    is_own = False
    try:
        step = pid if _about(pid, b"NSpid").split()[-1] == b"1" else 0
        for _ in range(_GENERATIONS if step else 0):
            step = _parent(step)
            is_own = is_own or step == above
    except (OSError, ValueError, IndexError):
        pass  # past the first process of all, or one has died
    if not is_own:
        os.close(opened)
        raise OSError("the slot isn't its template's, or neither an init nor the child of one")
    return opened
