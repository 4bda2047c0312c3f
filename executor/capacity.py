"""How many runs this host takes on, and how many sandboxes it starts at once."""

import asyncio
import resource
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

from executor.lease import Beat
from kit.errors import Exhausted, Unavailable

RETRY_AFTER = timedelta(seconds=1)
LONGEST_WAIT = timedelta(minutes=5)
# What the newest run counts in how long runs usually take.
NEWEST = 0.1
# A start occupies the processor for about a second. One that takes longer is waiting for something (perhaps for a
# nested run that wants to start itself), so it no longer keeps others from starting.
STARTING_SECONDS = 3.0
# How long a call that may not wait for its turn waits all the same.
CLEARING_SECONDS = 1.0
# So many runs for each place of the host may wait for their turn without one: they take some memory.
MOST_LENT = 10


def allow_descriptors() -> None:
    """As many open files as the host lets us have: a run's way out alone may take 512."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class Place:
    """A run's place; give it back once."""

    def __init__(self, capacity: "Capacity", caller_id: str, *, nested: bool) -> None:
        self._capacity = capacity
        self._caller_id = caller_id
        self._nested = nested
        self._taken_at = capacity.now()
        self._given_back = False
        self._lent = False

    def give_back(self) -> None:
        """Idempotent."""
        self.retake()
        if not self._given_back:
            self._given_back = True
            self._capacity.leave(self._caller_id, self._capacity.now() - self._taken_at, nested=self._nested)

    def lend(self) -> None:
        """Others may have it while the run only waits, unless too many do. Idempotent."""
        if not self._lent and self._capacity.lends(1):
            self._lent = True
            self._capacity.count(-1, self._caller_id, nested=self._nested)

    def retake(self) -> None:
        """The run goes on, also where others have all places by now. Idempotent."""
        if self._lent:
            self._lent = False
            self._capacity.lends(-1)
            self._capacity.count(1, self._caller_id, nested=self._nested)


class _Turns:
    """The runs of one workflow that go on, and those that wait for their turn."""

    def __init__(self) -> None:
        self.busy = 0
        self.here = 0
        self.changed = asyncio.Condition()


class Capacity:
    """Runs that others wait for are counted apart: they need room of their own, or everything would stand still.
    `organization_runs`: of one caller at once, those aside.
    """

    def __init__(
        self,
        runs: int,
        nested_runs: int,
        starts: int,
        organization_runs: int = 100,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limit = runs
        self.now = now
        self._organization_limit = organization_runs
        self._of: Counter[str] = Counter()
        # How long a run has its place, in seconds: the newer ones count more.
        self._usual = 0.0
        self.draining = False
        self._nested_limit = nested_runs
        self._running = 0
        self._lent = 0
        self._nested = 0
        self._starts = asyncio.Semaphore(starts)
        self._turns: dict[str, _Turns] = {}

    @property
    def running(self) -> int:
        """Root runs that have a place."""
        return self._running

    def drain(self) -> None:
        """No run is taken from now on."""
        self.draining = True

    def beat(self, incarnation: str, first: bool) -> Beat:  # lease.Lease calls it so
        """What the scheduler is told."""
        return Beat(incarnation, first, self._running, self.limit, draining=self.draining)

    def take(self, caller_id: str = "", *, nested: bool) -> Place:
        """A place for a run. Errors: Unavailable when there is none; Exhausted (too_many_runs) when its caller has as
        many as it may.
        """
        if self.draining:
            raise Unavailable("this executor is stopping", retry_after=RETRY_AFTER)
        taken, limit = (self._nested, self._nested_limit) if nested else (self._running, self.limit)
        if taken >= limit:
            wait = self._until_one_ends(taken)
            raise Unavailable(
                f"no executor has room: {taken} runs are under way; one may end in {wait.total_seconds():.0f} s",
                retry_after=wait,
            )
        mine = self._of[caller_id]
        if not nested and mine >= self._organization_limit:
            wait = self._until_one_ends(mine)
            raise Exhausted(
                f"your organization has {mine} runs under way, as many as it may at once; one may end in "
                f"{wait.total_seconds():.0f} s: try again then, or use /run_async, which queues",
                code="too_many_runs",
                retry_after=wait,
            )
        self.count(1, caller_id, nested=nested)
        return Place(self, caller_id, nested=nested)

    def _until_one_ends(self, running: int) -> timedelta:
        """An estimate, from how long runs took of late; a second at least, five minutes at most."""
        return min(LONGEST_WAIT, max(RETRY_AFTER, timedelta(seconds=self._usual / running)))

    def leave(self, caller_id: str, seconds: float, *, nested: bool) -> None:
        """Called by a Place, which was held so long."""
        self._usual += (seconds - self._usual) * NEWEST
        self.count(-1, caller_id, nested=nested)

    @asynccontextmanager
    async def turn(self, workflow_id: str, limit: int, place: Place, *, wait: bool) -> AsyncIterator[None]:
        """One of the `limit` runs that a workflow may have at once on this host (0: any number). Who may `wait` gets
        its turn in order, and lends its place meanwhile: else those that wait, which cost nothing, would keep everybody
        out. It goes on when another one is over, whose place it has then. Who may not wait gets a turn if one is over
        in a moment: a run that has answered is still being cleared away. Errors: Exhausted (too_many_runs).
        """
        if not limit:
            yield
            return
        turns = self._turns.setdefault(workflow_id, _Turns())
        async with turns.changed:
            turns.here += 1
            try:
                if wait and turns.busy >= limit:
                    place.lend()
                async with asyncio.timeout(None if wait else CLEARING_SECONDS):
                    await turns.changed.wait_for(lambda: turns.busy < limit)
                turns.busy += 1
                place.retake()
            except TimeoutError:
                raise Exhausted(
                    f"this workflow runs at most {limit} at once; try again, or use /run_async, which waits its turn",
                    code="too_many_runs",
                    retry_after=RETRY_AFTER,
                ) from None
            finally:
                turns.here -= 1
        try:
            yield
        finally:
            turns.busy -= 1
            async with turns.changed:
                turns.changed.notify()
            if not turns.busy and not turns.here:
                self._turns.pop(workflow_id, None)

    @asynccontextmanager
    async def starting(self) -> AsyncIterator[None]:
        """Waits for its turn to start a sandbox; the queue is as long as there are places. Held 3 s at most."""
        await self._starts.acquire()
        given_back = False

        def give_back() -> None:
            nonlocal given_back
            if not given_back:
                given_back = True
                self._starts.release()

        late = asyncio.get_running_loop().call_later(STARTING_SECONDS, give_back)
        try:
            yield
        finally:
            late.cancel()
            give_back()

    def lends(self, by: int) -> bool:
        """Called by a Place: whether one more may be lent."""
        if self._lent + by > MOST_LENT * self.limit:
            return False
        self._lent += by
        return True

    def count(self, by: int, caller_id: str, *, nested: bool) -> None:
        """Called by a Place."""
        if nested:
            self._nested += by
            return
        self._running += by
        self._of[caller_id] += by
        if not self._of[caller_id]:
            del self._of[caller_id]
