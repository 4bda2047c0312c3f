"""The books as tables, and the only ways to change them. Rows of the ledger and bills are never changed or deleted:
triggers of the migrations see to that.

Whoever holds rows until the end of its transaction takes them in one order, so that nobody waits in a circle: the
ledger's transactions by key, accounts by id, budgets by id, lives of purses by id, sums of usage by key, and the
platform's accounts last.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    bindparam,
    select,
    text,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from keys.money import GRANTS, Account, Posting, Transaction, organization_account
from kit.db import UtcDateTime
from kit.errors import NotFound
from kit.names import new_id

metadata = MetaData()
_KEPT, _CLOSED = text("swept_at IS NULL"), text("swept_at IS NULL AND closed_at IS NOT NULL")

accounts = Table(
    "accounts",
    metadata,
    Column("id", String(150), primary_key=True),
    Column("kind", String(20), nullable=False),
    # Whose it is; the platform's are nobody's.
    Column("organization_id", String(40), ForeignKey("organizations.id")),
    Column("balance", BigInteger, nullable=False),
    # Of an organization's: the sum of its purses.
    Column("reserved", BigInteger, nullable=False),
    CheckConstraint("balance >= 0 OR kind = 'platform'", name="accounts_balance"),
    CheckConstraint("reserved >= 0", name="accounts_reserved"),
)

ledger_transactions = Table(
    "ledger_transactions",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("key", String(300), nullable=False, unique=True),
    Column("kind", String(20), nullable=False),
    Column("at", UtcDateTime, nullable=False),
)

ledger_entries = Table(
    "ledger_entries",
    metadata,
    Column("transaction_id", String(40), ForeignKey("ledger_transactions.id"), primary_key=True),
    Column("account_id", String(150), ForeignKey("accounts.id"), primary_key=True),
    Column("amount", BigInteger, nullable=False),
)

budgets = Table(
    "budgets",
    metadata,
    Column("id", String(110), primary_key=True),
    Column("limit", BigInteger, nullable=False),
    Column("used", BigInteger, nullable=False),
    CheckConstraint('used >= 0 AND used <= "limit"', name="budgets_used"),
)

# One row for all purses of a life of an executor: it says that they are kept in one write, however many there are.
purse_lives = Table(
    "purse_lives",
    metadata,
    Column("incarnation", String(100), primary_key=True),
    Column("renewed_at", UtcDateTime, nullable=False),
)

purses = Table(
    "purses",
    metadata,
    Column("id", String(100), primary_key=True),
    Column("organization_id", String(40), ForeignKey("organizations.id"), nullable=False),
    Column("incarnation", String(100), ForeignKey("purse_lives.incarnation"), nullable=False),
    # Ids, as JSON.
    Column("budgets", Text, nullable=False),
    Column("swept_at", UtcDateTime),
    # Its executor is done with it.
    Column("closed_at", UtcDateTime),
    Index("purses_kept", "incarnation", sqlite_where=_KEPT, postgresql_where=_KEPT),
    Index("purses_closed", "closed_at", sqlite_where=_CLOSED, postgresql_where=_CLOSED),
)

bills = Table(
    "bills",
    metadata,
    Column("transaction_id", String(40), ForeignKey("ledger_transactions.id"), primary_key=True),
    Column("run_id", String(100), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("root_id", String(200), nullable=False),
    Column("organization_id", String(100), nullable=False),
    Column("service_id", String(200), nullable=False),
    Column("key_id", String(200), nullable=False),
    # YYYY-MM-DD in UTC.
    Column("day", String(10), nullable=False),
    Column("reserved", BigInteger, nullable=False),
    Column("charge", BigInteger, nullable=False),
    # Of the lines, for what is summed up.
    Column("cpu_ms", BigInteger, nullable=False),
    Column("tokens_in", BigInteger, nullable=False),
    Column("tokens_out", BigInteger, nullable=False),
    Column("egress_bytes", BigInteger, nullable=False),
    Index("bills_of_run", "run_id"),
)

bill_lines = Table(
    "bill_lines",
    metadata,
    Column("transaction_id", String(40), ForeignKey("bills.transaction_id"), primary_key=True),
    Column("meter", String(200), primary_key=True),
    # VENDOR/MODEL, if it is of tokens.
    Column("model", String(200), nullable=False),
    Column("quantity", BigInteger, nullable=False),
    Column("amount", BigInteger, nullable=False),
)


def missing(tx: AsyncConnection, table: Table) -> Any:
    """An INSERT that leaves rows alone that are there."""
    return _insert(tx.dialect.name, table)


@cache
def _insert(dialect: str, table: Table) -> Any:
    insert = postgresql.insert if dialect == "postgresql" else sqlite.insert
    return insert(table).on_conflict_do_nothing()


async def enter(tx: AsyncConnection, transactions: Iterable[Transaction]) -> dict[str, str]:
    """Adds them; the ids of those that weren't there, by key. Waits for others that enter the same."""
    ordered = sorted(transactions, key=lambda each: each.key)
    rows = [{"id": new_id("txn"), "key": each.key, "kind": each.kind, "at": each.at} for each in ordered]
    adding = missing(tx, ledger_transactions).returning(ledger_transactions.c.key, ledger_transactions.c.id)
    return {row.key: row.id for row in await tx.execute(adding, rows)}


async def hold(tx: AsyncConnection, account_ids: Iterable[str]) -> dict[str, Account]:
    """Those that there are of accounts of organizations and purses."""
    columns = (accounts.c.id, accounts.c.balance, accounts.c.organization_id, accounts.c.reserved)
    query = select(*columns).where(accounts.c.id.in_(sorted(account_ids))).order_by(accounts.c.id)
    rows = await tx.execute(query.with_for_update(key_share=True))
    return {row.id: Account(row.balance, row.organization_id or "", row.reserved) for row in rows}


_MORE = (
    update(accounts)
    .where(accounts.c.id == bindparam("which"))
    .values(balance=accounts.c.balance + bindparam("more"), reserved=accounts.c.reserved + bindparam("more_reserved"))
)


async def post(tx: AsyncConnection, entered: dict[str, str], postings: Sequence[Posting]) -> None:
    """Entries, and in the same breath the balances that are their sums. `entered`: ids of the transactions."""
    rows: list[dict[str, Any]] = []
    more: Counter[str] = Counter()
    reserved: Counter[str] = Counter()
    for posting in postings:
        if sum(posting.entries.values()):
            raise ValueError(f"the entries of {posting.key} don't balance")
        for account_id, amount in posting.entries.items():
            if amount:
                rows.append({"transaction_id": entered[posting.key], "account_id": account_id, "amount": amount})
                more[account_id] += amount
                if account_id.startswith("purse:"):
                    reserved[organization_account(posting.organization_id)] += amount
    changed = sorted(more.keys() | reserved.keys(), key=lambda name: (name.startswith("platform:"), name))
    if rows:
        changes = [{"which": name, "more": more[name], "more_reserved": reserved[name]} for name in changed]
        await tx.execute(ledger_entries.insert(), rows)
        await tx.execute(_MORE, changes)


async def open_account(tx: AsyncConnection, organization_id: str, credits_: int, at: datetime) -> None:
    """An organization's, where it is missing, with what it has at first. Errors: NotFound for an organization that
    there is not.
    """
    name = organization_account(organization_id)
    row = {"id": name, "kind": "organization", "organization_id": organization_id, "balance": 0, "reserved": 0}
    try:
        await tx.execute(missing(tx, accounts), row)
    except IntegrityError as error:
        raise NotFound("no such organization") from error
    if credits_:
        key = f"initial:{organization_id}"
        entered = await enter(tx, [Transaction(key, "grant", at)])
        await post(tx, entered, [Posting(key, organization_id, {name: credits_, GRANTS: -credits_})] if entered else [])
