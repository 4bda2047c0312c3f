"""Buckets as rows."""

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import BigInteger, Column, String, Table, bindparam, delete, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from keys.rates import Level, Rule
from keys.store import metadata
from kit.db import Database, UtcDateTime

SWEPT_AT_ONCE = 1000

permit_buckets = Table(
    "permit_buckets",
    metadata,
    Column("id", String(200), primary_key=True),
    Column("level", BigInteger, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
)


class SqlBucketStore:
    """rates.BucketStore."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def change(self, full: Mapping[str, Level], rule: Rule) -> None:
        while not await self._changed(full, rule):
            await self._add(full)

    async def sweep(self, before: datetime) -> int:
        old = permit_buckets.c.updated_at < before
        free = select(permit_buckets.c.id).where(old).limit(SWEPT_AT_ONCE).with_for_update(skip_locked=True)
        swept, last = 0, SWEPT_AT_ONCE
        while last == SWEPT_AT_ONCE:
            async with self._db.write() as tx:
                names = (await tx.execute(free)).scalars().all()
                last = len(names)
                await tx.execute(delete(permit_buckets).where(permit_buckets.c.id.in_(names)))
            swept += last
        return swept

    async def _changed(self, full: Mapping[str, Level], rule: Rule) -> bool:
        """False when there isn't a row for each."""
        async with self._db.write() as tx:
            levels = await _held(tx, sorted(full))
            if len(levels) < len(full):
                return False
            changed = rule(levels)
            if changed:
                values = [{"which": name, "level": now.level, "updated_at": now.at} for name, now in changed.items()]
                await tx.execute(update(permit_buckets).where(permit_buckets.c.id == bindparam("which")), values)
        return True

    async def _add(self, full: Mapping[str, Level]) -> None:
        """In a transaction of its own: one that held other rows already could wait for somebody who waits for it."""
        rows = [{"id": name, "level": full[name].level, "updated_at": full[name].at} for name in sorted(full)]
        async with self._db.write() as tx:
            insert = postgresql.insert if tx.dialect.name == "postgresql" else sqlite.insert
            await tx.execute(insert(permit_buckets).values(rows).on_conflict_do_nothing())


async def _held(tx: AsyncConnection, names: list[str]) -> dict[str, Level]:
    these = select(permit_buckets).where(permit_buckets.c.id.in_(names)).order_by(permit_buckets.c.id)
    return {row.id: Level(row.level, row.updated_at) for row in await tx.execute(these.with_for_update())}
