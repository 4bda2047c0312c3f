"""What is left of keys' budgets."""

from collections.abc import Collection, Mapping
from typing import Protocol

from keys.limits import Budget


class Spending(Protocol):
    """The ledger's account of budgets."""

    async def used(self, budget_ids: Collection[str]) -> Mapping[str, int]:
        """Spent or reserved, in micro-credits; those that nothing was drawn from may be absent."""
        ...


class Budgets:
    """Looks at budgets."""

    def __init__(self, spending: Spending) -> None:
        self._spending = spending

    async def left(self, budget: Budget | None) -> int | None:
        """Not below 0; None where there is no budget."""
        if budget is None:
            return None
        used = await self._spending.used([budget.id])
        return max(0, budget.limit - used.get(budget.id, 0))

    async def used(self, budgets: Collection[Budget | None]) -> Mapping[str, int]:
        """By id; only of those that anything was drawn from."""
        ids = {budget.id for budget in budgets if budget is not None}
        return await self._spending.used(ids) if ids else {}
