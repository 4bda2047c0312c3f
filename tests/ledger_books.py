"""What tests of the ledger begin with, and the audit of docs/money.md."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from keys.ledger_store import SqlBooks, SqlBooksChange
from keys.model import Organization
from keys.money import Bill, BillLine, Budget, Draw
from keys.store import SqlKeyStore
from kit.db import Database

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
_DOCUMENT = Path(__file__).parent.parent / "docs" / "money.md"
AUDITS = re.findall(r"```sql\n-- ([^\n]*)\n(.*?)```", _DOCUMENT.read_text(), re.DOTALL)


async def audit(db: Database) -> dict[str, list[Any]]:
    """What is wrong with the books; nothing, when they are right."""
    async with db.read() as tx:
        return await audit_in(tx)


async def audit_in(tx: AsyncConnection) -> dict[str, list[Any]]:
    """The same, as a transaction sees them."""
    found = {title: (await tx.execute(text(query.replace(":", "\\:")))).all() for title, query in AUDITS}
    return {title: list(map(tuple, rows)) for title, rows in found.items() if rows}


async def open_organizations(db: Database, *names: str) -> None:
    async with SqlKeyStore(db).change() as change:
        for name in names:
            await change.add_organization(Organization(name, name, first=False, created_at=NOW))


async def balances(db: Database) -> dict[str, int]:
    async with db.read() as tx:
        return {row.id: row.balance for row in await tx.execute(text("SELECT id, balance FROM accounts"))}


async def counted(db: Database, table: str) -> int:
    async with db.read() as tx:
        return int((await tx.execute(text(f"SELECT count(*) FROM {table}"))).scalar_one())


def a_draw(draw_id: str, need: int, want: int = 0, *budgets: Budget, purse: str = "p", org: str = "org_a") -> Draw:
    return Draw(draw_id, purse, org, f"life-{purse}", budgets, need, want or need)


def a_bill(run: str, reserved: int, charge: int, *budgets: str, purse: str = "p", org: str = "org_a") -> Bill:
    lines = (BillLine("run", 1, charge),)
    return Bill(run, 1, run, org, "hello", "key_1", purse, budgets, reserved, charge, lines, NOW)


class Crash(Exception):
    """Before the commit."""


class CrashingBooks(SqlBooks):
    """With `crash` the next change does all that it does, and is then undone."""

    crash = False

    @asynccontextmanager
    async def change(self) -> AsyncIterator[SqlBooksChange]:
        async with super().change() as change:
            yield change
            if self.crash:
                self.crash = False
                raise Crash
