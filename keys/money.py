"""Accounts, purses, budgets and bills, and the rules by which credit moves between them (docs/decisions/0020).

All amounts are integers of micro-credits. What stands here is pure: stores hold the rows, these rules say what changes.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property

from kit.errors import Exhausted, Invalid

MOST = 2**53 - 1  # what a JSON number says exactly
FIRST_CREDITS = 1_000_000_000
REVENUE, GRANTS, LOSSES = "platform:revenue", "platform:grants", "platform:losses"
PLENTY = 1000  # a draw without budgets takes at most this part of what there is, or what is wanted
PURSE_LIFE = timedelta(seconds=60)
# For bills of a purse that its executor is done with: one may wait for the end of its root, a day.
CLOSED_LIFE = timedelta(hours=26)
MAX_BUDGETS = 17
MAX_BILLS = 500
MAX_LINES = 100
MAX_NAMED = 10_000
MAX_ID = 100
MAX_TEXT = 200
# What usage shows stored files under: the path of the call that makes them, which no service can be named.
FILES = "/file"


def organization_account(organization_id: str) -> str:
    """What an organization may spend."""
    return f"org:{organization_id}"


def purse_account(purse_id: str) -> str:
    """What an executor has drawn."""
    return f"purse:{purse_id}"


@dataclass
class Account:
    """As it is held in a transaction. `organization_id`: whose it is; empty for the platform's."""

    balance: int
    organization_id: str = ""
    # Of an organization's: what its purses have together.
    reserved: int = 0


@dataclass(frozen=True)
class Transaction:
    """`key` makes what it stands for happen once."""

    key: str
    kind: str
    at: datetime


@dataclass(frozen=True)
class Posting:
    """The entries of the transaction `key`, by account: their sum is zero. They concern one organization at most."""

    key: str
    organization_id: str
    entries: Mapping[str, int]


@dataclass(frozen=True)
class Budget:
    """A hard limit: `key:KEY_ID` or `run:RUN_ID`."""

    id: str
    limit: int


@dataclass
class Spent:
    """A budget as it is held in a transaction. `used`: what was drawn for it and hasn't come back."""

    id: str
    limit: int
    used: int = 0

    @property
    def room(self) -> int:
        """What may be drawn yet."""
        return self.limit - self.used


@dataclass(frozen=True)
class Purse:
    """Credit of an organization in the hands of one life of an executor, for runs with the same budgets (their ids)."""

    id: str
    organization_id: str
    incarnation: str
    budgets: tuple[str, ...]
    swept: bool = False


@dataclass(frozen=True)
class Draw:
    """`need`: less is of no use; `want`: what all who wait would take."""

    id: str
    purse_id: str
    organization_id: str
    incarnation: str
    budgets: tuple[Budget, ...]
    need: int
    want: int


@dataclass(frozen=True)
class BillLine:
    """A meter of prices.proto, how much of it was used, and what of the bill's charge that is."""

    meter: str
    quantity: int
    amount: int

    @property
    def model(self) -> str:
        """VENDOR/MODEL of a meter of tokens, else empty."""
        return self.meter.removeprefix("tokens:").rpartition(":")[0] if self.meter.startswith("tokens:") else ""


@dataclass(frozen=True)
class Bill:
    """What an attempt cost: `reserved` leaves its purse, `charge` of it is paid, the rest goes back. One without a
    purse is of stored files, not of an attempt: the organization pays.
    """

    run_id: str
    attempt: int
    root_id: str
    organization_id: str
    service_id: str
    key_id: str
    purse_id: str
    budgets: tuple[str, ...]
    reserved: int
    charge: int
    lines: tuple[BillLine, ...]
    at: datetime

    @property
    def key(self) -> str:
        """Of its transaction."""
        return f"run:{self.run_id}:{self.attempt}:{self.purse_id}" if self.purse_id else f"storage:{self.run_id}"

    @property
    def kind(self) -> str:
        """Of its transaction."""
        return "run" if self.purse_id else "storage"

    @cached_property
    def quantities(self) -> Counter[str]:
        """By meter; tokens of all models together as `in`, `cached` and `out`."""
        found: Counter[str] = Counter()
        for line in self.lines:
            found[line.meter.rpartition(":")[2] if line.model else line.meter] += line.quantity
        return found


def amount_to_draw(draw: Draw, balance: int, budgets: Sequence[Spent]) -> int:
    """From `need` to `want`, above it where there is plenty and there are no budgets. Errors: Exhausted, which says
    what stands in the way.
    """
    if balance < draw.need:
        raise no_credit(f"{draw.need} micro-credits must be there to go on, and your organization has {balance} left")
    for budget in budgets:
        if budget.room < draw.need:
            whose = "key's" if budget.id.startswith("key:") else "run's"
            raise no_credit(
                f"the {whose} budget doesn't allow more: {draw.need} micro-credits must be there to go on, "
                f"and of its {budget.limit} there are {budget.room} left"
            )
    wanted = draw.want if budgets else max(draw.want, balance // PLENTY)
    return min(wanted, balance, *(budget.room for budget in budgets))


def no_credit(sentence: str) -> Exhausted:
    """402."""
    return Exhausted(sentence, code="payment_required")


def book(bill: Bill, accounts: Mapping[str, Account], budgets: Mapping[str, Spent]) -> tuple[Posting, dict[str, int]]:
    """A bill's entries, and by how much it changes which budgets; both are changed in what is held, too.

    What the purse has pays first: all of it, unless it was swept meanwhile. Then the organization, as far as it has
    something; the rest is the platform's loss.
    """
    purse_id, organization_id = purse_account(bill.purse_id), organization_account(bill.organization_id)
    organization = accounts.get(organization_id, Account(0))
    purse = accounts.get(purse_id, Account(0))
    leaves = min(purse.balance, bill.reserved) if purse.organization_id == bill.organization_id else 0
    paid = min(bill.charge, leaves)
    back, late = leaves - paid, bill.charge - paid
    owed = min(late, organization.balance)
    purse.balance -= leaves
    organization.balance += back - owed
    entries = {purse_id: -leaves, organization_id: back - owed, REVENUE: bill.charge, LOSSES: owed - late}
    changes: dict[str, int] = {}
    for budget in (budgets[each] for each in bill.budgets if each in budgets):
        changes[budget.id] = max(min(late - back, budget.room), -budget.used)
        budget.used += changes[budget.id]
    return Posting(bill.key, bill.organization_id, entries), changes


def bounded(bill: Bill) -> Bill:
    """With a charge that is covered and lines that can be kept: whoever ran may have had a say in what these are.

    Errors: Invalid for what no attempt can cost.
    """
    if not (0 <= bill.reserved <= MOST and 0 <= bill.charge <= MOST and 0 <= bill.attempt < 2**31):
        raise Invalid("a bill's amounts and attempt are numbers from zero up")
    check_ids(run_id=bill.run_id, organization_id=bill.organization_id)
    if bill.purse_id:
        check_ids(purse_id=bill.purse_id)
    charge = min(bill.charge, bill.reserved)
    lines: dict[str, BillLine] = {}
    for line in bill.lines:
        meter, amount = _text(line.meter), line.amount if charge else 0
        before = lines.get(meter)
        if line.quantity < 0 or amount < 0 or (before is None and len(lines) == MAX_LINES):
            continue
        quantity = line.quantity + (before.quantity if before else 0)
        amount += before.amount if before else 0
        lines[meter] = BillLine(meter, min(quantity, MOST), min(amount, MOST))
    return replace(
        bill,
        root_id=_text(bill.root_id),
        service_id=_text(bill.service_id) if bill.purse_id else FILES,
        key_id=_text(bill.key_id),
        budgets=bill.budgets[:MAX_BUDGETS],
        charge=charge,
        lines=tuple(lines.values()),
    )


def _text(text: str) -> str:
    return text.replace("\0", "?")[:MAX_TEXT]


def check_ids(**ids: str) -> None:
    """Errors: Invalid for one that is empty, too long or no text."""
    for name, value in ids.items():
        if not 1 <= len(value) <= MAX_ID or "\0" in value:
            raise Invalid(f"{name} must have 1 to {MAX_ID} characters")


def check_budgets(budgets: Sequence[Budget]) -> None:
    """Errors: Invalid."""
    if len(budgets) > MAX_BUDGETS or len({budget.id for budget in budgets}) < len(budgets):
        raise Invalid(f"at most {MAX_BUDGETS} budgets count at once, each once")
    for budget in budgets:
        check_ids(budget=budget.id)
        if not budget.id.startswith(("key:", "run:")) or not 0 <= budget.limit <= MOST:
            raise Invalid("a budget is of key:KEY_ID or run:RUN_ID, and its limit a number from zero up")


def check_draw(draw: Draw) -> None:
    """Errors: Invalid."""
    check_ids(id=draw.id, purse_id=draw.purse_id, organization_id=draw.organization_id, incarnation=draw.incarnation)
    check_budgets(draw.budgets)
    if not 1 <= draw.need <= draw.want <= MOST:
        raise Invalid("need and want are numbers above zero, and want is no less than need")
