"""SQL through SQLAlchemy's async core, on SQLite (kit.sqlite) or PostgreSQL (kit.postgres); the outbox, and the relay
that publishes it. State and the events about it commit together; the relay sends them afterwards.

A database that is away, locked or out of room is Unavailable, on both: whoever works in the background tries again.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from google.protobuf.message import Message
from sqlalchemy import (
    Column,
    DateTime,
    LargeBinary,
    MetaData,
    String,
    Table,
    TypeDecorator,
    bindparam,
    delete,
    event,
    select,
)
from sqlalchemy.engine import Dialect, make_url
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from kit.bus import Bus
from kit.errors import Invalid, Unavailable
from kit.lifecycle import failpoint
from kit.names import new_id
from kit.postgres import open_postgres
from kit.sqlite import open_sqlite
from kit.telemetry import log

AWAY = "the database can't be used now; try again in a moment"
_EMITTED, _FAILED = "emitted", "failed"
_MOST_AT_ONCE = 100
_GATHERING_SECONDS = 0.02  # one look into the outbox for all that is committed meanwhile


class UtcDateTime(TypeDecorator[datetime]):
    """An aware datetime, stored as UTC without a zone: SQLite keeps none."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)


def outbox_table(metadata: MetaData) -> Table:
    """The outbox of a service; `id` orders it and is the message's id on the bus."""
    return Table(
        "outbox",
        metadata,
        Column("id", String(40), primary_key=True),
        Column("subject", String(200), nullable=False),
        Column("payload", LargeBinary, nullable=False),
    )


class Driver(Protocol):
    """What differs between the engines. `shared`: other processes of the same service may be at work on it."""

    @property
    def writer(self) -> AsyncEngine: ...

    @property
    def reader(self) -> AsyncEngine: ...

    @property
    def shared(self) -> bool: ...

    @property
    def answers(self) -> bool: ...

    def writing(self) -> AbstractAsyncContextManager[None]:
        """Around each write transaction. Errors: Unavailable."""
        ...

    def away(self, error: Exception) -> bool:
        """Whether it is the database that can't be used now, not the statement that is wrong."""
        ...

    def refuses(self, error: Exception) -> bool:
        """Whether a value is one that it can't keep."""
        ...


class Database:
    """`async with db.write() as tx` commits on leaving, rolls back on an error; `db.read()` sees committed state.

    Errors of both: Unavailable; Invalid for text that can't be stored. A statement that failed takes its transaction
    with it, whatever the block does about the error: PostgreSQL would commit nothing, and say that it had.
    """

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._writer = driver.writer
        self._reader = driver.reader
        self.emitted = asyncio.Event()  # events were committed
        event.listen(self._writer.sync_engine, "handle_error", _remember)

    @property
    def shared(self) -> bool:
        """Whether several processes may be at work on it."""
        return self._driver.shared

    def answers(self) -> bool:
        """Whether it can be used, as far as is known."""
        return self._driver.answers

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        with self._problems():
            async with self._driver.writing(), self._writer.begin() as connection:
                info = connection.info
                info[_EMITTED], info[_FAILED] = False, None
                yield connection
                if info[_FAILED] is not None:
                    raise info[_FAILED]
                emitted = info[_EMITTED]
        if emitted:
            self.emitted.set()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        with self._problems():
            async with self._reader.connect() as connection:
                yield connection

    @contextmanager
    def _problems(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if isinstance(error, PoolTimeout) or self._driver.away(error):
                log().warning("db.unavailable", reason=str(getattr(error, "orig", error)))
                raise Unavailable(AWAY, retry_after=timedelta(seconds=1)) from error
            if self._driver.refuses(error):
                raise Invalid("a text is too long, or has a character in it that can't be kept") from error
            raise


def _remember(context: Any) -> None:
    """A statement failed in a write transaction."""
    if context.connection is not None and not context.connection.invalidated:
        info, error = context.connection.info, context.sqlalchemy_exception or context.original_exception
        info[_FAILED] = info.get(_FAILED) or error


@asynccontextmanager
async def open_db(url: str) -> AsyncIterator[Database]:
    """`url` as kit.settings makes it: `sqlite+aiosqlite:///PATH` or `postgresql://…?schema=SERVICE`. The schema is the
    migrations' business. Errors: Unavailable when a server doesn't answer for long; BadSettings when it refuses us.
    """
    opened = open_postgres(url) if make_url(url).get_backend_name() == "postgresql" else open_sqlite(url)
    async with opened as driver:
        yield Database(driver)


async def emit(tx: AsyncConnection, outbox: Table, *events: tuple[str, Message]) -> None:
    """Events, (subject, message) each, that exist if and only if `tx` commits."""
    if events:
        rows = [{"id": new_id("evt"), "subject": name, "payload": it.SerializeToString()} for name, it in events]
        await tx.execute(outbox.insert(), rows)
        tx.info[_EMITTED] = True


async def relay(db: Database, outbox: Table, bus: Bus, *, gathering: float = _GATHERING_SECONDS) -> None:
    """Publishes the outbox, oldest first, for ever: `gathering` seconds after events were committed, and now and then
    to be sure.
    """
    some = _publish_taken if db.shared else _publish_all
    while True:
        db.emitted.clear()
        try:
            sent = await some(db, outbox, bus)
        except Unavailable as problem:
            log().warning("outbox.waiting", reason=problem.message)
            await asyncio.sleep(1.0)
            continue
        if sent < _MOST_AT_ONCE:
            with suppress(TimeoutError):
                async with asyncio.timeout(1.0):  # wait_for of 3.11 forgets a cancel that comes with the event
                    await db.emitted.wait()
            await asyncio.sleep(gathering)


async def _publish_all(db: Database, outbox: Table, bus: Bus) -> int:
    """Nobody else publishes: writers needn't wait meanwhile."""
    async with db.read() as tx:
        rows = (await tx.execute(_oldest(outbox))).all()
    await _publish(bus, rows)
    if rows:
        failpoint("published")
        async with db.write() as tx:
            await _forget(tx, outbox, rows)
    return len(rows)


async def _publish_taken(db: Database, outbox: Table, bus: Bus) -> int:
    """Rows that are locked while they go out, so that two processes don't send the same ones."""
    async with db.write() as tx:
        rows = (await tx.execute(_oldest(outbox).with_for_update(skip_locked=True))).all()
        await _publish(bus, rows)
        if rows:
            failpoint("published")
            await _forget(tx, outbox, rows)
    return len(rows)


def _oldest(outbox: Table) -> Any:
    return select(outbox).order_by(outbox.c.id).limit(_MOST_AT_ONCE)


async def _publish(bus: Bus, rows: Sequence[Any]) -> None:
    # All at once: one by one each would cost a system call and a wait of its own.
    sent = await asyncio.gather(
        *(bus.publish(row.subject, row.payload, event_id=row.id) for row in rows), return_exceptions=True
    )
    for failure in filter(None, sent):
        raise failure


async def _forget(tx: AsyncConnection, outbox: Table, rows: Sequence[Any]) -> None:
    await tx.execute(delete(outbox).where(outbox.c.id == bindparam("which")), [{"which": row.id} for row in rows])
