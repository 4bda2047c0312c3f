"""Bills as rows, and what runs cost with all below them. Bills that are held are let go where the end of their root is
told, in that transaction.
"""

from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import fields
from datetime import datetime
from operator import itemgetter
from typing import Any

from sqlalchemy import Row, bindparam, delete, exists, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from kit.db import Database
from scheduler.bill import Bill
from scheduler.model import Event, Run, RunEnded, Status
from scheduler.store.tables import bills, nested_costs, runs
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
_OVER = runs.c.status >= bindparam(None, int(Status.SUCCEEDED), literal_execute=True)
_OVER_ROOTS = (
    select(bills.c.root_id)
    .where(_state(HELD), exists().where(runs.c.id == bills.c.root_id, _OVER))
    .distinct()
    .limit(bindparam("most"))
)
_LOST_ROOTS = (
    select(bills.c.root_id)
    .where(_state(HELD), bills.c.created_at < bindparam("before"), ~exists().where(runs.c.id == bills.c.root_id))
    .distinct()
    .limit(bindparam("most"))
)
_BELOW = select(nested_costs.c.run_id, nested_costs.c.amount).where(
    nested_costs.c.run_id.in_(bindparam("ids", expanding=True))
)
# Both engines know it.
_ADD = text(
    """
    INSERT INTO nested_costs (run_id, root_id, amount) VALUES (:run_id, :root_id, :amount)
    ON CONFLICT (run_id) DO UPDATE SET amount = nested_costs.amount + excluded.amount
    """
)
_OF_TREES = nested_costs.c.root_id.in_(bindparam("roots", expanding=True))
_FREE = update(nested_costs).where(_OF_TREES, nested_costs.c.amount != 0).values(amount=0)
_IS_HELD = select(bills.c.run_id).where(_state(HELD), _OF_ROOT).limit(1)
# By the index of live runs of a tree.
_DEEPER = (
    select(runs.c.id).where(runs.c.root_id == bindparam("root"), ~_OVER, runs.c.depth > bindparam("depth")).limit(1)
)


class BillRows(WorkflowRows):
    """The part of a write transaction that is about bills."""

    def __init__(self, connection: AsyncConnection) -> None:
        super().__init__(connection)
        self._charges: Counter[tuple[str, str]] = Counter()
        self._freed: set[str] = set()

    async def keep_bills(self, these: Sequence[Bill]) -> None:
        """Those that aren't kept yet."""
        if these:
            await self._write(_KEEP, [_row(bill) for bill in sorted(these, key=_key)])

    async def charge_above(self, run: Run, amount: int) -> None:
        """Adds what it was charged to what those above it cost with all below them."""
        self.writes += 1
        self._charges.update(dict.fromkeys(((one, run.root_id) for one in run.billing.above), amount))

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
            self._freed.add(root_id)
        await self._write(_LET_GO if charged else _LET_GO_FREE, {"root": root_id})

    async def finish(self) -> None:
        """Rows that siblings share are changed last, and in one order for all: nobody waits long for them."""
        if self._charges:
            rows = [{"run_id": above, "root_id": root, "amount": its} for (above, root), its in self._charges.items()]
            await self._connection.execute(_ADD, sorted(rows, key=itemgetter("run_id")))
        if self._freed:
            await self._connection.execute(_FREE, {"roots": sorted(self._freed)})
        await super().finish()


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

    async def over_roots(self, limit: int) -> list[str]:
        """Those that are over although bills of theirs are held."""
        async with self._db.read() as connection:
            return list((await connection.execute(_OVER_ROOTS, {"most": limit})).scalars())

    async def lost_roots(self, before: datetime, limit: int) -> list[str]:
        """Those that aren't there, of which bills have been held since before then."""
        async with self._db.read() as connection:
            return list((await connection.execute(_LOST_ROOTS, {"before": before, "most": limit})).scalars())

    async def costs_below(self, ids: Collection[str]) -> Mapping[str, int]:
        """What the runs below each of these were charged, however deep; nothing, of those that are missing."""
        async with self._db.read() as connection:
            rows = await connection.execute(_BELOW, {"ids": list(ids)})
            return {row.run_id: row.amount for row in rows}

    async def holds(self, root_id: str) -> bool:
        """Whether bills wait for the end of this root."""
        async with self._db.read() as connection:
            return (await connection.execute(_IS_HELD, {"root": root_id})).first() is not None

    async def goes_on(self, root_id: str, depth: int) -> bool:
        """Whether a run of this tree isn't over that is deeper."""
        async with self._db.read() as connection:
            return (await connection.execute(_DEEPER, {"root": root_id, "depth": depth})).first() is not None


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
