"""What the spawner keeps about the processes that it started. Standard library only."""

import os
import socket
from dataclasses import dataclass, field
from pathlib import Path

from executor.bubblewrap import UID
from executor.cgroups import Group


@dataclass
class Job:
    """A process that was ordered, until everything that it started is gone and its directory with it."""

    id: int
    pid: int
    confined: bool
    uid: int | None
    directory: Path | None
    listen: list[tuple[str, int]]
    told: int  # read end of bubblewrap's status pipe, -1 when closed
    news: bytes = b""
    # The sandbox's init: with it everything inside dies.
    init: int | None = None
    init_pid: int = 0
    status: int | None = None
    killed_at: float | None = None
    # A slot's: the template that it is forked from, and the socket on which it speaks until it is settled.
    template: "Job | None" = None
    word: socket.socket | None = None
    # A template's: what it is shown below places for temporary files, and its slots whose directories aren't gone yet.
    shown: list[str] | None = None
    slots: set[int] = field(default_factory=set)
    group: Group | None = None
    # Its network is opened, and handed to the executor; else it stays empty.
    opens: bool = False
    # A template that is forked from a base, and forks slots itself: a job's `template` is what it is forked from.
    forks: bool = False
    # A base's: its user namespace waits for this to be closed, until its ids are mapped.
    unmapped: int = -1

    def map(self, uids: "Uids", pid: int) -> bool:
        """Maps the ids of its user namespace, whose init has this pid, and lets it go on. False when that can't be."""
        assert self.uid is not None
        try:
            uids.map_all(pid, self.uid)
            os.write(self.unmapped, b"1")
        except OSError:
            return False
        self.close_maps()
        return True

    def close_maps(self) -> None:
        """It needn't wait any longer."""
        if self.unmapped >= 0:
            os.close(self.unmapped)
            self.unmapped = -1

    @property
    def owner(self) -> int | None:
        """The uid that owns its directory, where we are root."""
        return self.template.uid if self.template and self.uid is None else self.uid


@dataclass
class Uids:
    """Host uids for sandboxes, each for one at a time; handed out in turn."""

    first: int
    count: int
    taken: set[int] = field(default_factory=set)
    last: int = 0

    def map_all(self, pid: int, uid: int) -> None:
        """The ids of a base's user namespace: `uid` is UID inside, all others are themselves, for its templates.

        Errors: OSError.
        """
        above, last = uid + 1, self.first + self.count
        ranges = [(UID, uid, 1), (self.first, self.first, uid - self.first), (above, above, last - above)]
        text = "".join(f"{inside} {outside} {count}\n" for inside, outside, count in ranges if count)
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{pid}/{name}").write_text(text)

    @property
    def packager(self) -> int:
        """The one beside them that owns uv's cache; no sandbox of user code ever has it."""
        return self.first + self.count

    def take(self) -> int:
        """Errors: OSError when all are taken."""
        for _ in range(self.count):
            self.last = (self.last + 1) % self.count
            uid = self.first + self.last
            if uid not in self.taken:
                self.taken.add(uid)
                return uid
        raise OSError("every uid for sandboxes is taken")
