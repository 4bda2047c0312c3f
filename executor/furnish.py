"""Furnishing a slot from outside: its own /tmp, /workflow, /dev/shm, /dev/pts, /proc and ways out. Part of the spawner.

A template's filter forbids mounting, so a forked child of the spawner enters the slot's namespaces, as the owner of the
user namespace above them, and mounts there. What the template left in /tmp and /workflow is seen through an overlay,
and what the slot writes is its own. Standard library only.
"""

import ctypes
import os
import re
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from executor import netns, staging
from executor.bubblewrap import LOWER, SHM_BYTES, SLOTS, UID, UNMASKED_PROC, WORK, System

PARTS = ("tmp", "tmp.overlay", "work", "work.overlay")  # of a slot's directory, which its uid owns
_NEW_USER, _NEW_NS, _NEW_PID, _NEW_NET = 0x10000000, 0x00020000, 0x20000000, 0x40000000
_RDONLY, _NOSUID, _NODEV, _NOEXEC, _REMOUNT, _BIND, _REC, _PRIVATE = 1, 2, 4, 8, 32, 4096, 0x4000, 0x40000
# Looked up once, not in each slot.
_libc = ctypes.CDLL(None, use_errno=True)
_OWN_PIDS = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
# As mount(2) takes them: source, target, kind, flags, options.
Mount = tuple[bytes, bytes, bytes | None, int, bytes]
_TEMPORARY = ("/tmp/", "/var/tmp/")  # noqa: S108  # inside
_CLOSED = _NOSUID | _NODEV
_NOTHING = _CLOSED | _NOEXEC


@dataclass(frozen=True)
class Place:
    """What a slot is to have: `pidfd` is its init's, `shown` mount points below places for temporary files. Without
    `mounts` it is a template.
    """

    pidfd: int
    name: str  # of its directory
    mounts: Sequence[Mount]
    shown: Sequence[str]
    addresses: Sequence[tuple[str, int]]  # where its network is opened


@dataclass(frozen=True)
class Maps:
    """A template's ids, to be written from the user namespace that it was born in: `base` is a pidfd of its init."""

    base: int
    pid: int
    uid: int

    def write(self) -> None:
        """Enters that namespace. Errors: OSError."""
        _enter(self.base, _NEW_USER)
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{UID} {self.uid} 1"),
            ("gid_map", f"{UID} {self.uid} 1"),
        ):
            Path(f"/proc/{self.pid}/{name}").write_text(text)


def fork_into(pidfd: int) -> tuple[int, bool]:
    """A child to furnish with: (its pid, 0 in the child; whether it is in the slot's pid namespace already).

    Root can have its children born there; an ordinary user must enter by the way of the user namespace, and fork again.
    """
    if os.getuid() != 0:
        return os.fork(), False
    _enter(pidfd, _NEW_PID)  # for our children only
    pid = -1
    try:
        pid = os.fork()
    finally:
        if pid:
            _enter(_OWN_PIDS, _NEW_PID)
    return pid, True


def furnish(place: Place, maps: Maps | None, *, there: bool) -> list[socket.socket]:
    """Enters the slot and mounts; the listening sockets of its network. For a child by `fork_into`. Errors: OSError."""
    if os.getuid() == 0:
        os.setgroups([])
    rest = _NEW_USER | _NEW_NET | (0 if there else _NEW_PID)
    if maps is not None:
        maps.write()
    _enter(place.pidfd, _NEW_NS if maps else _NEW_NS | rest)
    # Now, as long as we may: the base's uid owns what is above these.
    shown = [(os.open(point, os.O_PATH), point) for point in place.shown]
    mounts = place.mounts or _mounts_of_template(os.open(f"{SLOTS}/{place.name}", os.O_PATH | os.O_NOFOLLOW))
    if maps is not None:
        _enter(place.pidfd, rest)
    os.setresgid(UID, UID, UID)  # whatever is made in here belongs to it; capabilities stay
    os.setresuid(UID, UID, UID)
    if there:
        _mount_all(mounts, shown)
    else:
        _mount_in_child(mounts, shown)
    netns.bring_up_loopback()
    return netns.open_network(place.addresses)


def _enter(fd: int, kinds: int) -> None:
    if _libc.setns(fd, kinds):
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")


def _mount_in_child(mounts: Sequence[Mount], shown: Sequence[tuple[int, str]]) -> None:
    """A pid namespace is entered by children only, and /proc shows that of whoever mounts it. Errors: OSError."""
    pid = os.fork()
    if pid == 0:
        try:
            _mount_all(mounts, shown)
            os._exit(0)
        except BaseException as error:  # noqa: BLE001  # nothing may return from here
            with suppress(OSError):
                os.write(2, f"spawner: a slot can't be furnished: {error}\n".encode())
        finally:
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    if status:
        raise OSError("a slot can't be furnished")


def _mount_all(mounts: Sequence[Mount], shown: Sequence[tuple[int, str]]) -> None:
    """Errors: OSError."""
    for mount in mounts:
        _do(mount)
    for fd, point in shown:
        Path(point).mkdir(parents=True, exist_ok=True)  # a new template has nothing there yet
        _do(_mount(f"/proc/self/fd/{fd}", point, None, _BIND))


def _do(mount: Mount) -> None:
    if _libc.mount(*mount):
        number = ctypes.get_errno()
        raise OSError(number, f"mount {(mount[2] or b'').decode()} at {mount[1].decode()}: {os.strerror(number)}")


def mounts_of(name: str) -> list[Mount]:
    """A slot's, in order; its directory has that name. To be called before a fork."""
    own = f"{SLOTS}/{name}"
    layers = {
        place: f"lowerdir={LOWER[place]},upperdir={own}/{part},workdir={own}/{part}.overlay,userxattr"
        for place, part in ((WORK, "work"), ("/tmp", "tmp"))  # noqa: S108  # inside
    }
    overlays = [_mount("overlay", place, "overlay", _CLOSED, options) for place, options in layers.items()]
    return [_mount("none", "/", None, _REC | _PRIVATE), *overlays, *_OTHERS]


def _mounts_of_template(directory: int) -> list[Mount]:
    """Those of a template that is forked from a base, among whose slots it has its directory: as bubblewrap makes them.
    What hides the others' directories comes last.
    """
    own = f"/proc/self/fd/{directory}"
    places = (("tmp", "/tmp"), ("work", WORK))  # noqa: S108  # inside
    return [
        _mount("none", "/", None, _REC | _PRIVATE),
        *(_mount(f"{own}/{part}", place, None, _BIND) for part, place in places),
        *(_mount(f"{own}/{part}", LOWER[place], None, _BIND) for part, place in places),
        *(_mount("none", LOWER[place], None, _BIND | _REMOUNT | _RDONLY | _CLOSED) for _, place in places),
        *_OF_TEMPLATES,
        _mount("proc", UNMASKED_PROC, "proc", _NOTHING),
        _mount(f"{own}/slots", SLOTS, None, _BIND),
    ]


def shown_below_tmp(pid: int) -> list[str]:
    """The mount points below what the overlays will cover, as a process sees them, outer ones first: an environment may
    lie there. The same for all slots of a template. Errors: OSError.
    """
    points = []
    for line in os.fsdecode(Path(f"/proc/{pid}/mountinfo").read_bytes()).split("\n")[:-1]:
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), line.split(" ")[4])
        if point.startswith(_TEMPORARY):
            points.append(point)
    return sorted(points, key=len)


def _mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> Mount:
    return os.fsencode(source), os.fsencode(target), kind.encode() if kind else None, flags, options.encode()


def _others(*covered: str) -> list[Mount]:
    """What all slots have alike. One empty directory hides what is to be hidden, `covered` and what the host has."""
    system = System.here()
    hidden = [*covered, *system.hidden_directories]
    return [
        _mount("/tmp", "/var/tmp", None, _BIND),  # noqa: S108  # inside
        _mount("tmpfs", "/dev/shm", "tmpfs", _CLOSED, f"size={SHM_BYTES},mode=1777"),  # noqa: S108  # inside
        _mount("devpts", "/dev/pts", "devpts", _NOSUID | _NOEXEC, "newinstance,ptmxmode=0666,mode=620"),
        _mount("proc", "/proc", "proc", _NOTHING),
        _mount("/proc/sys", "/proc/sys", None, _BIND | _REC),
        _mount("none", "/proc/sys", None, _BIND | _REMOUNT | _RDONLY | _NOTHING),
        *(_mount("/dev/null", file, None, _BIND) for file in system.hidden_files),
        *(_mount("tmpfs", empty, "tmpfs", _RDONLY | _NOTHING, "size=4k") for empty in hidden[:1]),
        *(_mount(hidden[0], directory, None, _BIND) for directory in hidden[1:]),
    ]


_OTHERS = _others(str(Path(SLOTS).parent))
_OF_TEMPLATES = _others()


def remove_untouched(root: Path, directory: Path) -> bool:
    """Removes a slot's directory when the slot left nothing in it; False when it did. The slot is dead; nothing of what
    its uid may have put there is followed.
    """
    try:
        opened = staging.open_below(root, directory)
        try:
            for part in PARTS:
                if part.endswith(".overlay"):
                    inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=opened)
                    try:
                        os.rmdir("work", dir_fd=inner)  # overlayfs' own
                    finally:
                        os.close(inner)
                os.rmdir(part, dir_fd=opened)
        finally:
            os.close(opened)
        staging.remove_empty(root, directory)
    except OSError:
        return False
    return True
