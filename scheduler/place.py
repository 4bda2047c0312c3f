"""Where a run goes. Pure: nothing but values in, an address out."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

STARTS_AT_ONCE = 8
# After a refusal an executor is left alone that long, unless something says sooner that it has room.
REST = timedelta(seconds=0.5)


@dataclass
class Executor:
    """What is known of one, and of the lease of its present life."""

    address: str
    incarnation: str
    expires_at: datetime
    running: int = 0
    capacity: int = 0
    draining: bool = False
    # Start calls under way.
    starting: int = 0
    full_until: datetime | None = None
    away_until: datetime | None = None

    def fresh(self, now: datetime) -> bool:
        return now < self.expires_at

    def takes(self, now: datetime, *, urgent: bool) -> bool:
        """Worth a Start call. Executors take urgent runs beyond their capacity, since a run waits for each."""
        if self.starting >= STARTS_AT_ONCE or _resting(self.away_until, now) or not self.fresh(now):
            return False
        return not self.draining and (urgent or not _resting(self.full_until, now))

    def load(self) -> float:
        return (self.running + self.starting) / (self.capacity or 1)


def _resting(until: datetime | None, now: datetime) -> bool:
    return until is not None and now < until


def place(executors: Iterable[Executor], now: datetime, *, urgent: bool) -> Executor | None:
    """The least loaded executor that may have room."""
    takers = [executor for executor in executors if executor.takes(now, urgent=urgent)]
    return min(takers, key=lambda one: (one.load(), one.address), default=None)
