"""What attempts cost: nouns, and who pays. Amounts are micro-credits. Standard library only (docs/decisions/0020)."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import NamedTuple


class Below(NamedTuple):
    """The runs below one: what they were charged so far, and how many aren't over."""

    cost: int = 0
    under_way: int = 0


@dataclass(frozen=True)
class Bill:
    """What one attempt cost, on its way to the ledger. `payload` is a serialized mesh.ledger.v1.Bill, opaque here; its
    own charge doesn't count. `held`: whether it is charged is known when its root is over.
    """

    run_id: str
    attempt: int
    purse_id: str
    root_id: str
    charge: int
    payload: bytes = field(repr=False)
    held: bool = False
    created_at: datetime = datetime.min.replace(tzinfo=UTC)

    def free(self) -> "Bill":
        """Nothing is charged: what had been taken for it goes back."""
        return replace(self, charge=0, held=False)
