"""What is too old to be kept is deleted, in small batches, beside everything else."""

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Protocol, TypeVar

from kit.clock import Clock
from kit.telemetry import tried_again
from scheduler.model import IDEMPOTENCY_LIFE, PROVISION_LIFE

PAUSE_SECONDS = 0.1
SWEEP_SECONDS = 60.0
BATCH = 200
# Executors that haven't renewed their lease for so long are forgotten.
FORGOTTEN = timedelta(hours=1)
T = TypeVar("T")


class Sweeping(Protocol):
    """The part of a write transaction that deletes."""

    async def delete_runs(self, completed_before: datetime, limit: int) -> int: ...

    async def delete_provisions(self, unused_before: datetime, used_before: datetime, limit: int) -> int: ...

    async def delete_idempotent(self, created_before: datetime, limit: int) -> int: ...

    async def delete_leases(self, expired_before: datetime) -> None: ...


class Journal(Protocol):
    """`work` runs inside a write transaction."""

    async def write(self, work: Callable[[Sweeping], Awaitable[T]]) -> T: ...


class Sweep:
    """Deletes runs, with input and answer, `keep` after their end, provisioned ids that led to nothing, old keys."""

    def __init__(self, store: Journal, keep: timedelta, clock: Clock) -> None:
        self._store = store
        self._keep = keep
        self._clock = clock

    async def run(self) -> None:
        """For ever: small batches, so that no writer waits long."""
        while True:
            with tried_again("sweep"):
                while await self.once():
                    await self._clock.sleep(PAUSE_SECONDS)
            await self._clock.sleep(SWEEP_SECONDS)

    async def once(self) -> bool:
        """One batch; True when there is more."""
        now = self._clock.now()

        async def work(tx: Sweeping) -> bool:
            runs = await tx.delete_runs(now - self._keep, BATCH)
            ids = await tx.delete_provisions(now - PROVISION_LIFE, now - self._keep, BATCH)
            keys = await tx.delete_idempotent(now - IDEMPOTENCY_LIFE, BATCH)
            await tx.delete_leases(now - FORGOTTEN)
            return BATCH in (runs, ids, keys)

        return await self._store.write(work)
