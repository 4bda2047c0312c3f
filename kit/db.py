"""SQL through SQLAlchemy's async core; the outbox, and the relay that publishes it.

SQLite: WAL, `synchronous=FULL`, one writer connection that begins IMMEDIATE (an upgrade from a read transaction would
ignore `busy_timeout`), a few readers. State and the events about it commit together; the relay sends them afterwards.

Statements to SQLite here touch a few rows by an index: microseconds. They run on the event loop; only what may
wait, for a lock or the disk, runs in a thread (docs/decisions/0005: a thread hop a statement costs more than the rest).
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

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
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from kit.bus import Bus
from kit.errors import Unavailable
from kit.lifecycle import failpoint
from kit.names import new_id
from kit.settings import private_dir
from kit.telemetry import log

_BEGIN_WRITE = "BEGIN IMMEDIATE"
_EMITTED = "emitted"
_MOST_AT_ONCE = 100
_GATHERING_SECONDS = 0.02  # one look into the outbox for all that is committed meanwhile


class UtcDateTime(TypeDecorator[datetime]):
    """An aware datetime; SQLite keeps no zone, so it is stored as UTC."""

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


class Database:
    """`async with db.write() as tx` commits on leaving, rolls back on an error; `db.read()` sees committed state."""

    def __init__(self, writer: AsyncEngine, reader: AsyncEngine) -> None:
        self._writer = writer
        self._reader = reader
        self._one_writer = asyncio.Lock()
        self.emitted = asyncio.Event()  # events were committed

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        async with self._one_writer, self._writer.begin() as connection:
            connection.info[_EMITTED] = False
            yield connection
            emitted = connection.info[_EMITTED]
        if emitted:
            self.emitted.set()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        async with self._reader.connect() as connection:
            yield connection


@asynccontextmanager
async def open_db(url: str) -> AsyncIterator[Database]:
    """`url` is SQLAlchemy's, `sqlite+aiosqlite:///PATH`. The schema is the migrations' business."""
    database = make_url(url).database
    if database is None:
        raise ValueError("a database URL names a file")
    private_dir(Path(database).parent)
    writer, reader = _engine(url, database, writes=True), _engine(url, database, writes=False)
    try:
        yield Database(writer, reader)
    finally:
        await reader.dispose()
        await writer.dispose()


def _engine(url: str, database: str, *, writes: bool) -> AsyncEngine:
    async def connect() -> _Connection:
        return _Connection(database)

    engine = create_async_engine(
        url, pool_size=1 if writes else 4, max_overflow=0, pool_timeout=30, async_creator=connect
    )

    @event.listens_for(engine.sync_engine, "connect")
    def on_connect(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=5000", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        if not writes:
            cursor.execute("PRAGMA query_only=ON")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def on_begin(connection: Any) -> None:
        connection.exec_driver_sql(_BEGIN_WRITE if writes else "BEGIN")

    return engine


class _Cursor:
    """aiosqlite's cursor as far as SQLAlchemy uses it."""

    def __init__(self, cursor: sqlite3.Cursor) -> None:
        self._cursor = cursor

    async def __aenter__(self) -> Self:
        return self

    async def execute(self, sql: str, parameters: Sequence[Any] = ()) -> None:
        if sql == _BEGIN_WRITE:  # waits for other processes' locks
            await _in_thread(lambda: self._cursor.execute(sql))
        else:
            self._cursor.execute(sql, parameters)

    async def executemany(self, sql: str, parameters: Iterable[Sequence[Any]]) -> None:
        self._cursor.executemany(sql, parameters)

    async def fetchall(self) -> list[Any]:
        return self._cursor.fetchall()

    async def close(self) -> None:
        self._cursor.close()

    def __getattr__(self, name: str) -> Any:  # description, rowcount, lastrowid
        return getattr(self._cursor, name)


class _Connection:
    """aiosqlite's connection as far as SQLAlchemy uses it. Transactions begin and end by statements of ours only."""

    def __init__(self, database: str) -> None:
        self._connection = sqlite3.connect(database, isolation_level=None, check_same_thread=False)

    def cursor(self) -> _Cursor:
        return _Cursor(self._connection.cursor())

    async def commit(self) -> None:
        await _in_thread(self._connection.commit)

    async def rollback(self) -> None:
        self._connection.rollback()

    async def create_function(self, *arguments: Any, **options: Any) -> None:
        self._connection.create_function(*arguments, **options)

    async def close(self) -> None:
        self._connection.close()

    def stop(self) -> None:
        self._connection.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


async def _in_thread(call: Callable[[], object]) -> None:
    """Waits for the end even if cancelled: nobody else may use the connection before."""
    running = asyncio.get_running_loop().run_in_executor(None, call)
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise


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
    oldest = select(outbox).order_by(outbox.c.id).limit(_MOST_AT_ONCE)
    gone = delete(outbox).where(outbox.c.id == bindparam("which"))
    while True:
        db.emitted.clear()
        rows: Sequence[Any] = ()
        try:
            async with db.read() as tx:
                rows = (await tx.execute(oldest)).all()
            # All at once: one by one each would cost a system call and a wait of its own.
            sent = await asyncio.gather(
                *(bus.publish(row.subject, row.payload, event_id=row.id) for row in rows), return_exceptions=True
            )
            for failure in filter(None, sent):
                raise failure
            if rows:
                failpoint("published")
                async with db.write() as tx:
                    await tx.execute(gone, [{"which": row.id} for row in rows])
        except Unavailable as problem:
            log().warning("outbox.waiting", reason=problem.message)
            await asyncio.sleep(1.0)
            continue
        if len(rows) < _MOST_AT_ONCE:
            with suppress(TimeoutError):
                await asyncio.wait_for(db.emitted.wait(), timeout=1.0)
            await asyncio.sleep(gathering)
