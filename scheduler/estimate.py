"""How long a queued run will wait: its place in its organization's queue, by the pace at which its runs start."""

from collections import OrderedDict, deque
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from kit.clock import Clock
from scheduler.model import Run, Status

# What has started longer ago says nothing about the pace of now.
RECENT = timedelta(minutes=5)
MOST_STARTS = 64
MOST_CALLERS = 10_000
# A place behind so many others is told as that.
MOST_PLACES = 10_000


@dataclass(frozen=True)
class Waiting:
    """`position` counts from 1. `wait` is None where nothing has started lately."""

    position: int
    wait: timedelta | None


class Places(Protocol):
    """What the store tells about the queue."""

    async def position(self, run: Run, limit: int) -> int: ...


class Estimate:
    """Hears of every commit (`changed`)."""

    def __init__(self, places: Places, clock: Clock) -> None:
        self._places = places
        self._clock = clock
        self._starts: OrderedDict[str, deque[datetime]] = OrderedDict()

    def changed(self, run: Run) -> None:
        """A run's new state is committed."""
        if run.status is not Status.RUNNING or run.urgent or run.cancelled_at is not None:  # that is no start
            return
        starts = self._starts.setdefault(run.caller_id, deque(maxlen=MOST_STARTS))
        starts.append(self._clock.now())
        self._starts.move_to_end(run.caller_id)
        while len(self._starts) > MOST_CALLERS:
            self._starts.popitem(last=False)

    async def __call__(self, run: Run) -> Waiting | None:
        """None of a run that doesn't wait."""
        if run.status is not Status.QUEUED:
            return None
        position = await self._places.position(run, MOST_PLACES)
        pause = max(timedelta(0), (run.due_at or run.created_at) - self._clock.now())
        pace = self.pace(run.caller_id)
        return Waiting(position, None if pace is None else max(pause, position * pace))

    def pace(self, caller_id: str) -> timedelta | None:
        """The time between two starts of late; None where there were fewer."""
        now = self._clock.now()
        starts = [at for at in self._starts.get(caller_id, ()) if now - at <= RECENT]
        return (now - starts[0]) / (len(starts) - 1) if len(starts) > 1 else None
