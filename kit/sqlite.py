"""SQLite behind kit.db: WAL, `synchronous=FULL`, one writer connection that begins IMMEDIATE (an upgrade from a read
transaction would ignore `busy_timeout`), a few readers.

Statements to SQLite here touch a few rows by an index: microseconds. They run on the event loop; only what may
wait, for a lock or the disk, runs in a thread (docs/decisions/0005: a thread hop a statement costs more than the rest).
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

from sqlalchemy import event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from kit.errors import Unavailable
from kit.settings import private_dir

# How long a writer waits for another process that holds the file's lock. Callers hear of it within a second.
BUSY_MILLISECONDS = 800
_BEGIN_WRITE = "BEGIN IMMEDIATE"
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
# The disk is full, broken or gone, or the file isn't ours any more: nothing that a caller did.
_UNUSABLE = {
    *(sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY),
    *(sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_PROTOCOL),
}


class Sqlite:
    """kit.db.Driver for one file."""

    shared = False
    answers = True

    def __init__(self, url: str, database: str) -> None:
        self.writer = _engine(url, database, writes=True)
        self.reader = _engine(url, database, writes=False)
        self._one_writer = asyncio.Lock()
        self._locked_out = -1.0  # when a writer last gave up waiting for another process

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        """One at a time. Who waited while another gave up doesn't begin to wait anew."""
        now = asyncio.get_running_loop().time
        came = now()
        async with self._one_writer:
            if self._locked_out >= came:
                raise Unavailable("the database is locked by another process", retry_after=timedelta(seconds=1))
            try:
                yield
            except DBAPIError as error:
                if _code(error) in _BUSY:
                    self._locked_out = now()
                raise

    def away(self, error: Exception) -> bool:
        """Whether it is the database that can't be used now, not the statement that is wrong."""
        return isinstance(error, DBAPIError) and _code(error) in _BUSY | _UNUSABLE

    def refuses(self, error: Exception) -> bool:  # noqa: ARG002  # the port's; SQLite takes any text
        """Whether a value can't be kept."""
        return False


def _code(error: DBAPIError) -> int:
    return int(getattr(error.orig, "sqlite_errorcode", None) or 0) & 0xFF


@asynccontextmanager
async def open_sqlite(url: str) -> AsyncIterator[Sqlite]:
    """`sqlite+aiosqlite:///PATH`; the directory is made."""
    database = make_url(url).database
    if database is None:
        raise ValueError("a database URL names a file")
    private_dir(Path(database).parent)
    driver = Sqlite(url, database)
    try:
        yield driver
    finally:
        await driver.reader.dispose()
        await driver.writer.dispose()


def _engine(url: str, database: str, *, writes: bool) -> AsyncEngine:
    async def connect() -> "_Connection":
        return _Connection(database)

    engine = create_async_engine(
        url,
        pool_size=1 if writes else 4,
        max_overflow=0,
        pool_timeout=30,
        async_creator=connect,
        hide_parameters=True,  # errors are logged
    )

    @event.listens_for(engine.sync_engine, "connect")
    def on_connect(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        for pragma in (f"busy_timeout={BUSY_MILLISECONDS}", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
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
    """Waits for the end however often it is cancelled: nobody may use the connection before, nor close it, which would
    crash the process.
    """
    running, cancelled = asyncio.get_running_loop().run_in_executor(None, call), False
    while not running.done():
        try:
            await asyncio.wait([running])
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        running.exception()  # or it would be said that nobody has looked
        raise asyncio.CancelledError
    running.result()
