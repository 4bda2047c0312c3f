"""Where a run goes. Pure: nothing but values in, an address out."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

STARTS_AT_ONCE = 8
SILENCE = timedelta(seconds=15)
# After a refusal an executor is left alone that long, unless something says sooner that it has room.
REST = timedelta(seconds=0.5)


@dataclass
class Executor:
    """What is known of one. `capacity` 0: not known, since it hasn't been heard of yet."""

    address: str
    incarnation: str = ""
    # When this incarnation, and when anything at all, was heard of.
    since: datetime | None = None
    seen: datetime | None = None
    running: int = 0
    capacity: int = 0
    draining: bool = False
    # Start calls under way.
    starting: int = 0
    full_until: datetime | None = None
    away_until: datetime | None = None
    # Used even before it is heard of: this host's own.
    home: bool = False

    def fresh(self, now: datetime) -> bool:
        return self.seen is not None and now - self.seen < SILENCE

    def takes(self, now: datetime, *, nested: bool) -> bool:
        """Worth a Start call. Executors take nested runs beyond their capacity, since a run waits for each."""
        if self.starting >= STARTS_AT_ONCE or _resting(self.away_until, now):
            return False
        if not self.fresh(now):
            return self.home and (nested or not _resting(self.full_until, now))
        return not self.draining and (nested or not _resting(self.full_until, now))

    def load(self) -> float:
        return (self.running + self.starting) / (self.capacity or 1)


def _resting(until: datetime | None, now: datetime) -> bool:
    return until is not None and now < until


def place(executors: Iterable[Executor], now: datetime, *, nested: bool) -> Executor | None:
    """The least loaded executor that may have room; heard-of ones go before silent ones."""
    takers = [executor for executor in executors if executor.takes(now, nested=nested)]
    return min(takers, key=lambda one: (not one.fresh(now), one.load(), one.address), default=None)
