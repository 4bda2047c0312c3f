"""Migrations on PostgreSQL: in the service's schema, one process at a time, never long in anybody's way."""

import asyncio
from collections.abc import Callable

import asyncpg
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from kit.errors import Precondition, Unavailable
from kit.postgres import FAILURES, PATIENCE_SECONDS, Link, connect, reason

TURN_SECONDS = 60.0  # another process may be at it
_SESSION = {
    # A change that waits for a table's lock holds up everybody who comes behind it: better to fail, and start again.
    "lock_timeout": "5s",
    "statement_timeout": "10min",
    "idle_in_transaction_session_timeout": "60s",
}


async def upgrade_postgres(service: str, url: str, apply: Callable[[Connection, str], None]) -> None:
    """Waits for the server, makes the schema, takes its turn, calls `apply` on the connection. Errors: Unavailable,
    Precondition, BadSettings.
    """
    link = Link(url)
    await link.first(PATIENCE_SECONDS)
    link.hang_up()

    async def opened() -> asyncpg.Connection:
        return await connect(url, _SESSION)

    engine = create_async_engine("postgresql+asyncpg://", async_creator=opened, poolclass=NullPool)
    try:
        async with engine.connect() as connection:
            await _take_turn(connection, service)
            await connection.run_sync(apply, service)
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) in {"55P03", "57014"}:
            raise Unavailable(
                f"a migration of {service} had to wait too long ({error.orig}): start it again"
            ) from error
        raise
    except FAILURES as error:
        raise Unavailable(f"the database doesn't answer: {reason(error)}") from error
    finally:
        await engine.dispose()


async def _take_turn(connection: AsyncConnection, service: str) -> None:
    """An advisory lock, which goes with the connection."""
    if (await connection.scalar(text("SHOW server_encoding"))) != "UTF8":
        raise Precondition("the database's encoding must be UTF8: CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0")
    attempt = text("SELECT pg_try_advisory_lock(hashtextextended('runmesh migrations', 0))")
    until = asyncio.get_running_loop().time() + TURN_SECONDS
    while not await connection.scalar(attempt):
        if asyncio.get_running_loop().time() > until:
            raise Unavailable("another process migrates this database; start it again when that is over")
        await asyncio.sleep(0.1)
    if await connection.scalar(text("SELECT to_regnamespace(:name) IS NULL"), {"name": service}):
        await connection.execute(text(f"CREATE SCHEMA {service}"))
    await connection.commit()
