"""Group commit: the writes that wait while one transaction commits go into the next one together.

One transaction a write would cost an fsync and several thread hops each; a burst of a hundred shares a few instead.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Generic, Protocol, TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from kit.db import Database
from kit.telemetry import log

MOST_AT_ONCE = 256


class Writing(Protocol):
    """A transaction that counts what it wrote."""

    writes: int

    def committed(self) -> None:
        """Called once, right after the commit, in the order of commits."""
        ...


W = TypeVar("W", bound=Writing)
T = TypeVar("T")
Work = Callable[[W], Awaitable[Any]]


class GroupCommit(Generic[W]):
    """Runs works one after another inside shared transactions.

    A work that raises before it wrote fails alone. One that raises after a write takes its transaction with it, and the
    others are done again, each by itself: so a work must have no effects but those on its transaction.
    """

    def __init__(self, db: Database, begin: Callable[[AsyncConnection], W]) -> None:
        self._db = db
        self._begin = begin
        self._waiting: list[tuple[Work[W], asyncio.Future[Any]]] = []
        self._flushing: asyncio.Task[None] | None = None

    async def run(self, work: Callable[[W], Awaitable[T]]) -> T:
        """What `work` returned, once it is committed. It is committed even if the caller is cancelled meanwhile."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append((work, future))
        if self._flushing is None or self._flushing.done():
            self._flushing = asyncio.create_task(self._flush())
        return await future

    async def drain(self) -> None:
        """Waits until all that was handed in is committed."""
        if self._flushing is not None:
            await asyncio.wait([self._flushing])

    async def _flush(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:MOST_AT_ONCE], self._waiting[MOST_AT_ONCE:]
            try:
                await self._commit(batch)
            except Exception as error:  # noqa: BLE001  # it belongs to whoever waits for the work
                await self._apart(batch, error)
            finally:
                for _, future in batch:
                    future.cancel()  # only those that got no result: the process is ending

    async def _commit(self, batch: list[tuple[Work[W], "asyncio.Future[Any]"]]) -> None:
        async with self._db.write() as connection:
            tx = self._begin(connection)
            results = [await _attempt(work, tx) for work, _ in batch]
        for (_, future), (value, error) in zip(batch, results, strict=True):
            if future.done():
                continue
            if error is None:
                future.set_result(value)
            else:
                future.set_exception(error)
        try:
            tx.committed()
        except Exception:  # noqa: BLE001  # the works are done: they mustn't be done again
            log().exception("commit.not_told")

    async def _apart(self, batch: list[tuple[Work[W], "asyncio.Future[Any]"]], error: Exception) -> None:
        if len(batch) > 1:
            for one in batch:
                try:
                    await self._commit([one])
                except Exception as its:  # noqa: BLE001  # it belongs to whoever waits for the work
                    await self._apart([one], its)
        elif not batch[0][1].done():
            batch[0][1].set_exception(error)


async def _attempt(work: Work[W], tx: W) -> tuple[Any, Exception | None]:
    before = tx.writes
    try:
        return await work(tx), None
    except Exception as error:
        if tx.writes != before:
            raise
        return None, error
