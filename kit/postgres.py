"""PostgreSQL behind kit.db, by asyncpg: a schema per service, READ COMMITTED, bounded pools.

A probe asks the server several times a second. Without an answer every connection is cut, so that who waits hears of it
at once, not when a statement's time is up. A slow statement is another matter: that has the server's own time limits.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit
from weakref import WeakSet

import asyncpg
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from kit.errors import Unavailable
from kit.settings import BadSettings
from kit.telemetry import log

POOL_SIZE = 5
PATIENCE_SECONDS = 30.0  # at the start: services and server may be started in any order
PROBE_SECONDS = 0.2  # from one answer to the next question
SILENCE_SECONDS = 0.7  # no answer for so long: it is away. Together below a second
CONNECT_SECONDS = 5.0
STATEMENT_SECONDS, CLIENT_SECONDS = 10.0, 12.0  # by the server's clock, by ours
_SESSION = {
    # A row that another transaction holds: those of ours take milliseconds.
    "lock_timeout": "500ms",
    "statement_timeout": f"{STATEMENT_SECONDS:.0f}s",
    # Longer than the relay waits for the bus with rows locked. Who is gone without a word mustn't hold them for ever.
    "idle_in_transaction_session_timeout": "20s",
    "timezone": "UTC",
    "jit": "off",  # our statements are done before it has compiled them
}
_POOL: Any = {"max_overflow": 0, "pool_timeout": 0.9, "pool_use_lifo": True, "hide_parameters": True}
# SQLSTATEs, or their classes, that say nothing against the statement: connection; out of room, memory, connections;
# being shut down; its files; turned into a standby; a transaction idle too long; lost to another one; waited too long.
_NOT_NOW = ("08", "53", "57P", "58", "25006", "25P03", "40001", "40P01", "55P03", "57014")
_BAD_VALUE = ("22001", "22021", "22P05")  # too long; U+0000 or no UTF-8
_REFUSED = ("28", "3D")  # who we say we are; no such database
FAILURES = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


async def connect(url: str, settings: Mapping[str, str], **options: Any) -> asyncpg.Connection:
    """One whose search path is the URL's schema; `settings` hold for its session. Errors: FAILURES."""
    query = dict(parse_qsl(urlsplit(url).query))
    schema = query.pop("schema")
    query.pop("pool_size", None)
    server = {"search_path": schema, "application_name": f"runmesh {schema}", **settings}
    dsn = urlsplit(url)._replace(query=urlencode(query)).geturl()
    return await asyncpg.connect(dsn, timeout=CONNECT_SECONDS, server_settings=server, **options)


class Link:
    """Whether the server answers, and what is open to it."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._open: WeakSet[asyncpg.Connection] = WeakSet()
        self._opening: set[asyncio.Timeout] = set()
        self._probe: asyncpg.Connection | None = None
        self.answers = True

    async def connect(self, **settings: str) -> asyncpg.Connection:
        """For a pool. Errors: Unavailable."""
        self.check()
        try:
            async with asyncio.timeout(CONNECT_SECONDS) as limit:
                self._opening.add(limit)
                try:
                    connection = await connect(self._url, _SESSION | settings, command_timeout=CLIENT_SECONDS)
                finally:
                    self._opening.discard(limit)
        except FAILURES as error:
            if not _gone(error):  # else the probe says so, once
                log().warning("db.not_connected", reason=reason(error))
            raise away() from error
        self._open.add(connection)
        return connection

    def check(self) -> None:
        """Errors: Unavailable while the server doesn't answer."""
        if not self.answers:
            raise away()

    async def first(self, patience: float) -> None:
        """Waits until it answers. Errors: Unavailable after `patience` seconds; BadSettings when it refuses us."""
        until = asyncio.get_running_loop().time() + patience
        while True:
            try:
                return await _soon(self._ask(), CONNECT_SECONDS, self.hang_up)
            except FAILURES as error:
                if isinstance(error, asyncpg.ClientConfigurationError) or _state(error).startswith(_REFUSED):
                    raise BadSettings([f"RUNMESH_DATABASE_URL: {error}"]) from error
                if asyncio.get_running_loop().time() > until:
                    raise Unavailable(f"no PostgreSQL answers: {reason(error)}") from error
            await asyncio.sleep(0.2)

    async def watch(self) -> None:
        """For ever."""
        while True:
            try:
                await _soon(self._ask(), SILENCE_SECONDS, self.hang_up)
                self._back()
            except FAILURES as error:
                if _gone(error):
                    self._lost(reason(error))
                else:  # a refusal, such as of one more connection, is an answer, too
                    self._back()
            await asyncio.sleep(PROBE_SECONDS)

    async def _ask(self) -> None:
        if self._probe is not None:
            with suppress(*FAILURES):  # one connection that was cut says nothing of the server
                await self._probe.execute("SELECT 1")
                return
            self.hang_up()
        self._probe = await connect(self._url, _SESSION)
        await self._probe.execute("SELECT 1")

    def _back(self) -> None:
        if not self.answers:
            log().info("db.back")
        self.answers = True

    def _lost(self, why: str) -> None:
        if self.answers:
            log().error("db.away", reason=why)
        self.answers = False
        for connection in list(self._open):
            connection.terminate()
        for limit in self._opening:
            limit.reschedule(asyncio.get_running_loop().time())

    def hang_up(self) -> None:
        """The probe's end."""
        if self._probe is not None:
            self._probe.terminate()
        self._probe = None


class Postgres:
    """kit.db.Driver for one schema."""

    shared = True

    def __init__(self, link: Link, pool_size: int) -> None:
        self._link = link
        self.writer = _engine(link, pool_size, "READ COMMITTED")
        # Single statements: a transaction around one would cost two more ways to the server.
        self.reader = _engine(link, pool_size, "AUTOCOMMIT", default_transaction_read_only="on")

    @property
    def answers(self) -> bool:
        """Whether the server does."""
        return self._link.answers

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        """As many at once as the pool has room for."""
        self._link.check()
        yield

    def away(self, error: Exception) -> bool:
        """Whether it is the database that can't be used now, not the statement that is wrong."""
        if not isinstance(error, DBAPIError):  # asyncpg's own: the connection was just being set up
            return isinstance(error, asyncpg.PostgresError | asyncpg.InterfaceError)
        # A plan of before a migration: the next attempt makes another.
        stale = error.orig is not None and isinstance(error.orig.__cause__, asyncpg.InvalidCachedStatementError)
        return error.connection_invalidated or stale or _state(error).startswith(_NOT_NOW)

    def refuses(self, error: Exception) -> bool:
        """Whether a value can't be kept."""
        return _state(error).startswith(_BAD_VALUE)


def _state(error: BaseException) -> str:
    return str(getattr(getattr(error, "orig", error), "sqlstate", None) or "")


def _gone(error: BaseException) -> bool:
    return (_state(error) or "08").startswith(("08", "57P"))


def away() -> Unavailable:
    """What a caller is told while the server doesn't answer."""
    return Unavailable("the database doesn't answer; try again in a moment", retry_after=timedelta(seconds=1))


@asynccontextmanager
async def open_postgres(url: str) -> AsyncIterator[Postgres]:
    """`pool_size` connections to read, as many to write, and the probe's. Errors: Unavailable, BadSettings."""
    link = Link(url)
    await link.first(PATIENCE_SECONDS)
    watching = asyncio.create_task(link.watch())
    driver = Postgres(link, int(dict(parse_qsl(urlsplit(url).query)).get("pool_size", POOL_SIZE)))
    try:
        yield driver
    finally:
        await driver.reader.dispose()
        await driver.writer.dispose()
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        link.hang_up()


def _engine(link: Link, pool_size: int, isolation: Any, **settings: str) -> AsyncEngine:
    pool = _POOL | {"pool_size": pool_size, "isolation_level": isolation}
    engine = create_async_engine("postgresql+asyncpg://", async_creator=lambda: link.connect(**settings), **pool)

    @event.listens_for(engine.sync_engine, "handle_error")
    def on_error(context: Any) -> None:
        if isinstance(context.original_exception, OSError | TimeoutError):  # asyncpg's own time limit passed
            context.is_disconnect = True
            raise away() from context.original_exception

    @event.listens_for(engine.sync_engine, "checkout")
    def on_checkout(connection: Any, _record: Any, _proxy: Any) -> None:
        link.check()
        if connection.driver_connection.is_closed():  # by the server, or by us when it was away
            raise DisconnectionError

    return engine


async def _soon(work: Coroutine[Any, Any, None], seconds: float, give_up: Callable[[], None]) -> None:
    """Errors: TimeoutError, work's. Time is taken in slices: a pause of this process costs only one."""
    task = asyncio.create_task(work)
    try:
        for _ in range(10):
            await asyncio.wait({task}, timeout=seconds / 10)
            if task.done():
                return task.result()
        raise TimeoutError("no answer")
    finally:
        if not task.done():
            give_up()
            task.cancel()
            await asyncio.wait({task})


def reason(error: BaseException) -> str:
    """One line; the URL isn't in it."""
    return f"{type(error).__name__}: {error}".split("\n", 1)[0]
