"""The store as the use cases see it: reads, and works that run inside shared write transactions."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from kit.db import Database
from scheduler.model import Run
from scheduler.store.commits import GroupCommit
from scheduler.store.delivery_rows import DeliveryReads, DeliveryRows
from scheduler.store.run_rows import RunReads
from scheduler.store.workflow_rows import WorkflowReads

T = TypeVar("T")


class Tx(DeliveryRows):
    """One write transaction; tells of the runs that it changed once it is committed."""

    def __init__(self, connection: AsyncConnection, changed: Callable[[Run], None]) -> None:
        super().__init__(connection)
        self._tell_changed = changed

    def committed(self) -> None:
        for run in self.changed:
            self._tell_changed(run)


class Store(RunReads, WorkflowReads, DeliveryReads):
    """`changed(run)` is called for every new state of a run, after its commit and in the order of commits."""

    def __init__(self, db: Database, changed: Callable[[Run], None]) -> None:
        super().__init__(db)
        self._commits: GroupCommit[Tx] = GroupCommit(db, lambda connection: Tx(connection, changed))

    async def write(self, work: Callable[[Tx], Awaitable[T]]) -> T:
        """What `work` returned, committed. It must check before it writes, and touch nothing but its transaction."""
        return await self._commits.run(work)

    async def drain(self) -> None:
        """Waits until all that was handed in is committed."""
        await self._commits.drain()


@asynccontextmanager
async def open_store(db: Database, changed: Callable[[Run], None]) -> AsyncIterator[Store]:
    """A store whose last writes are committed before `db` may close."""
    store = Store(db, changed)
    try:
        yield store
    finally:
        await store.drain()
