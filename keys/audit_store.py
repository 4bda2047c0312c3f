"""The audit log as rows, which triggers keep from being changed (migrations: keys_0004)."""

import json
from typing import Any

from sqlalchemy import Column, Index, Row, String, Table, Text, select, union
from sqlalchemy.ext.asyncio import AsyncConnection

from keys.audit import Entry
from keys.books_store import metadata
from kit.db import Database, UtcDateTime

audit = Table(
    "audit",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("at", UtcDateTime, nullable=False),
    Column("act", String(40), nullable=False),
    Column("subject", String(300), nullable=False),
    Column("organization_id", String(40), nullable=False),
    Column("actor_key_id", String(40), nullable=False),
    Column("actor_organization_id", String(40), nullable=False),
    Column("data", Text, nullable=False),
    Index("audit_of_organization", "organization_id", "id"),
    Index("audit_of_actor", "actor_organization_id", "id"),
)


async def note(tx: AsyncConnection, entry: Entry) -> None:
    """Exists if and only if `tx` commits."""
    await tx.execute(audit.insert().values(**vars(entry) | {"data": json.dumps(dict(entry.data))}))


class SqlAuditLog:
    """audit.AuditLog."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def page(self, organization_id: str, limit: int, after: str) -> list[Entry]:
        halves = []
        for column in (audit.c.organization_id, audit.c.actor_organization_id):  # each by its own index
            half = select(audit.c.id).where(column == organization_id)
            half = half.where(audit.c.id < after) if after else half
            halves.append(select(half.order_by(audit.c.id.desc()).limit(limit).subquery().c.id))
        query = select(audit).where(audit.c.id.in_(union(*halves))).order_by(audit.c.id.desc()).limit(limit)
        async with self._db.read() as tx:
            return [_entry(row) for row in await tx.execute(query)]


def _entry(row: Row[Any]) -> Entry:
    return Entry(**dict(row._mapping) | {"data": json.loads(row.data)})  # noqa: SLF001  # SQLAlchemy's public name
