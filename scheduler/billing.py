"""On whose account a run goes, and what may be spent on it. Standard library only."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from kit.errors import Invalid

# A key's, and one for each run above at most (SPEC §3: depth 16).
MOST_BUDGETS = 17
MOST_ABOVE = 16
MOST_ID = 60
MOST_RUN_ID = 40
MOST_MONEY = 2**53 - 1


@dataclass(frozen=True)
class Budget:
    """A hard limit in micro-credits on what runs cost together: `key:KEY_ID`, or `run:…` for a run and all below it."""

    id: str
    limit: int


@dataclass(frozen=True)
class Billing:
    """`paying_key_id`: the key at the root. `charged_on_success`: the tree is charged if its root pays (Run.pays), else
    nothing of it is. `above`: the runs above it, the root first.
    """

    budgets: tuple[Budget, ...] = ()
    paying_key_id: str = ""
    charged_on_success: bool = False
    above: tuple[str, ...] = ()


UNBILLED = Billing()


def check_budgets(budgets: Sequence[Budget]) -> tuple[Budget, ...]:
    """Errors: Invalid."""
    if len(budgets) > MOST_BUDGETS:
        raise Invalid(f"a run has at most {MOST_BUDGETS} budgets")
    for budget in budgets:
        if not budget.id or len(budget.id) > MOST_ID or not 0 <= budget.limit <= MOST_MONEY:
            raise Invalid(
                f"a budget has an id of at most {MOST_ID} characters and from 0 to {MOST_MONEY} micro-credits"
            )
    if len({budget.id for budget in budgets}) < len(budgets):
        raise Invalid("a budget is named once")
    return tuple(budgets)


def check_above(ids: Sequence[str]) -> tuple[str, ...]:
    """Errors: Invalid."""
    if len(ids) > MOST_ABOVE or len(set(ids)) < len(ids) or not all(0 < len(one) <= MOST_RUN_ID for one in ids):
        raise Invalid(f"at most {MOST_ABOVE} runs are above one, each named once")
    return tuple(ids)


def kept(billing: Billing) -> dict[str, Any] | None:
    """As a row has it: JSON; None where there is nothing to say."""
    return None if billing == UNBILLED else asdict(billing)


def from_kept(row: Mapping[str, Any] | None) -> Billing:
    if row is None:
        return UNBILLED
    budgets = tuple(Budget(one["id"], one["limit"]) for one in row["budgets"])
    return Billing(budgets, row["paying_key_id"], row["charged_on_success"], tuple(row["above"]))
