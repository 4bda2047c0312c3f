"""The ports of ledger.py and sweep.py on SQL."""

import json
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Row, bindparam, literal, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from keys import audit_store, usage_store
from keys import books_store as books
from keys.audit import Entry
from keys.books_store import accounts, budgets, ledger_entries, ledger_transactions, purse_lives, purses
from keys.money import (
    PURSE_LIFE,
    Account,
    Bill,
    Budget,
    Posting,
    Purse,
    Spent,
    Transaction,
    organization_account,
    purse_account,
)
from keys.sweep import Due
from kit.db import Database

_LEFT = (
    select(purses, accounts.c.balance)
    .join(purse_lives, purse_lives.c.incarnation == purses.c.incarnation)
    .join(accounts, accounts.c.id == literal(purse_account("")) + purses.c.id)
    .where(purses.c.swept_at.is_(None))
)
# By a Due.
_OF_THE_DEAD = purse_lives.c.renewed_at < bindparam("kept_before")
_CLOSED_LONG_AGO = purses.c.closed_at < bindparam("closed_before")
_CLOSED_JUST_NOW = purses.c.closed_at >= bindparam("recent")
_BUDGET = (budgets.c.id, budgets.c.limit, budgets.c.used)
_USE = update(budgets).where(budgets.c.id == bindparam("which")).values(used=budgets.c.used + bindparam("more"))


class SqlBooks:
    """ledger.Books and sweep.Purses."""

    def __init__(self, db: Database) -> None:
        self._db = db

    @asynccontextmanager
    async def change(self) -> AsyncIterator["SqlBooksChange"]:
        async with self._db.write() as tx:
            yield SqlBooksChange(tx)

    async def account(self, organization_id: str) -> Account | None:
        query = select(accounts.c.balance, accounts.c.organization_id, accounts.c.reserved)
        async with self._db.read() as tx:
            row = (await tx.execute(query.where(accounts.c.id == organization_account(organization_id)))).first()
        return None if row is None else Account(*row)

    async def used(self, budget_ids: Iterable[str]) -> dict[str, int]:
        """budgets.Spending."""
        return {name: spent.used for name, spent in (await self.spent(budget_ids)).items()}

    async def spent(self, budget_ids: Iterable[str]) -> dict[str, Spent]:
        async with self._db.read() as tx:
            rows = await tx.execute(select(*_BUDGET).where(budgets.c.id.in_(list(budget_ids))))
            return {row.id: Spent(*row) for row in rows}

    async def keep(self, incarnation: str, at: datetime) -> None:
        async with self._db.write() as tx:
            mine = purse_lives.c.incarnation == incarnation
            await tx.execute(update(purse_lives).where(mine).values(renewed_at=at))

    async def close(self, incarnation: str, purse_ids: Sequence[str], at: datetime) -> None:
        its = purses.c.id.in_(purse_ids) & (purses.c.incarnation == incarnation)
        open_ = select(purses.c.id).where(its, purses.c.swept_at.is_(None), purses.c.closed_at.is_(None))
        async with self._db.write() as tx:
            found = (await tx.execute(open_.order_by(purses.c.id).with_for_update(key_share=True))).scalars().all()
            await tx.execute(update(purses).where(purses.c.id.in_(found)).values(closed_at=at))

    async def kept(self, purse_ids: Sequence[str]) -> set[str]:
        query = select(purses.c.id).where(purses.c.id.in_(purse_ids), purses.c.swept_at.is_(None))
        async with self._db.read() as tx:
            return set((await tx.execute(query)).scalars())

    async def left(self, due: Due, limit: int) -> list[Purse]:
        """sweep.Purses."""
        found: dict[str, Row[Any]] = {}
        async with self._db.read() as tx:
            for whose in (_OF_THE_DEAD, _CLOSED_LONG_AGO):
                query = _LEFT.where(whose, accounts.c.balance > 0).order_by(accounts.c.balance.desc()).limit(limit)
                found |= {row.id: row for row in await tx.execute(query, vars(due))}
        fullest = sorted(found.values(), key=lambda row: (-row.balance, row.id))
        return [_purse(row) for row in fullest[:limit]]

    async def sweep_empty(self, due: Due, at: datetime, limit: int) -> int:
        """sweep.Purses."""
        async with self._db.write() as tx:
            found: dict[str, str] = {}
            for whose in (_OF_THE_DEAD, _CLOSED_LONG_AGO, _CLOSED_JUST_NOW):
                query = _LEFT.where(whose, accounts.c.balance == 0).limit(limit - len(found))
                found |= {row.id: row.incarnation for row in await tx.execute(query, vars(due))}
            return await _sweep_empty(tx, found, due, at) if found else 0


async def _sweep_empty(tx: AsyncConnection, found: Mapping[str, str], due: Due, at: datetime) -> int:
    """Those of them that are as they were. Who draws holds the account: it comes before, or finds the purse swept."""
    held = await books.hold(tx, map(purse_account, found))
    empty = [name for name in found if held[purse_account(name)].balance == 0]
    lives = select(purse_lives.c.incarnation).where(purse_lives.c.incarnation.in_({found[name] for name in empty}))
    lives = lives.where(purse_lives.c.renewed_at < due.kept_before).order_by(purse_lives.c.incarnation)
    dead = (await tx.execute(lives.with_for_update(key_share=True))).scalars().all()
    its = purses.c.incarnation.in_(dead) | purses.c.closed_at.is_not(None)
    query = select(purses.c.id).where(purses.c.id.in_(empty), purses.c.swept_at.is_(None), its).order_by(purses.c.id)
    swept = (await tx.execute(query.with_for_update(key_share=True))).scalars().all()
    await tx.execute(update(purses).where(purses.c.id.in_(swept)).values(swept_at=at))
    return len(swept)


class SqlBooksChange:
    """ledger.Change and sweep.SweepChange."""

    def __init__(self, tx: AsyncConnection) -> None:
        self._tx = tx
        self._entered: dict[str, str] = {}

    async def enter(self, transactions: Sequence[Transaction]) -> set[str]:
        entered = await books.enter(self._tx, transactions)
        self._entered |= entered
        return set(entered)

    async def posted(self, key: str, account_id: str) -> int | None:
        query = select(ledger_entries.c.amount).join(ledger_transactions).where(ledger_transactions.c.key == key)
        row = (await self._tx.execute(query.where(ledger_entries.c.account_id == account_id))).first()
        return None if row is None else int(row.amount)

    async def post(self, postings: Sequence[Posting]) -> None:
        await books.post(self._tx, self._entered, postings)

    async def note(self, entry: Entry) -> None:
        await audit_store.note(self._tx, entry)

    async def hold(self, account_ids: Iterable[str]) -> dict[str, Account]:
        return await books.hold(self._tx, account_ids)

    async def open_account(self, organization_id: str, credits_: int, at: datetime) -> None:
        await books.open_account(self._tx, organization_id, credits_, at)

    async def known_budgets(self, budget_ids: Iterable[str]) -> set[str]:
        rows = await self._tx.execute(select(budgets.c.id).where(budgets.c.id.in_(list(budget_ids))))
        return set(rows.scalars())

    async def hold_budgets(self, budget_ids: Iterable[str]) -> dict[str, Spent]:
        query = select(*_BUDGET).where(budgets.c.id.in_(sorted(budget_ids))).order_by(budgets.c.id)
        rows = await self._tx.execute(query.with_for_update(key_share=True))
        return {row.id: Spent(*row) for row in rows}

    async def add_budgets(self, new: Sequence[Budget]) -> None:
        rows = [asdict(budget) | {"used": 0} for budget in sorted(new, key=lambda each: each.id)]
        await self._tx.execute(books.missing(self._tx, budgets), rows)

    async def use_budgets(self, changes: Mapping[str, int]) -> None:
        if rows := [{"which": name, "more": changes[name]} for name in sorted(changes) if changes[name]]:
            await self._tx.execute(_USE, rows)

    async def purse(self, purse_id: str) -> Purse | None:
        row = (await self._tx.execute(select(purses).where(purses.c.id == purse_id))).first()
        return None if row is None else _purse(row)

    async def add_purse(self, purse: Purse, at: datetime) -> None:
        account = {"id": purse_account(purse.id), "kind": "purse", "organization_id": purse.organization_id}
        await self._tx.execute(books.missing(self._tx, accounts), account | {"balance": 0, "reserved": 0})
        life = {"incarnation": purse.incarnation, "renewed_at": at}
        await self._tx.execute(books.missing(self._tx, purse_lives), life)
        # Only where it matters: all draws of an executor would wait for one another.
        long_ago = (purse_lives.c.incarnation == purse.incarnation) & (purse_lives.c.renewed_at < at - PURSE_LIFE / 3)
        await self._tx.execute(update(purse_lives).where(long_ago).values(renewed_at=at))
        row = {"id": purse.id, "organization_id": purse.organization_id, "incarnation": purse.incarnation}
        await self._tx.execute(books.missing(self._tx, purses), row | {"budgets": json.dumps(purse.budgets)})

    async def add_bills(self, bills: Sequence[Bill]) -> None:
        await self._tx.execute(books.bills.insert(), [_bill(self._entered[bill.key], bill) for bill in bills])
        if lines := [row for bill in bills for row in _lines(self._entered[bill.key], bill)]:
            await self._tx.execute(books.bill_lines.insert(), lines)

    async def add_usage(self, bills: Sequence[Bill]) -> None:
        await usage_store.add_usage(self._tx, bills, (self._entered[bill.key] for bill in bills))

    async def hold_left(self, purse: Purse, due: Due) -> bool:
        """Whether it still is as `left` says; nobody keeps it meanwhile."""
        life = select(purse_lives.c.renewed_at).where(purse_lives.c.incarnation == purse.incarnation)
        renewed = (await self._tx.execute(life.with_for_update(key_share=True))).scalar_one()
        query = select(purses.c.closed_at).where(purses.c.id == purse.id, purses.c.swept_at.is_(None))
        row = (await self._tx.execute(query)).first()
        if row is None:
            return False
        return renewed < due.kept_before or (row.closed_at is not None and row.closed_at < due.closed_before)

    async def sweep(self, purse_id: str, at: datetime) -> None:
        await self._tx.execute(update(purses).where(purses.c.id == purse_id).values(swept_at=at))


def _purse(row: Row[Any]) -> Purse:
    return Purse(row.id, row.organization_id, row.incarnation, tuple(json.loads(row.budgets)), row.swept_at is not None)


def _bill(transaction_id: str, bill: Bill) -> dict[str, object]:
    used = bill.quantities
    return {
        "transaction_id": transaction_id,
        "run_id": bill.run_id,
        "attempt": bill.attempt,
        "root_id": bill.root_id,
        "organization_id": bill.organization_id,
        "service_id": bill.service_id,
        "key_id": bill.key_id,
        "day": bill.at.astimezone(UTC).date().isoformat(),
        "reserved": bill.reserved,
        "charge": bill.charge,
        "cpu_ms": used["cpu"],
        "tokens_in": used["in"] + used["cached"],
        "tokens_out": used["out"],
        "egress_bytes": used["egress"],
    }


def _lines(transaction_id: str, bill: Bill) -> list[dict[str, object]]:
    return [
        {
            "transaction_id": transaction_id,
            "meter": line.meter,
            "model": line.model,
            "quantity": line.quantity,
            "amount": line.amount,
        }
        for line in bill.lines
    ]
