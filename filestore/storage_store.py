"""What organizations keep, as rows: one each, held by whoever changes it; rooms of uploads; bills.

Whoever holds rows until the end of its transaction takes that of the organization first.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, fields
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Index,
    MetaData,
    String,
    Table,
    bindparam,
    delete,
    func,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from filestore.storage import Room, Storage, StorageBill, check_room
from kit.db import Database, UtcDateTime
from kit.names import new_id

metadata = MetaData()

storage = Table(
    "storage",
    metadata,
    Column("organization_id", String(40), primary_key=True),
    # The sum of the sizes of its files.
    Column("kept", BigInteger, nullable=False),
    Column("mb_days", BigInteger, nullable=False),
    Column("rest", BigInteger, nullable=False),
    Column("counted_at", UtcDateTime, nullable=False),
    Column("since", UtcDateTime, nullable=False),
    CheckConstraint("kept >= 0 AND mb_days >= 0 AND rest >= 0", name="storage_from_zero"),
    Index("storage_by_period", "since"),
)

rooms = Table(
    "rooms",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("organization_id", String(40), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
    Index("rooms_of_organization", "organization_id", "expires_at"),
    Index("rooms_by_expiry", "expires_at"),
)

storage_bills = Table(
    "storage_bills",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("organization_id", String(40), nullable=False),
    Column("mb_days", BigInteger, nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("at", UtcDateTime, nullable=False),
)

_FIELDS = [item.name for item in fields(Storage)]
_BILLS = select(storage_bills).order_by(storage_bills.c.id).limit(bindparam("most"))
_FORGET = delete(storage_bills).where(storage_bills.c.id == bindparam("its_id"))


async def hold(tx: AsyncConnection, organization_id: str, now: datetime) -> Storage:
    """An organization's, made where it is missing; nobody else changes it, or takes room, until the end."""
    adding = _insert(tx, storage).on_conflict_do_nothing()
    await tx.execute(adding, asdict(Storage.empty(organization_id, now)))
    query = select(storage).where(storage.c.organization_id == organization_id)
    return _storage((await tx.execute(query.with_for_update())).one())


async def save(tx: AsyncConnection, changed: Storage) -> None:
    """What is held."""
    mine = storage.c.organization_id == changed.organization_id
    await tx.execute(update(storage).where(mine).values(asdict(changed)))


async def check_quota(tx: AsyncConnection, held: Storage, size: int, most: int, room_id: str, now: datetime) -> int:
    """What there is for this room. Errors: Exhausted (too_large) when that is less than `size`."""
    others = (rooms.c.organization_id == held.organization_id) & (rooms.c.expires_at > now) & (rooms.c.id != room_id)
    taken = (await tx.execute(select(func.coalesce(func.sum(rooms.c.size), 0)).where(others))).scalar_one()
    return check_room(size, held.kept + int(taken), most)


async def leave(tx: AsyncConnection, room_id: str) -> None:
    await tx.execute(delete(rooms).where(rooms.c.id == room_id))


class SqlStorage:
    """quota.Rooms and charge.Periods."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def take(self, room: Room, need: int, most: int, now: datetime) -> int:
        async with self._db.write() as tx:
            held = await hold(tx, room.organization_id, now)
            size = min(room.size, await check_quota(tx, held, need, most, room.id, now))
            adding = _insert(tx, rooms).values(asdict(room) | {"size": size})
            changed = {"size": size, "expires_at": room.expires_at}
            await tx.execute(adding.on_conflict_do_update(index_elements=["id"], set_=changed))
        return size

    async def leave(self, room_id: str) -> None:
        async with self._db.write() as tx:
            await leave(tx, room_id)

    async def due(self, before: datetime, limit: int) -> list[Storage]:
        something = or_(storage.c.kept > 0, storage.c.mb_days > 0)
        query = select(storage).where(storage.c.since <= before, something).order_by(storage.c.since).limit(limit)
        async with self._db.read() as tx:
            return [_storage(row) for row in await tx.execute(query)]

    async def close(self, period: Storage, price: int, now: datetime) -> None:
        async with self._db.write() as tx:
            held = await hold(tx, period.organization_id, now)
            if held.since != period.since:
                return
            changed, bill = held.billed(new_id("sto"), price, now)
            await save(tx, changed)
            if bill:
                await tx.execute(storage_bills.insert(), asdict(bill))

    @asynccontextmanager
    async def due_bills(self, limit: int) -> AsyncIterator[list[StorageBill]]:
        if self._db.shared:
            async with self._db.write() as tx:
                taken = [
                    _bill(row) for row in await tx.execute(_BILLS.with_for_update(skip_locked=True), {"most": limit})
                ]
                yield taken
                await _forget(tx, taken)
            return
        async with self._db.read() as tx:  # nobody else sends: writers needn't wait meanwhile
            found = [_bill(row) for row in await tx.execute(_BILLS, {"most": limit})]
        yield found
        if found:
            async with self._db.write() as tx:
                await _forget(tx, found)


async def _forget(tx: AsyncConnection, bills: list[StorageBill]) -> None:
    if bills:
        await tx.execute(_FORGET, [{"its_id": bill.id} for bill in bills])


def _storage(row: Any) -> Storage:
    return Storage(**{name: getattr(row, name) for name in _FIELDS})


def _bill(row: Any) -> StorageBill:
    return StorageBill(row.id, row.organization_id, row.mb_days, row.amount, row.at)


def _insert(tx: AsyncConnection, table: Table) -> Any:
    return (postgresql.insert if tx.dialect.name == "postgresql" else sqlite.insert)(table)
