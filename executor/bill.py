"""What an attempt costs: nouns. Amounts are micro-credits. Standard library only (docs/decisions/0020)."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime

PER = 1_000_000


@dataclass(frozen=True, order=True)
class Budget:
    """A hard limit on what runs cost together: `key:KEY_ID` or `run:RUN_ID`."""

    id: str
    limit: int


@dataclass(frozen=True)
class Line:
    """What was used of one thing that has a price, in the unit of its meter (mesh.ledger.v1.Price)."""

    meter: str
    quantity: int
    amount: int


@dataclass(frozen=True)
class Bill:
    """What one attempt cost. `amount` is what leaves the purse: the sum of its lines."""

    run_id: str
    attempt: int
    root_id: str
    organization_id: str
    service_id: str
    key_id: str
    purse_id: str
    budgets: tuple[Budget, ...]
    amount: int
    lines: tuple[Line, ...]
    at: datetime


def cost(quantity: int, per_million: int) -> int:
    """`quantity` units at a price for a million of them, half up."""
    return (quantity * per_million + PER // 2) // PER


def cut(lines: Iterable[Line], most: int) -> tuple[Line, ...]:
    """The last ones cost less, so that the sum isn't above `most`."""
    found, left = [], most
    for line in lines:
        found.append(replace(line, amount=min(line.amount, left)))
        left -= found[-1].amount
    return tuple(found)
