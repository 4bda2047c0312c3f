"""What nobody else moves on: runs whose time is up, executors whose lease is, runs of lost executors, starts that
nobody knows the end of. All of it from SQL: a scheduler that has just begun knows no less.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime, timedelta
from typing import Protocol, TypeVar

from kit.clock import Clock
from kit.errors import Unavailable
from kit.telemetry import log, tried_again
from scheduler.cancel import PATIENCE_SECONDS
from scheduler.fleet import Fleet, Lease
from scheduler.model import CANCELLED, LOST, STARVED, TIMED_OUT, Outcome, Queued, Run, RunEnded, Status
from scheduler.renew import LEASE
from scheduler.settle import Settling, settle

TICK_SECONDS = 1.0
BATCH = 200
# An executor enforces deadlines itself; only when its word fails to come is a running run ended here.
GRACE = timedelta(seconds=30)
# What that is for runs that were cancelled.
PATIENCE = timedelta(seconds=PATIENCE_SECONDS)
# A Start call that has no answer by then never will.
UNSURE = timedelta(seconds=15)
# How long an executor may rely on its lease beyond its end, where a scheduler told it that the database is away
# (executor/lease.py). We may have the database all the same.
EXTENSION = timedelta(minutes=2)
# Between two rounds; a longer gap means that we stood still, or that the clock was set.
GAP = timedelta(seconds=5)
T = TypeVar("T")


class Reaping(Settling, Protocol):
    """The part of a write transaction that ends runs and gives them away."""

    async def lease(self, address: str) -> Lease | None: ...

    async def save_lease(self, lease: Lease, *, new: bool) -> None: ...

    async def placed_on(self, executor: str, incarnation: str, limit: int) -> list[Run]: ...


class Reads(Protocol):
    """What the reaper asks the store."""

    async def overdue(self, status: Status, deadline_before: datetime, limit: int) -> list[Run]: ...

    async def cancelled(self, before: datetime, limit: int) -> list[Run]: ...

    async def placements(self) -> set[tuple[str, str]]: ...

    async def leases(self) -> list[Lease]: ...

    async def claimed(self, before: datetime, limit: int) -> list[Queued]: ...

    async def busy(self) -> list[tuple[str, str]]: ...

    async def count_queued(self) -> int: ...

    async def write(self, work: Callable[[Reaping], Awaitable[T]]) -> T: ...


class Places(Protocol):
    """Who counts what is under way."""

    def learn(self, busy: Iterable[tuple[str, str]]) -> None: ...


class Dispatching(Protocol):
    """Who starts runs."""

    def resume(self, queued: Queued) -> None: ...

    def wake(self) -> None: ...


class Reap:
    """`stop` is told of runs that were ended here but may still run; `queue_length` hears how many wait; `holds` asks
    an executor whether it still relies on its lease.
    """

    def __init__(
        self,
        store: Reads,
        fleet: Fleet,
        shares: Places,
        dispatch: Dispatching,
        stop: Callable[[Run], None],
        queue_length: Callable[[int], None],
        holds: Callable[[str], Awaitable[bool]],
        clock: Clock,
    ) -> None:
        self._store = store
        self._fleet = fleet
        self._shares = shares
        self._dispatch = dispatch
        self._stop = stop
        self._queue_length = queue_length
        self._holds = holds
        self._clock = clock
        self._born = clock.now()
        # Since when executors could have renewed their leases here without a break.
        self._steady = self._last = self._born

    async def run(self) -> None:
        """For ever."""
        while True:
            with tried_again("reap"):
                try:
                    await self.once()
                except Unavailable:
                    self._steady = self._clock.now()
                    raise
            await self._clock.sleep(TICK_SECONDS)

    async def once(self) -> None:
        """One round."""
        now = self._clock.now()
        if not timedelta(0) <= now - self._last <= GAP:
            self._steady = now
        self._last = now
        leases = {lease.address: lease for lease in await self._store.leases()}
        self._fleet.learn(leases.values())
        self._shares.learn(await self._store.busy())
        await self._end_starved(now)
        await self._end_overdue(now)
        await self._end_cancelled(now)
        await self._expire(leases, now)
        await self._give_away(leases)
        # What our predecessor gave away: it can't be waiting for an answer any more.
        for queued in await self._store.claimed(max(now - UNSURE, self._born), BATCH):
            self._dispatch.resume(queued)
        self._queue_length(await self._store.count_queued())

    async def _end_starved(self, now: datetime) -> None:
        waiting = await self._store.overdue(Status.QUEUED, now, BATCH)
        for run in await self._end([run.id for run in waiting], STARVED):
            if run.executor:
                self._stop(run)

    async def _end_overdue(self, now: datetime) -> None:
        if now < self._born + GRACE:  # reports from before our start are still coming in
            return
        running = await self._store.overdue(Status.RUNNING, now - GRACE, BATCH)
        for run in await self._end([run.id for run in running], TIMED_OUT):
            self._stop(run)

    async def _end_cancelled(self, now: datetime) -> None:
        """Whose executor hasn't said so, and whose cancel may have been forgotten with a scheduler that is gone."""
        if now < self._born + PATIENCE:  # reports from before our start are still coming in
            return
        for run in await self._store.cancelled(now - PATIENCE, BATCH):
            for ended in await self._end([run.id], run.cancelled_as or CANCELLED):
                self._stop(ended)

    async def _expire(self, leases: dict[str, Lease], now: datetime) -> None:
        """Not before executors had a whole lease's time to renew it: while we or the store are away, they can't. Nor
        while one says that it relies on it: it renews it with a scheduler that has lost the database, and we haven't.
        """
        if now - self._steady < LEASE:
            return
        expired = [lease for lease in leases.values() if lease.expires_at < now and not lease.given_up]
        held = await asyncio.gather(*(self._holds(lease.address) for lease in expired))
        for old in [
            lease
            for lease, holds in zip(expired, held, strict=True)
            if not (holds and now < lease.expires_at + EXTENSION)
        ]:

            async def work(tx: Reaping, old: Lease = old) -> Lease:
                lease = await tx.lease(old.address) or old
                if lease.incarnation == old.incarnation and lease.expires_at < now:
                    lease = Lease(**{**vars(lease), "given_up": True})
                    await tx.save_lease(lease, new=False)
                return lease

            leases[old.address] = await self._store.write(work)
            if leases[old.address].given_up:
                log().warning("executor.given_up", executor=old.address, incarnation=old.incarnation)
        self._fleet.learn(leases.values())

    async def _give_away(self, leases: dict[str, Lease]) -> None:
        """Runs of lives that are over: another attempt where that may be, else the end."""
        for address, incarnation in await self._store.placements():
            if _lives(leases.values(), address, incarnation):
                continue
            if _lives(await self._store.leases(), address, incarnation):  # it came since we looked
                continue
            while await self._lose(address, incarnation) == BATCH:
                pass
            self._dispatch.wake()

    async def _lose(self, address: str, incarnation: str) -> int:
        now = self._clock.now()

        async def work(tx: Reaping) -> int:
            lost = [run.attempted(LOST, at=now) for run in await tx.placed_on(address, incarnation, BATCH)]
            await tx.save(lost)
            await tx.tell(RunEnded(run) for run in lost if run.status.over)
            return len(lost)

        return await self._store.write(work)

    async def _end(self, ids: list[str], outcome: Outcome) -> list[Run]:
        if not ids:
            return []
        return await self._store.write(lambda tx: settle(tx, ids, outcome, self._clock.now()))


def _lives(leases: Iterable[Lease], address: str, incarnation: str) -> bool:
    return any((one.address, one.incarnation, one.given_up) == (address, incarnation, False) for one in leases)
