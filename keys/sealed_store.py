"""All that is sealed, wherever it lies. A table with a box in it is named in `SEALED`: a new KEK reaches it then."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column, LargeBinary, and_, func, select, tuple_, update

from keys.hook_store import hooks
from keys.hooks import bound_of, place_of
from keys.model import SYSTEM_ORGANIZATION
from keys.receipt_store import receipt_keys
from keys.receipts import receipt_key_place
from keys.rewrap import Box
from keys.sealing import FORMAT, ID_BYTES, OLD_FORMAT
from keys.store import secrets
from keys.webhook_store import webhook_secrets
from keys.webhooks import PLACE
from kit.db import Database


@dataclass(frozen=True)
class SealedColumn:
    """`place`: (organization, name, what it is bound to besides) of a row of its table."""

    column: Column[Any]
    place: Callable[[Any], tuple[str, str, str]]

    @property
    def kind(self) -> str:
        """`table.column`."""
        return f"{self.column.table.name}.{self.column.name}"


SEALED = (
    SealedColumn(secrets.c.sealed, lambda row: (row.organization_id, row.name, row.hosts)),
    SealedColumn(webhook_secrets.c.current, lambda row: (row.organization_id, PLACE, "")),
    SealedColumn(webhook_secrets.c.previous, lambda row: (row.organization_id, PLACE, "")),
    SealedColumn(
        hooks.c.sealed, lambda row: (row.organization_id, place_of(row.id), bound_of(row.kind, row.reference))
    ),
    SealedColumn(receipt_keys.c.sealed, lambda row: (SYSTEM_ORGANIZATION, receipt_key_place(row.id), "")),
)


class SqlSealedRows:
    """rewrap.SealedRows."""

    def __init__(self, db: Database, columns: Sequence[SealedColumn] = SEALED) -> None:
        self._db = db
        self._columns = {each.kind: each for each in columns}
        self.kinds = tuple(self._columns)

    async def counts(self) -> Counter[bytes]:
        found: Counter[bytes] = Counter()
        async with self._db.read() as tx:
            for each in self._columns.values():
                head = _head(each.column).label("head")
                query = select(head, func.count().label("boxes")).where(each.column.is_not(None)).group_by(head)
                for row in await tx.execute(query):
                    if row.head[:1] in {FORMAT, OLD_FORMAT}:  # else it is broken: it needs no KEK
                        found[row.head if row.head[:1] == FORMAT else OLD_FORMAT] += row.boxes
        return found

    async def others(self, kind: str, head: bytes, after: Sequence[Any], limit: int) -> list[Box]:
        each = self._columns[kind]
        table = each.column.table
        key = tuple(table.primary_key.columns)
        query = select(table).where(each.column.is_not(None) & (_head(each.column) != head))
        if after:
            query = query.where(tuple_(*key) > tuple_(*after))
        async with self._db.read() as tx:
            rows = (await tx.execute(query.order_by(*key).limit(limit))).all()
        boxes = []
        for row in rows:
            organization_id, name, bound = each.place(row)
            where = tuple(row._mapping[column.name] for column in key)  # noqa: SLF001  # SQLAlchemy's public name
            boxes.append(Box(kind, where, organization_id, name, row._mapping[each.column.name], bound))  # noqa: SLF001
        return boxes

    async def replace(self, changed: Sequence[tuple[Box, bytes]]) -> int:
        if not changed:
            return 0
        replaced = 0
        async with self._db.write() as tx:
            for box, made in changed:
                column = self._columns[box.kind].column
                key = column.table.primary_key.columns
                its = and_(*(each == value for each, value in zip(key, box.row, strict=True)), column == box.sealed)
                replaced += (await tx.execute(update(column.table).where(its).values({column.name: made}))).rowcount
        return replaced


def _head(column: Column[Any]) -> Any:
    return func.substr(column, 1, 1 + ID_BYTES, type_=LargeBinary)
