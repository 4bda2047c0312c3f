"""The store as the use cases see it: reads, and works that run inside shared write transactions."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from kit.db import Database
from scheduler.model import Run
from scheduler.store.bill_rows import BillReads, BillRows
from scheduler.store.commits import GroupCommit
from scheduler.store.delivery_rows import DeliveryReads, DeliveryRows
from scheduler.store.queue_rows import QueueReads
from scheduler.store.run_rows import RunReads
from scheduler.store.schedule_rows import ScheduleReads, ScheduleRows
from scheduler.store.workflow_rows import WorkflowReads

T = TypeVar("T")


class Tx(ScheduleRows, DeliveryRows, BillRows):
    """One write transaction; tells of the runs that it changed once it is committed."""

    def __init__(self, connection: AsyncConnection, listeners: Sequence[Callable[[Run], None]]) -> None:
        super().__init__(connection)
        self._listeners = listeners

    def committed(self) -> None:
        for run in self.changed:
            for changed in self._listeners:
                changed(run)


class Store(RunReads, QueueReads, WorkflowReads, ScheduleReads, DeliveryReads, BillReads):
    """Each of `listeners` is called with every new state of a run, after its commit and in the order of commits."""

    def __init__(self, db: Database) -> None:
        super().__init__(db)
        self.listeners: list[Callable[[Run], None]] = []
        self._commits: GroupCommit[Tx] = GroupCommit(db, lambda connection: Tx(connection, self.listeners))

    async def write(self, work: Callable[[Tx], Awaitable[T]]) -> T:
        """What `work` returned, committed. It must check before it writes, and touch nothing but its transaction."""
        return await self._commits.run(work)

    async def drain(self) -> None:
        """Waits until all that was handed in is committed."""
        await self._commits.drain()


@asynccontextmanager
async def open_store(db: Database) -> AsyncIterator[Store]:
    """A store whose last writes are committed before `db` may close."""
    store = Store(db)
    try:
        yield store
    finally:
        await store.drain()
