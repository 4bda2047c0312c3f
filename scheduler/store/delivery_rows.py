"""Deliveries as rows. They come into being where the end of their run is told, in that transaction."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import fields
from datetime import datetime
from typing import Any

from sqlalchemy import Row, bindparam, select, text, update

from kit.db import Database, UtcDateTime, emit
from scheduler.delivery import Delivery, State, due
from scheduler.delivery_wire import due_message
from scheduler.model import Event, RunEnded
from scheduler.store.tables import deliveries, outbox
from scheduler.store.workflow_rows import WorkflowRows

# Bounds of one look: an organization whose first 200 records all wait for busy receivers has none to send.
MOST_ORGANIZATIONS, MOST_LOOKED_AT = 50, 200
_COLUMNS = [deliveries.c[item.name] for item in fields(Delivery)]
_MUTABLE = ("state", "attempts", "next_attempt_at", "last_status", "last_error", "delivered_at")
_SAVE = (
    update(deliveries)
    .where(deliveries.c.id == bindparam("which"))
    .values({name: bindparam(f"new_{name}") for name in _MUTABLE})
)
# Locked in one order, so that no two transactions wait for each other. SQLite has one writer at a time, and no locks.
_LOCKED = (
    select(*_COLUMNS)
    .where(deliveries.c.id.in_(bindparam("ids", expanding=True)))
    .order_by(deliveries.c.id)
    .with_for_update()
)
# Which organizations have something due, the longest waiting first. One step in the index for each that has anything
# pending, however much that is: what waits for a busy receiver isn't read again and again.
_WAITING = text(
    """
    WITH RECURSIVE pending (organization_id) AS (
        SELECT min(organization_id) FROM deliveries WHERE state = 1
        UNION ALL
        SELECT (SELECT min(d.organization_id) FROM deliveries d
                WHERE d.state = 1 AND d.organization_id > pending.organization_id)
        FROM pending WHERE pending.organization_id IS NOT NULL
    ), waiting (organization_id, since) AS (
        SELECT organization_id, (SELECT min(d.next_attempt_at) FROM deliveries d
                                 WHERE d.state = 1 AND d.organization_id = pending.organization_id)
        FROM pending WHERE organization_id IS NOT NULL
    )
    SELECT organization_id FROM waiting WHERE since <= :now ORDER BY since LIMIT :most
    """
).bindparams(bindparam("now", type_=UtcDateTime))
# As text in the statement: SQLite takes a partial index only where it can see the value.
_PENDING = deliveries.c.state == bindparam(None, int(State.PENDING), literal_execute=True)
_DUE = (
    select(deliveries.c.id, deliveries.c.host)
    .where(_PENDING, deliveries.c.organization_id == bindparam("organization_id"))
    .where(deliveries.c.next_attempt_at <= bindparam("now", type_=UtcDateTime))
    .order_by(deliveries.c.next_attempt_at, deliveries.c.id)
    .limit(MOST_LOOKED_AT)
)


class DeliveryRows(WorkflowRows):
    """The part of a write transaction that is about deliveries."""

    async def tell(self, events: Iterable[Event]) -> None:
        told = list(events)
        await super().tell(told)
        begun = [found for event in told if isinstance(event, RunEnded) and (found := due(event.run))]
        if begun:
            await self._write(deliveries.insert(), [_row(each) for each in begun])
            await emit(self._connection, outbox, due_message())

    async def deliveries(self, ids: Collection[str]) -> list[Delivery]:
        rows = await self._execute(_LOCKED, {"ids": list(ids)})
        return [_delivery(row) for row in rows]

    async def save_deliveries(self, these: Sequence[Delivery]) -> None:
        if these:
            rows = [{f"new_{name}": value for name, value in _row(each).items() if name in _MUTABLE} for each in these]
            await self._write(_SAVE, [row | {"which": each.id} for row, each in zip(rows, these, strict=True)])


class DeliveryReads:
    """What is asked about deliveries outside of a write transaction."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def due_deliveries(
        self, now: datetime, *, without_hosts: Collection[str], without_organizations: Collection[str], limit: int
    ) -> list[str]:
        found: list[str] = []
        async with self._db.read() as connection:
            values = {"now": now, "most": MOST_ORGANIZATIONS + len(without_organizations)}
            for organization_id in list((await connection.execute(_WAITING, values)).scalars()):
                if organization_id not in without_organizations:
                    rows = await connection.execute(_DUE, {"now": now, "organization_id": organization_id})
                    found += [row.id for row in rows if row.host not in without_hosts]
                if len(found) >= limit:
                    break
        return found[:limit]

    async def deliveries_of(self, run_id: str) -> list[Delivery]:
        query = select(*_COLUMNS).where(deliveries.c.run_id == run_id).order_by(deliveries.c.id)
        async with self._db.read() as connection:
            return [_delivery(row) for row in await connection.execute(query)]


def _row(delivery: Delivery) -> dict[str, Any]:
    return vars(delivery) | {"state": int(delivery.state)}


def _delivery(row: Row[*tuple[Any, ...]]) -> Delivery:
    values = dict(row._mapping)  # noqa: SLF001  # SQLAlchemy's public name
    return Delivery(**values | {"state": State(row.state)})
