"""The keys of receipts as rows."""

from typing import Any

from sqlalchemy import Column, Index, LargeBinary, String, Table, select, text, update
from sqlalchemy.exc import IntegrityError

from keys import audit_store
from keys.audit import Entry
from keys.receipts import ReceiptKey
from keys.store import metadata
from kit.db import Database, UtcDateTime

receipt_keys = Table(
    "receipt_keys",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("public", LargeBinary(32), nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("retired_at", UtcDateTime),
    # 1 of the key that signs, else null: there is one at most.
    Column("signs", String(1), nullable=True),
    Index(
        "one_receipt_key_signs",
        "signs",
        unique=True,
        sqlite_where=text("signs is not null"),
        postgresql_where=text("signs is not null"),
    ),
)
_KEY = [receipt_keys.c.id, receipt_keys.c.public, receipt_keys.c.created_at, receipt_keys.c.retired_at]


class SqlReceiptKeyStore:
    """receipts.ReceiptKeyStore."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def current(self) -> tuple[ReceiptKey, bytes] | None:
        query = select(*_KEY, receipt_keys.c.sealed).where(receipt_keys.c.signs == "1")
        async with self._db.read() as tx:
            row = (await tx.execute(query)).first()
        return None if row is None else (_key(row), row.sealed)

    async def replace(self, before: str, made: ReceiptKey, sealed: bytes, told: Entry) -> bool:
        row = {"id": made.id, "public": made.public, "sealed": sealed, "created_at": made.created_at, "signs": "1"}
        retired = {"signs": None, "retired_at": made.created_at}
        try:
            async with self._db.write() as tx:
                if before:
                    its = (receipt_keys.c.id == before) & (receipt_keys.c.signs == "1")
                    if not (await tx.execute(update(receipt_keys).where(its).values(**retired))).rowcount:
                        return False
                await tx.execute(receipt_keys.insert().values(**row))
                await audit_store.note(tx, told)
        except IntegrityError:
            return False
        return True

    async def all(self) -> list[ReceiptKey]:
        async with self._db.read() as tx:
            rows = await tx.execute(select(*_KEY).order_by(receipt_keys.c.id.desc()))
            return [_key(row) for row in rows]


def _key(row: Any) -> ReceiptKey:
    return ReceiptKey(row.id, row.public, row.created_at, row.retired_at)
