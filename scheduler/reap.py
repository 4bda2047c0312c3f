"""What nobody else ends: runs whose time is up, runs of lost executors; and what is too old to be kept."""

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Protocol, TypeVar

from kit.clock import Clock
from kit.telemetry import tried_again
from scheduler.fleet import Fleet
from scheduler.model import LOST, PROVISION_LIFE, STARVED, TIMED_OUT, Outcome, Run, Status
from scheduler.settle import Settling, settle

TICK_SECONDS = 1.0
SWEEP_SECONDS = 60.0
BATCH = 200
# An executor enforces deadlines itself; only when its word fails to come is a running run ended here.
GRACE = timedelta(seconds=30)
T = TypeVar("T")


class Sweeping(Settling, Protocol):
    """The part of a write transaction that ends and deletes."""

    async def delete_runs(self, completed_before: datetime, limit: int) -> int: ...

    async def delete_provisions(self, unused_before: datetime, used_before: datetime, limit: int) -> int: ...


class Reads(Protocol):
    """What the reaper asks the store."""

    async def overdue(self, status: Status, deadline_before: datetime, limit: int) -> list[Run]: ...

    async def placements(self) -> set[tuple[str, str]]: ...

    async def running_on(self, executor: str, incarnation: str, limit: int) -> list[str]: ...

    async def count_queued(self) -> int: ...

    async def write(self, work: Callable[[Sweeping], Awaitable[T]]) -> T: ...


class Prober(Protocol):
    """Asks executors that are silent."""

    async def alive(self, address: str) -> bool: ...


class Reap:
    """`stop` is told of runs that were ended here but may still run; `queue_length` hears how many wait."""

    def __init__(
        self,
        store: Reads,
        fleet: Fleet,
        executors: Prober,
        stop: Callable[[Run], None],
        queue_length: Callable[[int], None],
        clock: Clock,
    ) -> None:
        self._store = store
        self._fleet = fleet
        self._executors = executors
        self._stop = stop
        self._queue_length = queue_length
        self._clock = clock
        self._born = clock.now()

    async def run(self) -> None:
        """For ever."""
        while True:
            with tried_again("reap"):
                await self.once()
            await self._clock.sleep(TICK_SECONDS)

    async def once(self) -> None:
        """One round."""
        await self._end_starved()
        await self._end_overdue()
        await self._end_lost()
        self._queue_length(await self._store.count_queued())

    async def _end_starved(self) -> None:
        waiting = await self._store.overdue(Status.QUEUED, self._clock.now(), BATCH)
        await self._end([run.id for run in waiting], STARVED)

    async def _end_overdue(self) -> None:
        now = self._clock.now()
        if now < self._born + GRACE:  # reports from before our start are still coming in
            return
        running = await self._store.overdue(Status.RUNNING, now - GRACE, BATCH)
        for run in await self._end([run.id for run in running], TIMED_OUT):
            self._stop(run)

    async def _end_lost(self) -> None:
        for address, incarnation in await self._store.placements():
            gone = self._fleet.gone(address, incarnation)
            if gone is None:
                gone = not await self._executors.alive(address)
                if not gone:
                    self._fleet.answered(address)
            while gone and (ids := await self._store.running_on(address, incarnation, BATCH)):
                await self._end(ids, LOST)

    async def _end(self, ids: list[str], outcome: Outcome) -> list[Run]:
        if not ids:
            return []
        return await self._store.write(lambda tx: settle(tx, ids, outcome, self._clock.now()))


class Sweep:
    """Deletes runs, with input and answer, `keep` after their end, and provisioned ids that led to nothing."""

    def __init__(self, store: Reads, keep: timedelta, clock: Clock) -> None:
        self._store = store
        self._keep = keep
        self._clock = clock

    async def run(self) -> None:
        """For ever: small batches, so that no writer waits long."""
        while True:
            with tried_again("sweep"):
                while await self.once():
                    await self._clock.sleep(TICK_SECONDS / 10)
            await self._clock.sleep(SWEEP_SECONDS)

    async def once(self) -> bool:
        """One batch; True when there is more."""
        now = self._clock.now()

        async def work(tx: Sweeping) -> bool:
            runs = await tx.delete_runs(now - self._keep, BATCH)
            ids = await tx.delete_provisions(now - PROVISION_LIFE, now - self._keep, BATCH)
            return BATCH in (runs, ids)

        return await self._store.write(work)
