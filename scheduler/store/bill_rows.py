"""Bills as rows, and what runs cost with all below them. Bills that are held are let go where the end of their root is
told, in that transaction.
"""

from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import fields
from datetime import datetime
from typing import Any

from sqlalchemy import Row, bindparam, delete, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from kit.db import Database
from scheduler.bill import Below, Bill
from scheduler.model import Event, RunEnded, Status
from scheduler.store.tables import bills, runs
from scheduler.store.workflow_rows import WorkflowRows

DUE, HELD = 1, 2


def _state(number: int) -> Any:
    """As text in the statement: SQLite takes a partial index only where it can see the value."""
    return bills.c.state == bindparam(None, number, literal_execute=True)


_FIELDS = [item.name for item in fields(Bill) if item.name != "held"]
_KEY = ("run_id", "attempt", "purse_id")
# A report may come twice: what is there stays. Both engines know it.
_KEEP = text(
    f"""
    INSERT INTO bills ({", ".join(_FIELDS)}, state) VALUES ({", ".join(f":{name}" for name in _FIELDS)}, :state)
    ON CONFLICT DO NOTHING
    """  # noqa: S608  # names of columns
).bindparams(*(bindparam(name, type_=bills.c[name].type) for name in _FIELDS))
_OF_ROOT = bills.c.root_id == bindparam("root")
_FREE_RUNS = (
    update(runs)
    .where(runs.c.id.in_(select(bills.c.run_id).where(_state(HELD), _OF_ROOT)), runs.c.cost_own != 0)
    .values(cost_own=0)
)
_LET_GO = update(bills).where(_state(HELD), _OF_ROOT).values(state=DUE)
_LET_GO_FREE = _LET_GO.values(charge=0)
_DUE = select(bills).where(_state(DUE)).order_by(bills.c.created_at).limit(bindparam("most"))
_DUE_TAKEN = _DUE.with_for_update(skip_locked=True)
_FORGET = delete(bills).where(*(bills.c[name] == bindparam(f"its_{name}") for name in _KEY))
_HELD = (
    select(bills.c.root_id, func.min(bills.c.created_at).label("since"))
    .where(_state(HELD))
    .group_by(bills.c.root_id)
    .order_by(func.min(bills.c.created_at))
    .limit(bindparam("most"))
)
_BELOW = text(
    """
    WITH RECURSIVE below (top, id, cost, status) AS (
        SELECT parent_id, id, cost_own, status FROM runs WHERE parent_id IN :ids AND parent_id <> ''
        UNION ALL
        SELECT below.top, runs.id, runs.cost_own, runs.status FROM below JOIN runs ON runs.parent_id = below.id
        WHERE runs.parent_id <> ''
    )
    SELECT top, sum(cost) AS cost, sum(CASE WHEN status < :over THEN 1 ELSE 0 END) AS under_way
    FROM below GROUP BY top
    """
).bindparams(bindparam("ids", expanding=True), bindparam("over", int(Status.SUCCEEDED)))
_IS_HELD = select(bills.c.run_id).where(_state(HELD), _OF_ROOT).limit(1)


class BillRows(WorkflowRows):
    """The part of a write transaction that is about bills."""

    async def keep_bills(self, these: Sequence[Bill]) -> None:
        """Those that aren't kept yet."""
        if these:
            await self._write(_KEEP, [_row(bill) for bill in sorted(these, key=_key)])

    async def tell(self, events: Iterable[Event]) -> None:
        told = list(events)
        await super().tell(told)
        for event in told:
            if isinstance(event, RunEnded) and event.run.decides:
                await self.let_go(event.run.id, charged=event.run.pays)

    async def let_go(self, root_id: str, *, charged: bool) -> None:
        """The bills of a tree that are held are on their way from now on, as they are or with 0."""
        if not charged:
            await self._write(_FREE_RUNS, {"root": root_id})
        await self._write(_LET_GO if charged else _LET_GO_FREE, {"root": root_id})


class BillReads:
    """Bills on their way, and what they come to."""

    def __init__(self, db: Database) -> None:
        self._db = db

    @asynccontextmanager
    async def due_bills(self, limit: int) -> AsyncIterator[list[Bill]]:
        """The oldest, for whoever asked alone. They are gone when the block is left without an error."""
        if self._db.shared:
            async with self._db.write() as connection:
                found = [_bill(row) for row in await connection.execute(_DUE_TAKEN, {"most": limit})]
                yield found
                await _forget(connection, found)
            return
        async with self._db.read() as connection:  # nobody else sends: writers needn't wait meanwhile
            found = [_bill(row) for row in await connection.execute(_DUE, {"most": limit})]
        yield found
        if found:
            async with self._db.write() as connection:
                await _forget(connection, found)

    async def held_roots(self, limit: int) -> dict[str, datetime]:
        """Of which bills are held, the longest first, and since when."""
        async with self._db.read() as connection:
            return {row.root_id: row.since for row in await connection.execute(_HELD, {"most": limit})}

    async def below(self, ids: Collection[str]) -> Mapping[str, Below]:
        """The runs below each of these, however deep; those with none below them are missing."""
        async with self._db.read() as connection:
            rows = await connection.execute(_BELOW, {"ids": list(ids)})
            return {row.top: Below(int(row.cost), int(row.under_way)) for row in rows}

    async def holds(self, root_id: str) -> bool:
        """Whether bills wait for the end of this root."""
        async with self._db.read() as connection:
            return (await connection.execute(_IS_HELD, {"root": root_id})).first() is not None


async def _forget(connection: AsyncConnection, these: list[Bill]) -> None:
    if these:
        await connection.execute(_FORGET, [{f"its_{name}": getattr(bill, name) for name in _KEY} for bill in these])


def _key(bill: Bill) -> tuple[str, int, str]:
    return bill.run_id, bill.attempt, bill.purse_id


def _row(bill: Bill) -> dict[str, Any]:
    row = {name: value for name, value in vars(bill).items() if name != "held"}
    return row | {"state": HELD if bill.held else DUE}


def _bill(row: Row[*tuple[Any, ...]]) -> Bill:
    return Bill(**{name: getattr(row, name) for name in _FIELDS}, held=row.state == HELD)
