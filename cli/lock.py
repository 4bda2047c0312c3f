"""One mesh at a time on a data directory: a lock that dies with its owner."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kit.settings import BadSettings, private_dir


class InUse(Exception):
    """A mesh runs on this directory already."""


@contextmanager
def locked(home: Path) -> Iterator[None]:
    """Holds the lock, with our process id in it. Errors: InUse; BadSettings when `home` can't be used."""
    try:
        file = (private_dir(home) / "up.lock").open("a+")
    except OSError as error:
        raise _unusable(home, error) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            text = f"a mesh already runs on {home} (process {owner(home)}); `make down` stops it"
            raise InUse(f"{text}. For a second one set RUNMESH_HOME and RUNMESH_PORT") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def owner(home: Path) -> int | None:
    """Who holds the lock: a process id, 0 while it hasn't told, None when nobody does. Errors: BadSettings."""
    try:
        with (home / "up.lock").open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                text = file.read()
                return int(text) if text.isdigit() else 0
    except FileNotFoundError:
        pass
    except OSError as error:
        raise _unusable(home, error) from error
    return None


def _unusable(home: Path, error: OSError) -> BadSettings:
    return BadSettings(
        [f"can't use {home} for the data: {error.strerror}; set RUNMESH_HOME to a directory of your own"]
    )
