"""The table of files, and the repository that maps its rows to the model."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Column, Index, String, Table, delete, select, update

from filestore import storage_store as storage
from filestore.model import Content, File, Stored
from filestore.storage_store import metadata, rooms
from kit.db import Database, UtcDateTime
from kit.errors import Conflict

files = Table(
    "files",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("organization_id", String(40), nullable=False),
    Column("name", String(255), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
    # The upload: all four or none; before 0.2 without the last.
    Column("media_type", String(255)),
    Column("size", BigInteger),
    Column("digest", String(64)),
    Column("kept_as", String(100)),
    Index("files_by_expiry", "expires_at"),
)

_MOST_ROOMS = 500


class SqlFileStore:
    """Files in SQL."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def add(self, file: File) -> None:
        row = {
            "id": file.id,
            "organization_id": file.organization_id,
            "name": file.name,
            "created_at": file.created_at,
            "expires_at": file.expires_at,
        }
        async with self._db.write() as tx:
            await tx.execute(files.insert().values(**row))

    async def get(self, file_id: str) -> File | None:
        async with self._db.read() as tx:
            row = (await tx.execute(select(files).where(files.c.id == file_id))).first()
        return None if row is None else _file(row)

    async def fill(self, file: File, room_id: str, most: int, now: datetime) -> None:
        content = file.content
        if content is None:
            raise ValueError("nothing was uploaded")
        values = {
            "media_type": content.media_type,
            "size": content.stored.size,
            "digest": content.stored.digest,
            "kept_as": content.kept_as or None,
            "expires_at": file.expires_at,
        }
        empty = (files.c.id == file.id) & files.c.digest.is_(None)
        async with self._db.write() as tx:
            held = await storage.hold(tx, file.organization_id, now)
            if (await tx.execute(update(files).where(empty).values(**values))).rowcount == 0:
                raise Conflict("this file was uploaded already, or has expired; ask for a new address by POST /file")
            await storage.check_quota(tx, held, content.stored.size, most, room_id, now)
            await storage.leave(tx, room_id)
            await storage.save(tx, held.with_file(content.stored.size, now))

    async def expired(self, now: datetime, limit: int) -> list[File]:
        query = select(files).where(files.c.expires_at <= now).order_by(files.c.expires_at).limit(limit)
        async with self._db.read() as tx:
            return [_file(row) for row in await tx.execute(query)]

    async def remove(self, file: File, now: datetime) -> None:
        mine = files.c.id == file.id
        async with self._db.write() as tx:
            held = await storage.hold(tx, file.organization_id, now)
            row = (await tx.execute(select(files.c.size, files.c.expires_at).where(mine))).first()
            await tx.execute(delete(files).where(mine))
            if row is not None and row.size is not None:
                await storage.save(tx, held.without_file(row.size, row.expires_at, now))

    async def forget_rooms(self, now: datetime) -> None:
        async with self._db.read() as tx:
            ids = (await tx.execute(select(rooms.c.id).where(rooms.c.expires_at <= now).limit(_MOST_ROOMS))).scalars()
            old = list(ids)
        if old:
            async with self._db.write() as tx:
                await tx.execute(delete(rooms).where(rooms.c.id.in_(old), rooms.c.expires_at <= now))


def _file(row: Any) -> File:
    content = None if row.digest is None else Content(row.media_type, Stored(row.digest, row.size), row.kept_as or "")
    return File(row.id, row.organization_id, row.name, row.created_at, row.expires_at, content)
