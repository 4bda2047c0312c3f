"""Kept files are paid for: once in a period what an organization has kept goes on a bill, which is kept until the
ledger has it.
"""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from typing import Protocol

from filestore.storage import Price, Storage, StorageBill, price_at
from kit.clock import Clock
from kit.lifecycle import failpoint
from kit.telemetry import tried_again

PERIOD = timedelta(hours=1)
PAUSE_SECONDS = 60.0
BATCH = 100


class Periods(Protocol):
    """What organizations keep, and their bills."""

    async def due(self, before: datetime, limit: int) -> list[Storage]:
        """Those whose period began by then, the oldest first, as far as there is something to pay."""
        ...

    async def close(self, period: Storage, price: int, now: datetime) -> None:
        """Ends it and keeps its bill, unless somebody else has."""
        ...

    def due_bills(self, limit: int) -> AbstractAsyncContextManager[list[StorageBill]]:
        """The oldest, for whoever asked alone. They are gone when the block is left without an error."""
        ...


class Ledger(Protocol):
    """Who books them, and knows prices."""

    async def prices(self, since: datetime) -> Sequence[Price]:
        """Of storage: all that were valid then, or later. Errors: Unavailable."""
        ...

    async def settle(self, bills: Sequence[StorageBill]) -> None:
        """Each is booked once, however often it comes. Errors: Unavailable."""
        ...


class Charge:
    """`close` makes bills and sends them, `run` is the loop that sends those that are left."""

    def __init__(self, periods: Periods, ledger: Ledger, clock: Clock) -> None:
        self._periods = periods
        self._ledger = ledger
        self._clock = clock

    async def close(self) -> None:
        """Ends all periods that are over, at the prices that held when they began. What has expired must have gone
        before: it isn't paid for any more. Errors: Unavailable; then they are longer.
        """
        while due := await self._periods.due(self._clock.now() - PERIOD, BATCH):
            prices = await self._ledger.prices(min(period.since for period in due))
            for period in due:
                await self._periods.close(period, price_at(prices, period.since), self._clock.now())
                failpoint("storage bill kept")
            await self.send()

    async def run(self) -> None:
        """For ever."""
        while True:
            with tried_again("filestore.charge"):
                while await self.send() == BATCH:
                    pass
            await self._clock.sleep(PAUSE_SECONDS)

    async def send(self) -> int:
        """A batch; how many it were. Errors: Unavailable."""
        async with self._periods.due_bills(BATCH) as bills:
            if bills:
                await self._ledger.settle(bills)
                failpoint("storage bill sent")
        return len(bills)
