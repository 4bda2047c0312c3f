"""The queue, its placements and the executors' leases as rows."""

from datetime import datetime
from typing import Any

from sqlalchemy import Row, Select, bindparam, delete, func, or_, select, update

from kit.db import Database
from scheduler.fleet import Lease
from scheduler.model import Input, Queued, Run, Status
from scheduler.store.run_rows import RUN, RunRows, literal, to_run
from scheduler.store.tables import executors, inputs, runs

_GIVEN = (inputs.c.request, inputs.c.body, inputs.c.body_digest)
_WAITING = (runs.c.status == literal(Status.QUEUED)) & runs.c.claimed_at.is_(None)
_CLAIMED = (runs.c.status == literal(Status.QUEUED)) & runs.c.claimed_at.is_not(None)
_RUNNING = runs.c.status == literal(Status.RUNNING)
_LANE, _CALLER = runs.c.lane == bindparam("which"), runs.c.caller_id == bindparam("whose")
_ORDER = (runs.c.priority, runs.c.due_at, runs.c.id)
_HEADS = (
    select(*RUN, *_GIVEN)
    .join(inputs)
    .where(_WAITING, _LANE, _CALLER, runs.c.due_at <= bindparam("now"))
    .order_by(*_ORDER)
    .limit(bindparam("most"))
    .with_for_update(skip_locked=True, of=runs)
)
_QUEUED = select(*RUN, *_GIVEN).join(inputs).where(_CLAIMED)
_LEASES = select(executors)


class QueueRows(RunRows):
    """The part of a write transaction that is about the queue."""

    async def heads(self, lane: int, caller_id: str, now: datetime, limit: int) -> list[Queued]:
        """The first of a caller's runs that may start, locked against other schedulers."""
        values = {"which": lane, "whose": caller_id, "now": now, "most": limit}
        return [_queued(row) for row in await self._execute(_HEADS, values)]

    async def placed_on(self, executor: str, incarnation: str, limit: int) -> list[Run]:
        """Runs that are there, or on the way there, held: a report about them may be on its way into the database."""
        there = (runs.c.executor == executor) & (runs.c.incarnation == incarnation)
        ids = (await self._execute(select(runs.c.id).where(there, or_(_RUNNING, _CLAIMED)).limit(limit))).scalars()
        held = (await self.runs(list(ids))).values()
        return [run for run in held if run.placed and (run.executor, run.incarnation) == (executor, incarnation)]

    async def lease(self, address: str) -> Lease | None:
        row = (await self._execute(_LEASES.where(executors.c.address == address).with_for_update())).first()
        return None if row is None else _lease(row)

    async def save_lease(self, lease: Lease, *, new: bool) -> None:
        if new:
            await self._write(executors.insert(), vars(lease))
        else:
            await self._write(update(executors).where(executors.c.address == lease.address).values(vars(lease)))

    async def delete_leases(self, expired_before: datetime) -> None:
        if (await self._execute(_LEASES.where(executors.c.expires_at < expired_before))).first():
            await self._write(delete(executors).where(executors.c.expires_at < expired_before))

    async def tree(self, root_id: str) -> list[Run]:
        """What of a tree isn't over."""
        query = select(*RUN).where(runs.c.root_id == root_id, runs.c.status < literal(Status.SUCCEEDED))
        return [to_run(row) for row in await self._execute(query)]


class QueueReads:
    """What is asked about the queue outside of a write transaction."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def callers_waiting(self, lane: int, after: str, limit: int) -> list[str]:
        """Organizations with runs in this lane, in the order of their ids, behind `after`."""
        async with self._db.read() as connection:
            rows = await connection.execute(_CALLERS, {"which": lane, "after": after, "most": limit})
            return list(rows.scalars())

    async def count_queued(self) -> int:
        """All that waits, or is about to start."""
        query = select(func.count()).where(runs.c.status == literal(Status.QUEUED))
        async with self._db.read() as connection:
            return int((await connection.execute(query)).scalar_one())

    async def waiting_of(self, caller_id: str, limit: int) -> int:
        """How many of an organization's runs wait; counts up to `limit`."""
        mine = select(runs.c.id).where(_WAITING, runs.c.lane == 1, runs.c.caller_id == caller_id).limit(limit)
        async with self._db.read() as connection:
            return int((await connection.execute(select(func.count()).select_from(mine.subquery()))).scalar_one())

    async def position(self, run: Run, limit: int) -> int:
        """Its place among its caller's runs, from 1; counts up to `limit`."""
        due = run.due_at or run.created_at
        earlier = or_(
            runs.c.priority < run.priority,
            (runs.c.priority == run.priority) & (runs.c.due_at < due),
            (runs.c.priority == run.priority) & (runs.c.due_at == due) & (runs.c.id < run.id),
        )
        mine = (runs.c.lane == (0 if run.urgent else 1)) & (runs.c.caller_id == run.caller_id)
        ahead = select(runs.c.id).where(_WAITING, mine, earlier).limit(limit).subquery()
        async with self._db.read() as connection:
            return 1 + int((await connection.execute(select(func.count()).select_from(ahead))).scalar_one())

    async def claimed(self, before: datetime, limit: int) -> list[Queued]:
        """Given to an executor before that time, and not reported as started."""
        query = _QUEUED.where(runs.c.claimed_at < before).order_by(runs.c.claimed_at).limit(limit)
        async with self._db.read() as connection:
            return [_queued(row) for row in await connection.execute(query)]

    async def busy(self) -> list[tuple[str, str]]:
        """(run, caller) of all that takes a place of its own on an executor, or is about to."""
        pair = select(runs.c.id, runs.c.caller_id).where(runs.c.lane == 1)
        async with self._db.read() as connection:
            rows = await connection.execute(pair.where(_RUNNING))
            claimed = await connection.execute(pair.where(_CLAIMED))
            return [(row.id, row.caller_id) for row in (*rows, *claimed)]

    async def placements(self) -> set[tuple[str, str]]:
        """(executor, incarnation) of all that is placed."""
        pair = (runs.c.executor, runs.c.incarnation)
        async with self._db.read() as connection:
            rows = await connection.execute(select(*pair).where(_RUNNING).distinct())
            claimed = await connection.execute(select(*pair).where(_CLAIMED).distinct())
            return {(row.executor, row.incarnation) for row in (*rows, *claimed)}

    async def leases(self) -> list[Lease]:
        async with self._db.read() as connection:
            return [_lease(row) for row in await connection.execute(_LEASES)]


def _callers() -> Select[Any]:
    """Distinct callers by one step through the index each, however long their queues are."""
    waiting = _WAITING & _LANE
    first = select(func.min(runs.c.caller_id).label("id")).where(waiting, runs.c.caller_id > bindparam("after"))
    found = first.cte("found", recursive=True)
    following = select(func.min(runs.c.caller_id)).where(waiting, runs.c.caller_id > found.c.id).scalar_subquery()
    found = found.union_all(select(following).where(found.c.id.is_not(None)))
    return select(found.c.id).where(found.c.id.is_not(None)).limit(bindparam("most"))


_CALLERS = _callers()


def _queued(row: Row[*tuple[Any, ...]]) -> Queued:
    return Queued(to_run(row), Input(row.request, row.body, row.body_digest))


def _lease(row: Row[*tuple[Any, ...]]) -> Lease:
    return Lease(**row._mapping)  # noqa: SLF001  # SQLAlchemy's public name
