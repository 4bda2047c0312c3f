"""Group commit: the writes that wait while one transaction commits go into the next one together.

One transaction a write would cost an fsync and several thread hops each; a burst of a hundred shares a few instead.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Generic, Protocol, TypeVar

from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from kit.db import Database
from kit.errors import Unavailable
from kit.telemetry import log

MOST_AT_ONCE = 256


class Writing(Protocol):
    """A transaction that counts what it wrote."""

    writes: int

    async def finish(self) -> None:
        """Called once, after all works, before the commit."""
        ...

    def committed(self) -> None:
        """Called once, right after the commit, in the order of commits."""
        ...


W = TypeVar("W", bound=Writing)
T = TypeVar("T")
Work = Callable[[W], Awaitable[Any]]


class GroupCommit(Generic[W]):
    """Runs works one after another inside shared transactions.

    A work that raises before it wrote fails alone. One that raises after a write, or because a statement failed, takes
    its transaction with it, and the others are done again, each by itself: so a work must have no effects but those on
    its transaction. Who ran into a unique key is done again as well: its own checks see who was faster, and say so.
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
        working = worked = False
        try:
            async with self._db.write() as connection:
                working = True
                tx = self._begin(connection)
                results = [await _attempt(work, tx) for work, _ in batch]
                await tx.finish()
                working, worked = False, True
        except Unavailable as away:
            if working:
                raise
            # It didn't begin, or a server went away while it was asked to commit, and may have done it: then nobody is
            # told that he may try again. Who has waited meanwhile doesn't begin to wait anew.
            _fail(batch, Unavailable(away.message) if worked and self._db.shared else away)
            waited, self._waiting = self._waiting, []
            _fail(waited, away)
            return
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
        if len(batch) == 1 and not isinstance(error, IntegrityError):
            _fail(batch, error)
            return
        for index, one in enumerate(batch):
            try:
                await self._commit([one])
            except Unavailable as away:  # the others would wait as long, one after another
                _fail(batch[index:], away)
                return
            except IntegrityError as lost:
                if len(batch) > 1:
                    await self._apart([one], lost)
                else:
                    _fail([one], lost)
            except Exception as its:  # noqa: BLE001  # it belongs to whoever waits for the work
                _fail([one], its)


def _fail(batch: list[tuple[Work[W], "asyncio.Future[Any]"]], error: Exception) -> None:
    for _, future in batch:
        if not future.done():
            future.set_exception(error)


async def _attempt(work: Work[W], tx: W) -> tuple[Any, Exception | None]:
    before = tx.writes
    try:
        return await work(tx), None
    except Exception as error:
        if tx.writes != before or isinstance(error, SQLAlchemyError):  # the whole transaction is lost with a statement
            raise
        return None, error
