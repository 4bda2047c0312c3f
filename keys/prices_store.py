"""Prices as rows. All changes take turns at one row: they are rare."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, Column, String, Table, delete, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from keys import audit_store
from keys.audit import Entry
from keys.prices import MOST_METER, Price
from keys.store import metadata
from kit.db import Database, UtcDateTime

prices = Table(
    "prices",
    metadata,
    Column("meter", String(MOST_METER), primary_key=True),
    Column("valid_from", UtcDateTime, primary_key=True),
    Column("micro_credits_per_million", BigInteger, nullable=False),
    Column("origin", String(20), nullable=False),
    CheckConstraint("micro_credits_per_million >= 0", name="no_price_below_zero"),
)
price_lists = Table(
    "price_lists",
    metadata,
    Column("id", String(20), primary_key=True),
    Column("fingerprint", String(64), nullable=False),
)
_THE_ONE = "ours"
_OPERATOR, _OURS = "operator", "platform"
_AT_ONCE = 500


class SqlPriceStore:
    """prices.PriceStore."""

    def __init__(self, db: Database) -> None:
        self.db = db

    @asynccontextmanager
    async def change(self) -> AsyncIterator["SqlPriceChange"]:
        async with self.db.write() as tx:
            row = _insert(tx, price_lists).values(id=_THE_ONE, fingerprint="")
            await tx.execute(row.on_conflict_do_nothing())
            await tx.execute(select(price_lists.c.id).with_for_update())
            yield SqlPriceChange(tx)

    async def prices(self, meters: Sequence[str] | None = None) -> list[Price]:
        async with self.db.read() as tx:
            return await _prices(tx, meters)

    async def fingerprint(self) -> str:
        async with self.db.read() as tx:
            return await _fingerprint(tx)


class SqlPriceChange:
    """One transaction."""

    def __init__(self, tx: AsyncConnection) -> None:
        self.tx = tx

    async def prices(self, meters: Sequence[str] | None = None) -> list[Price]:
        return await _prices(self.tx, meters)

    async def put(self, made: Sequence[Price]) -> None:
        for start in range(0, len(made), _AT_ONCE):
            insert = _insert(self.tx, prices).values([_row(price) for price in made[start : start + _AT_ONCE]])
            news = {name: insert.excluded[name] for name in ("micro_credits_per_million", "origin")}
            await self.tx.execute(insert.on_conflict_do_update(index_elements=["meter", "valid_from"], set_=news))

    async def drop(self, gone: Sequence[Price]) -> None:
        if gone:
            these = [(price.meter, price.valid_from) for price in gone]
            await self.tx.execute(delete(prices).where(tuple_(prices.c.meter, prices.c.valid_from).in_(these)))

    async def fingerprint(self) -> str:
        return await _fingerprint(self.tx)

    async def note(self, entry: Entry) -> None:
        await audit_store.note(self.tx, entry)

    async def remember(self, fingerprint: str) -> None:
        await self.tx.execute(update(price_lists).values(fingerprint=fingerprint))


async def _prices(tx: AsyncConnection, meters: Sequence[str] | None) -> list[Price]:
    query = select(prices)
    if meters is not None:
        query = query.where(prices.c.meter.in_(meters))
    found = [
        Price(row.meter, row.micro_credits_per_million, row.valid_from, by_operator=row.origin == _OPERATOR)
        for row in await tx.execute(query)
    ]
    return sorted(found, key=lambda price: (price.meter, price.valid_from))  # locales order otherwise


async def _fingerprint(tx: AsyncConnection) -> str:
    return str((await tx.execute(select(price_lists.c.fingerprint))).scalar_one_or_none() or "")


def _row(price: Price) -> dict[str, Any]:
    return {
        "meter": price.meter,
        "valid_from": price.valid_from,
        "micro_credits_per_million": price.amount,
        "origin": _OPERATOR if price.by_operator else _OURS,
    }


def _insert(tx: AsyncConnection, table: Table) -> Any:
    return (postgresql.insert if tx.dialect.name == "postgresql" else sqlite.insert)(table)
