"""The books as they stand in the databases of a mesh, and what in them breaks the promise of docs/decisions/0020.

Only rows are looked at: nothing here knows how they came to be. test_books.py shows that it finds each kind of fault.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Select, select

from keys import books_store as keys
from scheduler.store import tables as scheduler
from tests.databases import is_postgres, with_connection

PURSE_LIFE = timedelta(seconds=60)
# After a start of keys, for the first sweep.
GRACE = timedelta(seconds=30)
# A sweep comes every 5 s; the rest is for a busy machine.
SLACK = timedelta(seconds=25)
LONG_AGO = datetime.min.replace(tzinfo=UTC)
SUCCEEDED = 4
# Ends of an attempt that nobody pays for.
FREE = frozenset({"runtime_error", "unavailable"})
REVENUE = "platform:revenue"
# The least that a run costs that succeeds.
FEE = 100


@dataclass(frozen=True)
class Account:
    """`reserved`: what an organization's purses have, as its row says."""

    kind: str
    organization: str
    balance: int
    reserved: int = 0


@dataclass(frozen=True)
class Purse:
    """`kept_at`: when `life`, that of its executor, was last heard of."""

    budgets: tuple[str, ...]
    life: str
    kept_at: datetime
    swept: bool = False


@dataclass(frozen=True)
class Bill:
    """As it is booked."""

    run_id: str
    attempt: int
    charge: int
    purse: str
    organization: str


@dataclass(frozen=True)
class Run:
    """Its record. `free`: it is charged only if its root succeeds, which it didn't."""

    status: int
    attempt: int
    code: str
    cost: int
    organization: str
    free: bool = False


@dataclass
class Books:
    """`entries`: (transaction, account, amount); `transactions`: keys by id; `budgets`: (limit, used); `waiting`: bills
    that the scheduler still has; `keys_since`: when keys was last started.
    """

    at: datetime
    keys_since: datetime = LONG_AGO
    transactions: dict[str, str] = field(default_factory=dict)
    entries: list[tuple[str, str, int]] = field(default_factory=list)
    accounts: dict[str, Account] = field(default_factory=dict)
    budgets: dict[str, tuple[int, int]] = field(default_factory=dict)
    purses: dict[str, Purse] = field(default_factory=dict)
    bills: dict[str, Bill] = field(default_factory=dict)
    waiting: int = 0
    runs: dict[str, Run] = field(default_factory=dict)

    @property
    def held(self) -> dict[str, int]:
        """What is in purses, by their ids."""
        amounts = {name: self.accounts[f"purse:{name}"].balance for name in self.purses}
        return {name: amount for name, amount in amounts.items() if amount}

    @property
    def newest(self) -> str:
        """The life that was heard of last."""
        return max(self.purses.values(), key=lambda purse: purse.kept_at).life if self.purses else ""

    @property
    def charges(self) -> Counter[str]:
        """What was charged, by run."""
        found: Counter[str] = Counter()
        for bill in self.bills.values():
            found[bill.run_id] += bill.charge
        return found


def under_way(books: Books) -> bool:
    """Whether there are runs or bills that aren't at their end, or the executor that lives holds something."""
    going_on = any(run.status < SUCCEEDED for run in books.runs.values())
    return bool(books.waiting or going_on or any(books.purses[name].life == books.newest for name in books.held))


def always(books: Books) -> list[str]:
    """A sentence for each thing that is wrong, whatever is under way."""
    return [*_unbalanced(books), *_disagreeing(books), *_below(books), *_charged_twice(books), *_past_the_sweep(books)]


def settled(books: Books, *, swept: bool = True) -> list[str]:
    """The same, when nothing is under way any more: also what somebody still has to do, and what was never charged.
    Unless `swept`, lives that have gone may still hold something.
    """
    return [*always(books), *_unfinished(books, swept), *_records(books), *_budgets(books)]


def _unbalanced(books: Books) -> Iterator[str]:
    sums: Counter[str] = Counter()
    balances: Counter[str] = Counter()
    for transaction, account_id, amount in books.entries:
        sums[transaction] += amount
        balances[account_id] += amount
    for transaction, total in sums.items():
        if total:
            yield f"unbalanced: the entries of {books.transactions[transaction]} sum to {total}"
    for name, account in books.accounts.items():
        if account.balance != balances[name]:
            yield f"unbalanced: {name} has {account.balance}, its entries sum to {balances[name]}"
    if total := sum(account.balance for account in books.accounts.values()):
        yield f"unbalanced: all accounts together have {total}"


def _disagreeing(books: Books) -> Iterator[str]:
    """What is said twice."""
    revenue = {transaction: amount for transaction, account, amount in books.entries if account == REVENUE}
    for transaction, bill in books.bills.items():
        if bill.charge != revenue.get(transaction, 0):
            yield f"unbalanced: {bill.run_id} is charged {bill.charge}, not {revenue.get(transaction, 0)}"
    reserved: Counter[str] = Counter()
    for account in books.accounts.values():
        reserved[account.organization] += account.balance if account.kind == "purse" else 0
    for name, account in books.accounts.items():
        if account.kind == "organization" and account.reserved != reserved[account.organization]:
            yield f"unbalanced: {name} has {account.reserved} in purses, they have {reserved[account.organization]}"


def _below(books: Books) -> Iterator[str]:
    for name, account in books.accounts.items():
        if account.kind != "platform" and account.balance < 0:
            yield f"below its limit: {name} has {account.balance}"
    for name, (limit, used) in books.budgets.items():
        if not 0 <= used <= limit:
            yield f"below its limit: of {name} {used} are used, and it has {limit}"


def _charged_twice(books: Books) -> Iterator[str]:
    charged = Counter((bill.run_id, bill.attempt) for bill in books.bills.values() if bill.charge)
    for (run_id, attempt), times in charged.items():
        if times > 1:
            yield f"charged twice: attempt {attempt} of {run_id}, {times} times"


def _past_the_sweep(books: Books) -> Iterator[str]:
    for name, amount in books.held.items():
        purse = books.purses[name]
        late = books.at - max(purse.kept_at + PURSE_LIFE, books.keys_since + GRACE)
        if purse.swept or late > SLACK:
            yield f"past its sweep: {name} holds {amount}, {late.total_seconds():.0f} s too late"


def _unfinished(books: Books, swept: bool) -> Iterator[str]:
    for name, amount in books.held.items():
        if swept or books.purses[name].life == books.newest:
            yield f"held: {name} has {amount}, and nothing is under way"
    if books.waiting:
        yield f"waiting: the scheduler still has {books.waiting} bills"


def _records(books: Books) -> Iterator[str]:
    charges = books.charges
    for run_id in charges.keys() - books.runs.keys():
        yield f"charged for nothing: nobody knows {run_id}"
    last = {(bill.run_id, bill.attempt): bill.charge for bill in books.bills.values() if bill.charge}
    for run_id, run in books.runs.items():
        if run.status < SUCCEEDED:
            yield f"not over: {run_id}"
        if run.cost != charges[run_id]:
            yield f"another cost: {run_id} is said to have cost {run.cost}, and was charged {charges[run_id]}"
        if run.free and charges[run_id]:
            yield f"charged for a failure: {run_id} paid {charges[run_id]}, and its root didn't succeed"
        paid = last.get((run_id, run.attempt), 0)
        if run.code in FREE and paid:
            yield f"charged for a failure: {run_id} is {run.code}, and paid {paid}"
        if run.status == SUCCEEDED and not run.free and paid < FEE:
            yield f"not charged: attempt {run.attempt} of {run_id} succeeded, and paid {paid}"
    for bill in books.bills.values():
        if bill.run_id in books.runs and books.runs[bill.run_id].organization != bill.organization:
            yield f"charged somebody else: {bill.organization} paid for {bill.run_id}"


def _budgets(books: Books) -> Iterator[str]:
    spent: Counter[str] = Counter()
    for bill in books.bills.values():
        for name in books.purses[bill.purse].budgets:
            spent[name] += bill.charge
    for purse, amount in books.held.items():
        for name in books.purses[purse].budgets:
            spent[name] += amount
    for name, (_, used) in books.budgets.items():
        if used != spent[name]:
            yield f"another use: of {name} {used} are said to be used, and {spent[name]} were"


def read(url_of: Callable[[str], str], keys_since: datetime = LONG_AGO) -> Books:
    """`url_of` gives the address of a service's database. Each is read as it stood in one moment, keys' first: what it
    has charged the scheduler knows.
    """
    books = Books(datetime.now(UTC), keys_since)
    _snapshot(url_of("keys"), lambda connection: _read_keys(connection, books))
    _snapshot(url_of("scheduler"), lambda connection: _read_scheduler(connection, books))
    return books


def _snapshot(url: str, work: Callable[[Connection], None]) -> None:
    def inside(connection: Connection) -> None:
        if is_postgres(url):
            connection.execution_options(isolation_level="REPEATABLE READ")
        else:
            connection.exec_driver_sql("BEGIN")  # the driver begins none for what only reads
        work(connection)

    with_connection(url, inside)


def _read_keys(connection: Connection, books: Books) -> None:
    def rows(query: Select[*tuple[Any, ...]]) -> Any:
        return connection.execute(query).all()

    books.transactions = {row.id: row.key for row in rows(select(keys.ledger_transactions))}
    books.entries = [tuple(row) for row in rows(select(keys.ledger_entries))]
    for row in rows(select(keys.accounts)):
        books.accounts[row.id] = Account(row.kind, row.organization_id or "", row.balance, row.reserved)
    books.budgets = {row.id: (row.limit, row.used) for row in rows(select(keys.budgets))}
    lives = {row.incarnation: row.renewed_at for row in rows(select(keys.purse_lives))}
    for row in rows(select(keys.purses)):
        swept = row.swept_at is not None
        books.purses[row.id] = Purse(tuple(json.loads(row.budgets)), row.incarnation, lives[row.incarnation], swept)
    for row in rows(select(keys.bills)):
        purse = books.transactions[row.transaction_id].rpartition(":")[2]
        books.bills[row.transaction_id] = Bill(row.run_id, row.attempt, row.charge, purse, row.organization_id)


def _read_scheduler(connection: Connection, books: Books) -> None:
    runs = scheduler.runs.c
    columns = (runs.id, runs.root_id, runs.status, runs.attempt, runs.code, runs.cost_own, runs.caller_id, runs.billing)
    found = connection.execute(select(*columns, runs.refused, runs.completed_at)).all()
    # Who succeeds pays, and whoever was stopped since there was nothing left to pay more.
    paying = {
        row.id for row in found if (row.status == SUCCEEDED and not row.refused) or row.code == "payment_required"
    }
    over: dict[str, Any] = {row.id: row.completed_at for row in found}
    for row in found:
        root_id = row.root_id or row.id
        # What goes on for ten seconds after a root that failed is charged like any run.
        failed, ended = over.get(root_id), row.completed_at
        outlived = failed is not None and ended is not None and ended > failed + timedelta(seconds=10)
        free = _on_success(row.billing) and root_id not in paying and not outlived
        books.runs[row.id] = Run(row.status, row.attempt, row.code, row.cost_own, row.caller_id, free)
    books.waiting = len(connection.execute(select(scheduler.bills.c.run_id)).all())


def _on_success(billing: Mapping[str, Any] | None) -> bool:
    return billing is not None and bool(billing["charged_on_success"])
