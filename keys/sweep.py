"""What is left in purses that nobody needs any more goes back to the organizations: those of executors that have gone,
and those that their executors are done with.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from keys.money import (
    CLOSED_LIFE,
    PURSE_LIFE,
    Account,
    Posting,
    Purse,
    Spent,
    Transaction,
    organization_account,
    purse_account,
)
from kit.clock import Clock
from kit.lifecycle import failpoint
from kit.telemetry import log, tried_again

SWEEP_SECONDS = 5.0
# After a start: while we were away nobody could keep a purse.
GRACE_SECONDS = 30.0
BATCH = 100
EMPTY_BATCH = 1000
# An empty purse is looked at for as long after it was closed; one whose last bill comes later has CLOSED_LIFE.
RECENT = timedelta(minutes=10)


@dataclass(frozen=True)
class Due:
    """Which purses nobody needs any more: those of a life that wasn't heard of since `kept_before`, those closed before
    `closed_before`, and those closed after `recent` if they are empty.
    """

    kept_before: datetime
    closed_before: datetime
    recent: datetime


class SweepChange(Protocol):
    """One transaction on the books."""

    async def enter(self, transactions: Sequence[Transaction]) -> set[str]: ...

    async def post(self, postings: Sequence[Posting]) -> None: ...

    async def hold(self, account_ids: Iterable[str]) -> dict[str, Account]: ...

    async def hold_budgets(self, budget_ids: Iterable[str]) -> dict[str, Spent]: ...

    async def use_budgets(self, changes: Mapping[str, int]) -> None: ...

    async def hold_left(self, purse: Purse, due: Due) -> bool:
        """Whether nobody has kept or swept it meanwhile; none does until the end. After accounts and budgets."""
        ...

    async def sweep(self, purse_id: str, at: datetime) -> None: ...


class Purses(Protocol):
    """All that there are."""

    def change(self) -> AbstractAsyncContextManager[SweepChange]: ...

    async def left(self, due: Due, limit: int) -> list[Purse]:
        """Those with something in them that nobody has swept, the fullest first."""
        ...

    async def sweep_empty(self, due: Due, at: datetime, limit: int) -> int:
        """Those with nothing in them, all at once; how many they were."""
        ...


class Sweep:
    """Each purse that has something in a transaction of its own, and first; of several processes one does it."""

    def __init__(self, purses: Purses, clock: Clock) -> None:
        self._purses = purses
        self._clock = clock

    async def run(self) -> None:
        """For ever."""
        await self._clock.sleep(GRACE_SECONDS)
        while True:
            with tried_again("sweep of purses"):
                while await self.once() >= BATCH:
                    pass
            await self._clock.sleep(SWEEP_SECONDS)

    async def once(self) -> int:
        """How many there were to sweep."""
        now = self._clock.now()
        due = Due(now - PURSE_LIFE, now - CLOSED_LIFE, now - RECENT)
        left = await self._purses.left(due, BATCH)
        for purse in left:
            await self._sweep(purse, due)
        return len(left) + await self._purses.sweep_empty(due, now, EMPTY_BATCH)

    async def _sweep(self, purse: Purse, due: Due) -> None:
        key, now = f"sweep:{purse.id}", self._clock.now()
        source, target = purse_account(purse.id), organization_account(purse.organization_id)
        async with self._purses.change() as tx:
            amount = (await tx.hold([source, target]))[source].balance
            spent = await tx.hold_budgets(purse.budgets) if purse.budgets else {}
            if not await tx.hold_left(purse, due):
                return
            await tx.sweep(purse.id, now)
            if not amount:
                return
            await tx.enter([Transaction(key, "sweep", now)])
            await tx.post([Posting(key, purse.organization_id, {source: -amount, target: amount})])
            await tx.use_budgets({each.id: -min(amount, each.used) for each in spent.values()})
        failpoint("swept")
        log().warning("purse.swept", purse_id=purse.id, organization_id=purse.organization_id, amount=amount)
