"""Bills go to the ledger: in batches, until it has them. What is held waits for the end of its root."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from typing import Protocol, TypeVar

from kit.clock import Clock
from kit.errors import Problem, Unavailable
from kit.lifecycle import failpoint
from kit.telemetry import log, tried_again
from scheduler.bill import Bill
from scheduler.model import Run, Runs

MOST_AT_ONCE = 500
# Between two rounds: what is committed meanwhile goes together.
GATHER_SECONDS = 0.1
LOOK_SECONDS = 5.0
RELEASE = timedelta(seconds=LOOK_SECONDS)
AGAIN_SECONDS = 1.0
# Roots that are let go of at once; the others at the next look.
MOST_HELD = 1000
# A root of the direct way is told of at its end, or in less than a second; one that isn't there after so long has gone
# with its executor, and what was reserved below it isn't to hang for longer than a purse's life.
LOST = timedelta(seconds=60)
T = TypeVar("T")


class Releasing(Protocol):
    """The part of a write transaction that lets bills go."""

    async def standing(self, ids: Collection[str]) -> Runs: ...

    async def let_go(self, root_id: str, *, charged: bool) -> None: ...


class Store(Protocol):
    """Bills that are kept."""

    def due_bills(self, limit: int) -> AbstractAsyncContextManager[list[Bill]]:
        """The oldest, for whoever asked alone. They are gone when the block is left without an error."""

    async def over_roots(self, limit: int) -> list[str]:
        """Those that are over although bills of theirs are held."""
        ...

    async def lost_roots(self, before: datetime, limit: int) -> list[str]:
        """Those that aren't there, of which bills have been held since before then."""
        ...

    async def write(self, work: Callable[[Releasing], Awaitable[T]]) -> T: ...


class Ledger(Protocol):
    """Who books them."""

    async def settle(self, bills: Sequence[Bill]) -> None:
        """Each is booked once, however often it comes. Errors: Unavailable when it should be sent again."""


class Bills:
    """`run` is their loop."""

    def __init__(self, store: Store, ledger: Ledger, clock: Clock) -> None:
        self._store = store
        self._ledger = ledger
        self._clock = clock
        self._some = asyncio.Event()
        self._began = self._release_at = clock.now()

    def changed(self, run: Run) -> None:
        """A run's new state is committed: there may be a bill."""
        if run.status.over or run.attempt > 1:
            self._some.set()

    async def run(self) -> None:
        """For ever."""
        while True:
            self._some.clear()
            sent = -1
            with tried_again("bills"):
                if self._clock.now() >= self._release_at:
                    await self.release()
                    self._release_at = self._clock.now() + RELEASE
                while (sent := await self.once()) == MOST_AT_ONCE:
                    pass
            await self._clock.sleep(AGAIN_SECONDS if sent < 0 else GATHER_SECONDS)
            if sent >= 0:
                await self._until_some()

    async def once(self) -> int:
        """Sends a batch; how many it were. Errors: Unavailable."""
        async with self._store.due_bills(MOST_AT_ONCE) as bills:
            if bills:
                await self._settle(bills)
                failpoint("bill sent")
        return len(bills)

    async def release(self) -> None:
        """Lets go of what is held although its root is over (its end was being committed when they were kept), or will
        never be there. Those that have yet to end are no part of it, however many they are.
        """
        now, held = self._clock.now(), set(await self._store.over_roots(MOST_HELD))
        if now - self._began > LOST:  # while we were away nobody could tell us of any
            held.update(await self._store.lost_roots(now - LOST, MOST_HELD))

        async def work(tx: Releasing) -> None:
            roots = await tx.standing(held)
            for root_id in sorted(held):
                root = roots.get(root_id)
                if root is None or root.status.over:
                    await tx.let_go(root_id, charged=root is not None and root.pays)

        if held:
            await self._store.write(work)

    async def _settle(self, bills: list[Bill]) -> None:
        try:
            await self._ledger.settle(bills)
        except Unavailable:
            raise
        except Problem as problem:
            if len(bills) > 1:  # one of them is refused: the others get through
                for bill in bills:
                    await self._settle([bill])
            else:  # what had been taken for it goes back when its purse is swept
                about = {name: getattr(bills[0], name) for name in ("run_id", "attempt", "purse_id", "charge")}
                log().error("bill.refused", reason=problem.message, **about)

    async def _until_some(self) -> None:
        waits = [asyncio.ensure_future(wait) for wait in (self._clock.sleep(LOOK_SECONDS), self._some.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
