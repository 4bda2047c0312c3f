"""Schedules, and what they fired when, as rows."""

from dataclasses import fields
from datetime import datetime
from typing import Any

from sqlalchemy import Row, delete, func, select, update

from kit.db import Database
from scheduler.billing import from_kept, kept
from scheduler.schedule import Schedule
from scheduler.store.tables import fires, schedules
from scheduler.store.workflow_rows import WorkflowRows

_SCHEDULE = [schedules.c[item.name] for item in fields(Schedule)]
# What changes in the life of a schedule.
_MUTABLE = ("next_fire_at", "last_fired_at", "last_run_id", "last_skipped_at", "last_error", "failures")


class ScheduleRows(WorkflowRows):
    """The part of a write transaction that is about schedules."""

    async def count_schedules(self, organization_id: str) -> int:
        query = select(func.count()).where(schedules.c.organization_id == organization_id)
        return int((await self._execute(query)).scalar_one())

    async def insert_schedule(self, schedule: Schedule) -> None:
        await self._write(schedules.insert(), vars(schedule) | {"billing": kept(schedule.billing)})

    async def delete_schedule(self, organization_id: str, schedule_id: str) -> bool:
        """Whether it was there."""
        mine = (schedules.c.id == schedule_id, schedules.c.organization_id == organization_id)
        return await self._change(delete(schedules).where(*mine)) > 0

    async def delete_schedules(self, organization_id: str, workflow_id: str) -> None:
        """The organization's of one workflow."""
        these = (schedules.c.organization_id == organization_id, schedules.c.workflow_id == workflow_id)
        await self._change(delete(schedules).where(*these))

    async def claim(self, schedule_id: str, due: datetime, following: datetime | None) -> bool:
        """Moves `next_fire_at` on from `due`. Nobody waits for another transaction's row: several go through the same
        ones, in any order.
        """
        still = (schedules.c.id == schedule_id, schedules.c.next_fire_at == due)
        free = select(schedules.c.id).where(*still).with_for_update(skip_locked=True)
        moved = update(schedules).where(schedules.c.id.in_(free)).values(next_fire_at=following)
        return await self._change(moved) > 0

    async def save_schedule(self, schedule: Schedule) -> None:
        values = {name: getattr(schedule, name) for name in _MUTABLE}
        await self._write(update(schedules).where(schedules.c.id == schedule.id).values(values))

    async def was_fired(self, schedule_id: str, at: datetime) -> bool:
        query = select(fires.c.run_id).where(fires.c.schedule_id == schedule_id, fires.c.due_at == at)
        return (await self._execute(query)).first() is not None

    async def add_fire(self, schedule_id: str, at: datetime, run_id: str) -> None:
        await self._write(fires.insert(), {"schedule_id": schedule_id, "due_at": at, "run_id": run_id})

    async def forget_fires(self, schedule_id: str, before: datetime) -> None:
        await self._change(delete(fires).where(fires.c.schedule_id == schedule_id, fires.c.due_at < before))

    async def _change(self, statement: Any) -> int:
        """How many rows it changed; one that changed none is no write."""
        changed = int((await self._execute(statement)).rowcount)
        self.writes += changed > 0
        return changed


class ScheduleReads:
    """What is asked about schedules outside of a write transaction."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def list_schedules(self, organization_id: str, *, limit: int, after: str) -> list[Schedule]:
        """In the order of their making."""
        mine = (schedules.c.organization_id == organization_id, schedules.c.id > after)
        query = select(*_SCHEDULE).where(*mine).order_by(schedules.c.id).limit(limit)
        async with self._db.read() as connection:
            return [_schedule(row) for row in await connection.execute(query)]

    async def due(self, now: datetime, limit: int) -> list[Schedule]:
        """Longest due first."""
        query = (
            select(*_SCHEDULE).where(schedules.c.next_fire_at <= now).order_by(schedules.c.next_fire_at).limit(limit)
        )
        async with self._db.read() as connection:
            return [_schedule(row) for row in await connection.execute(query)]

    async def next_fire(self) -> datetime | None:
        """When the first one is due."""
        soonest = schedules.c.next_fire_at
        query = select(soonest).where(soonest.is_not(None)).order_by(soonest).limit(1)
        async with self._db.read() as connection:
            return (await connection.execute(query)).scalar_one_or_none()


def _schedule(row: Row[Any]) -> Schedule:
    return Schedule(**dict(row._mapping) | {"billing": from_kept(row.billing)})  # noqa: SLF001  # SQLAlchemy's public name
