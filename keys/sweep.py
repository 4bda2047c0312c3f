"""What is left in the purses of executors that have gone goes back to the organizations."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Protocol

from keys.money import PURSE_LIFE, Account, Posting, Purse, Spent, Transaction, organization_account, purse_account
from kit.clock import Clock
from kit.lifecycle import failpoint
from kit.telemetry import log, tried_again

SWEEP_SECONDS = 5.0
# After a start: while we were away nobody could keep a purse.
GRACE_SECONDS = 30.0
BATCH = 100


class SweepChange(Protocol):
    """One transaction on the books."""

    async def enter(self, transactions: Sequence[Transaction]) -> set[str]: ...

    async def post(self, postings: Sequence[Posting]) -> None: ...

    async def hold(self, account_ids: Iterable[str]) -> dict[str, Account]: ...

    async def hold_budgets(self, budget_ids: Iterable[str]) -> dict[str, Spent]: ...

    async def use_budgets(self, changes: Mapping[str, int]) -> None: ...

    async def hold_left(self, purse: Purse, before: datetime) -> bool:
        """Whether nobody has kept or swept it meanwhile; none does until the end. After accounts and budgets."""
        ...

    async def sweep(self, purse_id: str, at: datetime) -> None: ...


class Purses(Protocol):
    """All that there are."""

    def change(self) -> AbstractAsyncContextManager[SweepChange]: ...

    async def left(self, before: datetime, limit: int) -> list[Purse]:
        """Some that nobody has kept since then, and nobody has swept."""
        ...


class Sweep:
    """Each purse in a transaction of its own; of several processes one does it."""

    def __init__(self, purses: Purses, clock: Clock) -> None:
        self._purses = purses
        self._clock = clock

    async def run(self) -> None:
        """For ever."""
        await self._clock.sleep(GRACE_SECONDS)
        while True:
            with tried_again("sweep of purses"):
                while await self.once() == BATCH:
                    pass
            await self._clock.sleep(SWEEP_SECONDS)

    async def once(self) -> int:
        """How many there were to sweep."""
        before = self._clock.now() - PURSE_LIFE
        left = await self._purses.left(before, BATCH)
        for purse in left:
            await self._sweep(purse, before)
        return len(left)

    async def _sweep(self, purse: Purse, before: datetime) -> None:
        key, now = f"sweep:{purse.id}", self._clock.now()
        source, target = purse_account(purse.id), organization_account(purse.organization_id)
        async with self._purses.change() as tx:
            amount = (await tx.hold([source, target]))[source].balance
            spent = await tx.hold_budgets(purse.budgets) if purse.budgets else {}
            if not await tx.hold_left(purse, before):
                return
            await tx.sweep(purse.id, now)
            if not amount:
                return
            await tx.enter([Transaction(key, "sweep", now)])
            await tx.post([Posting(key, purse.organization_id, {source: -amount, target: amount})])
            await tx.use_budgets({each.id: -min(amount, each.used) for each in spent.values()})
        failpoint("swept")
        log().warning("purse.swept", purse_id=purse.id, organization_id=purse.organization_id, amount=amount)
