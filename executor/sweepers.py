"""The spawner's processes that empty directories of runs: each as the uid that filled it, so that no path leads further
than that uid could go.
"""

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from executor import spawned
from executor.jobs import Job
from executor.staging import remove_empty

# A template that lives may put something into its slot's directory whenever that has just been emptied.
TRIES = 3


class _Sweep(NamedTuple):
    root: Path
    directory: Path
    uid: int | None
    job: Job | None
    tries: int


class Sweepers:
    """`removed` is called with the job whose directory it was, also when that stays."""

    def __init__(self, removed: Callable[[Job], None]) -> None:
        self._removed = removed
        self._by_pid: dict[int, _Sweep] = {}

    def __len__(self) -> int:
        return len(self._by_pid)

    def begin(self, root: Path, directory: Path, uid: int | None, job: Job | None, tries: int = TRIES) -> None:
        """Empties and removes `directory`, which is below `root`."""
        pid = os.fork()
        if pid == 0:
            spawned.sweep(root, directory, uid)
        self._by_pid[pid] = _Sweep(root, directory, uid, job, tries)

    def reaped(self, pid: int) -> bool:
        """Whether it was one of these."""
        sweep = self._by_pid.pop(pid, None)
        if sweep is None:
            return False
        try:
            remove_empty(sweep.root, sweep.directory)
        except OSError as error:
            if error.errno == errno.ENOTEMPTY and sweep.tries > 1:
                self.begin(*sweep[:-1], sweep.tries - 1)
                return True
            print(f"spawner: {sweep.directory} stays: {error}", file=sys.stderr)
        if sweep.job is not None:
            self._removed(sweep.job)
        return True
