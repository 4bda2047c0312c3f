"""Making the host's directories reachable for a sandbox's uid, and removing what a sandbox left. Part of the spawner.

A sandbox runs as a uid that owns nothing, so it can't pass through a 0700 directory such as /root, not even to what is
bound into it. In a mount namespace of its own the spawner therefore binds what lies behind one to a place that all can
reach. Nothing of it is seen by the rest of the host, and it ends with the spawner. Standard library only.
"""

import ctypes
import os
import re
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

CLONE_NEWNS = 0x00020000
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_SLAVE = 0x2, 0x4, 0x1000, 0x4000, 0x80000
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_SAFE_NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")
PARTS = ("tmp", "work", "slots")  # of a run's directory
# Directories that every Linux has and that hardly ever hold anything; one is covered, for the spawner alone.
_PLACES = ("/media", "/mnt", "/srv", "/opt")


class Stage:
    """Where paths are bound to. Only for root; an ordinary user's sandboxes have its own uid."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._bound: dict[Path, Path] = {}

    @classmethod
    def open(cls, needed: list[Path]) -> "Stage":
        """Leaves the host's mount namespace for a private one. `needed` won't be covered. Errors: OSError."""
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(CLONE_NEWNS):
            raise OSError(ctypes.get_errno(), "unshare: no mount namespace can be had")
        _mount("none", Path("/"), None, MS_REC | MS_SLAVE)
        place = free_place([Path(name) for name in _PLACES], needed)
        _mount("tmpfs", place, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=0755")
        return cls(place)

    def reach(self, path: Path) -> Path:
        """`path` as any uid can reach it: itself, or where it is bound to. Errors: OSError."""
        real = path.resolve(strict=True)
        source = behind_closed_door(real)
        if source is None:
            return real
        if source not in self._bound:
            target = self._place / str(len(self._bound))
            if source.is_dir():
                target.mkdir()
            else:
                target.touch()
            _mount(str(source), target, None, MS_BIND | MS_REC)
            self._bound[source] = target
        return self._bound[source] / real.relative_to(source)


def free_place(places: list[Path], needed: list[Path]) -> Path:
    """The first of `places` that is empty, else that covers nothing needed. Errors: OSError."""
    present = [place for place in places if place.is_dir()]
    for place in present:
        if not any(place.iterdir()):
            return place
    for place in present:
        if not any(path.is_relative_to(place) for path in needed):
            return place
    raise OSError(f"none of {', '.join(map(str, places))} is free to stage directories in")


def behind_closed_door(path: Path) -> Path | None:
    """What has to be bound elsewhere so that others reach `path`; None when they can: all its parents let them pass."""
    steps = [*reversed(path.parents), path]
    closed = [place for place, step in enumerate(steps[:-1]) if not step.stat().st_mode & stat.S_IXOTH]
    return steps[closed[-1] + 1] if closed else None


def open_below(root: Path, place: Path) -> int:
    """A descriptor of a directory below `root`, which is ours. Step by step and never through a link: what lies in a
    sandbox's directory may be renamed, and replaced, at any time. Errors: OSError.
    """
    opened = os.open(root, _DIRECTORY)
    for step in place.relative_to(root).parts:
        try:
            below = os.open(step, _DIRECTORY, dir_fd=opened)
        finally:
            os.close(opened)
        opened = below
    return opened


def make_directory(root: Path, place: Path, uid: int | None, parts: Sequence[str] = PARTS) -> Path:
    """Makes `place` below `root` with these parts; `uid` owns them. Errors: OSError."""
    if not all(map(_SAFE_NAME.fullmatch, place.relative_to(root).parts)) or place == root:
        raise OSError(f"{place.name!r} is no name for a run's directory")
    above = open_below(root, place.parent)
    try:
        own = _make(above, place.name, uid)
        try:
            for part in parts:
                os.close(_make(own, part, uid))
        finally:
            os.close(own)
    finally:
        os.close(above)
    return place


def _make(above: int, name: str, uid: int | None) -> int:
    os.mkdir(name, 0o700, dir_fd=above)
    made = os.open(name, _DIRECTORY, dir_fd=above)
    if os.fstat(made).st_uid != os.geteuid():
        os.close(made)
        raise OSError(f"another directory was put in the place of {name}")
    if uid is not None:
        os.fchown(made, uid, uid)
    return made


def remove_empty(root: Path, place: Path) -> None:
    """Removes `place` below `root`. Errors: OSError."""
    above = open_below(root, place.parent)
    try:
        os.rmdir(place.name, dir_fd=above)
    finally:
        os.close(above)


def clear(directory: int) -> None:
    """Removes all that is in an open directory, however deep, without ever following a path that may have changed.

    Whatever made it is dead. Runs as the uid that it belonged to. Errors: OSError.
    """
    os.fchmod(directory, 0o700)
    current, trail = os.dup(directory), list[str]()
    try:
        while True:
            below = _remove_files(current)
            if below is not None:
                with suppress(OSError):
                    os.rmdir(below, dir_fd=current)  # empty, and perhaps another's
                    continue
                os.chmod(below, 0o700, dir_fd=current)
                inner = os.open(below, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=current)
                trail.append(below)
                os.close(current)
                current = inner
            elif trail:
                outer = os.open("..", os.O_RDONLY | os.O_DIRECTORY, dir_fd=current)
                os.close(current)
                current = outer
                os.rmdir(trail.pop(), dir_fd=current)
            else:
                return
    finally:
        os.close(current)


def remove(directory: Path) -> None:
    """The directory and all that is in it. Not `shutil.rmtree`, which gives up on a tree deeper than its own recursion.

    Errors: OSError.
    """
    opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        clear(opened)
    finally:
        os.close(opened)
    directory.rmdir()


def _remove_files(directory: int) -> str | None:
    """Unlinks until a directory turns up; returns its name, None when there is none left."""
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                return entry.name
            with suppress(FileNotFoundError):
                os.unlink(entry.name, dir_fd=directory)
    return None


def _mount(source: str, target: Path, kind: str | None, flags: int, options: str = "") -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(source.encode(), os.fsencode(target), kind.encode() if kind else None, flags, options.encode()):
        number = ctypes.get_errno()
        raise OSError(number, f"mount {target}: {os.strerror(number)}")
