"""This executor's lease: as long as it holds, its runs are its own. When it can't be renewed in time they are ended,
since others may have been given them.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from kit.clock import Clock
from kit.errors import Conflict, Problem, Unavailable
from kit.lifecycle import background
from kit.names import new_id
from kit.telemetry import log

TICK_SECONDS = 0.5
REGISTERING_SECONDS = 10.0
# Of the lease: when it is renewed, and when it is no longer relied on.
RENEWED, RELIED_ON = 0.2, 0.9
# So long a scheduler's word that its database is away counts as a renewal: nobody can give runs away then.
LONGEST_EXTENSION = timedelta(minutes=2)


@dataclass(frozen=True)
class Beat:
    """What an executor says of itself."""

    incarnation: str
    # Nothing has been heard of this incarnation yet.
    first: bool
    running: int
    capacity: int
    draining: bool


class Scheduler(Protocol):
    """Who keeps leases."""

    async def renew(self, beat: Beat) -> timedelta:
        """How long it holds, from when this was called. Errors: Conflict when it is given up; Unavailable, with
        `retry_after` when a scheduler is there but its database isn't.
        """


class Lease:
    """`beat` tells how much room there is."""

    def __init__(
        self,
        scheduler: Scheduler,
        beat: Callable[[str, bool], Beat],
        clock: Clock,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._scheduler = scheduler
        self._beat = beat
        self._on_lost: Callable[[], None] = lambda: None
        self._clock = clock
        self._now = now
        self.incarnation = new_id("inc")
        self._first = asyncio.Event()
        self._length = 0.0  # 0: not renewed yet
        self._known = False
        self._renewed_at = self._good_until = float("-inf")

    @property
    def held(self) -> bool:
        """Whether runs may be taken on."""
        return self._now() < self._good_until

    @asynccontextmanager
    async def kept(self, lost: Callable[[], None]) -> AsyncIterator[None]:
        """Renewed until the end. Begins when it is held for the first time, or after a while: the scheduler may come
        later. `lost` ends all runs of this host.
        """
        self._on_lost = lost
        async with background(self._keep()):
            with suppress(TimeoutError):
                async with asyncio.timeout(REGISTERING_SECONDS):
                    await self._first.wait()
            yield

    async def _keep(self) -> None:
        while True:
            await self.once()
            await self._clock.sleep(TICK_SECONDS)

    async def once(self) -> None:
        """Looks first whether it still holds: we may have stood still."""
        if self._length and not self.held:
            self._give_up("it wasn't renewed in time")
        if self._now() >= self._renewed_at + RENEWED * self._length or not self.held:
            await self.renew()

    async def renew(self) -> None:
        """Now; failures are logged."""
        asked = self._now()
        try:
            length = await self._scheduler.renew(self._beat(self.incarnation, not self._known))
        except Conflict as conflict:
            self._give_up(conflict.message)
            self.incarnation, self._known = new_id("inc"), False
        except Problem as problem:
            log().warning("lease.not_renewed", reason=problem.message)
            database_away = isinstance(problem, Unavailable) and problem.retry_after is not None
            if database_away and self.held and asked < self._renewed_at + LONGEST_EXTENSION.total_seconds():
                self._good_until = max(self._good_until, asked + RELIED_ON * self._length)
        else:
            self._length, self._known = length.total_seconds(), True
            self._renewed_at, self._good_until = asked, asked + RELIED_ON * self._length
            self._first.set()

    def _give_up(self, reason: str) -> None:
        log().error("lease.lost", incarnation=self.incarnation, reason=reason)
        self._length, self._good_until = 0.0, float("-inf")
        self._on_lost()
