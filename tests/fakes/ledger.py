"""The ledger as executors see it, in memory."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from executor.bill import PER, Budget
from executor.prices import Price
from executor.purse import Draw
from kit.errors import Conflict, Exhausted, Unavailable

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


def price(meter: str, each: float) -> Price:
    """Micro-credits for one unit."""
    return Price(meter, round(each * PER), LONG_AGO)


@dataclass
class FakeLedger:
    """`credit` by organization. `away`: nothing arrives; `lost`: so many answers get lost after it was done; `gate`:
    draws wait for it.
    """

    credit: Counter[str] = field(default_factory=Counter)
    purses: Counter[str] = field(default_factory=Counter)
    used: Counter[str] = field(default_factory=Counter)
    listed: list[Price] = field(default_factory=list)
    away: bool = False
    lost: int = 0
    plenty: int = 0
    gate: asyncio.Event | None = None
    draws: list[Draw] = field(default_factory=list)
    given: list[tuple[str, int]] = field(default_factory=list)
    kept: list[list[str]] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    swept: set[str] = field(default_factory=set)
    _done: dict[str, int] = field(default_factory=dict)
    _owners: dict[str, Draw] = field(default_factory=dict)

    async def draw(self, draw: Draw) -> int:
        self._check()
        self.draws.append(draw)
        if self.gate is not None:
            await self.gate.wait()
        if draw.id not in self._done:
            if draw.purse_id in self.swept:
                raise Conflict("the purse was swept")
            amount = min(
                draw.want + (0 if draw.budgets else self.plenty), self._room(draw.organization_id, draw.budgets)
            )
            if amount < draw.need:
                raise Exhausted("no credit is left", code="payment_required")
            self._done[draw.id] = amount
            self._owners[draw.purse_id] = draw
            self._move(draw.purse_id, amount)
        self._answer()
        return self._done[draw.id]

    async def give_back(self, give_id: str, purse_id: str, amount: int) -> None:
        self._check()
        if give_id not in self._done:
            if purse_id in self.swept:
                raise Conflict("the purse was swept")
            assert 0 < amount <= self.purses[purse_id]
            self._done[give_id] = amount
            self._move(purse_id, -amount)
            self.given.append((purse_id, amount))
        self._answer()

    async def keep(self, incarnation: str, purse_ids: list[str], closed: list[str]) -> list[str]:
        self._check()
        self.closed += closed
        self.kept.append(purse_ids)
        return [purse_id for purse_id in purse_ids if purse_id in self.swept]

    async def room(self, organization_id: str, budgets: tuple[Budget, ...]) -> int:
        self._check()
        return self._room(organization_id, budgets)

    async def prices(self) -> Sequence[Price]:
        self._check()
        return list(self.listed)

    def sweep(self) -> None:
        """All purses."""
        for purse_id, amount in list(self.purses.items()):
            self.swept.add(purse_id)
            self._move(purse_id, -amount)

    def _room(self, organization_id: str, budgets: tuple[Budget, ...]) -> int:
        return min(self.credit[organization_id], *(budget.limit - self.used[budget.id] for budget in budgets), 2**62)

    def _move(self, purse_id: str, amount: int) -> None:
        owner = self._owners[purse_id]
        self.purses[purse_id] += amount
        self.credit[owner.organization_id] -= amount
        for budget in owner.budgets:
            self.used[budget.id] += amount

    def _check(self) -> None:
        if self.away:
            raise Unavailable("keys is away")

    def _answer(self) -> None:
        if self.lost:
            self.lost -= 1
            raise Unavailable("the answer was lost")
