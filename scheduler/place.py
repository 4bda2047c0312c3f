"""Where a run goes. Pure: nothing but values in, an address out."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

STARTS_AT_ONCE = 8
# However many urgent runs there are, one Start call is left for the others.
URGENT_STARTS_AT_ONCE = STARTS_AT_ONCE - 1
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
    # Start calls under way, and those of urgent runs among them.
    starting: int = 0
    starting_urgent: int = 0
    # It had no room for an ordinary run, for an urgent one; it couldn't be reached.
    full_until: datetime | None = None
    nested_full_until: datetime | None = None
    away_until: datetime | None = None

    def fresh(self, now: datetime) -> bool:
        return now < self.expires_at

    def takes(self, now: datetime, *, urgent: bool) -> bool:
        """Worth a Start call. Executors have room of its own for urgent runs, since a run waits for each."""
        if self.draining or self.starting >= STARTS_AT_ONCE or _resting(self.away_until, now) or not self.fresh(now):
            return False
        if urgent:
            return self.starting_urgent < URGENT_STARTS_AT_ONCE and not _resting(self.nested_full_until, now)
        return not _resting(self.full_until, now)

    def begins(self, *, urgent: bool) -> None:
        """A Start call, or the intention of one."""
        self.starting += 1
        self.starting_urgent += urgent

    def has_begun(self, *, urgent: bool) -> None:
        """It was answered, or isn't made after all."""
        self.starting -= 1
        self.starting_urgent -= urgent

    def load(self) -> float:
        return (self.running + self.starting) / (self.capacity or 1)


def _resting(until: datetime | None, now: datetime) -> bool:
    return until is not None and now < until


def place(executors: Iterable[Executor], now: datetime, *, urgent: bool) -> Executor | None:
    """The least loaded executor that may have room."""
    takers = [executor for executor in executors if executor.takes(now, urgent=urgent)]
    return min(takers, key=lambda one: (one.load(), one.address), default=None)
