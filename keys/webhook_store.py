"""Webhook secrets as rows."""

from collections.abc import Callable
from typing import Any

from sqlalchemy import Column, ForeignKey, LargeBinary, Row, Select, String, Table, func, select, update
from sqlalchemy.exc import IntegrityError

from keys.audit import Entry
from keys.audit_store import note
from keys.store import metadata
from keys.version_store import next_version, sealed_versions
from keys.webhooks import PLACE, SealedPair
from kit.db import Database, UtcDateTime
from kit.errors import NotFound

webhook_secrets = Table(
    "webhook_secrets",
    metadata,
    Column("organization_id", String(40), ForeignKey("organizations.id"), primary_key=True),
    Column("current", LargeBinary, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("previous", LargeBinary),
    Column("previous_until", UtcDateTime),
)
_COLUMNS = [column for column in webhook_secrets.c if column.name != "organization_id"]


class SqlWebhookStore:
    """webhooks.WebhookStore."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def find(self, organization_id: str) -> SealedPair | None:
        async with self._db.read() as tx:
            row = (await tx.execute(_of(organization_id))).first()
        return None if row is None else _pair(row)

    async def add(self, organization_id: str, made: SealedPair) -> bool:
        try:
            async with self._db.write() as tx:
                await tx.execute(webhook_secrets.insert().values(organization_id=organization_id, **_row(made)))
        except IntegrityError as error:
            if await self.find(organization_id) is not None:
                return False
            raise NotFound("no such organization") from error
        return True

    async def change(
        self, organization_id: str, change: Callable[[SealedPair, int], SealedPair], entry: Entry
    ) -> SealedPair | None:
        async with self._db.write() as tx:
            row = (await tx.execute(_of(organization_id).with_for_update(of=webhook_secrets))).first()
            if row is None:
                return None
            after = change(_pair(row), await next_version(tx, organization_id, PLACE))
            mine = webhook_secrets.c.organization_id == organization_id
            await tx.execute(update(webhook_secrets).where(mine).values(**_row(after)))
            await note(tx, entry)
        return after


def _of(organization_id: str) -> Select[Any]:
    mine = (sealed_versions.c.organization_id == organization_id) & (sealed_versions.c.name == PLACE)
    query = select(*_COLUMNS, func.coalesce(sealed_versions.c.version, 0).label("version"))
    query = query.select_from(webhook_secrets.outerjoin(sealed_versions, mine))
    return query.where(webhook_secrets.c.organization_id == organization_id)


def _pair(row: Row[Any]) -> SealedPair:
    return SealedPair(**row._mapping)  # noqa: SLF001  # SQLAlchemy's public name


def _row(pair: SealedPair) -> dict[str, Any]:
    return {column.name: getattr(pair, column.name) for column in _COLUMNS}
