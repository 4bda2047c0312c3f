"""kit.db on both engines: what a transaction promises, and what a database that can't be used is told as."""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing, suppress
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy import func, insert, select, text, update
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, IntegrityError

from keys.store import organizations
from kit.db import Database, open_db
from kit.errors import Invalid, Unavailable
from kit.postgres import connect
from tests.databases import database_url, is_postgres

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def url(database: Callable[[str], str]) -> str:
    return database("keys")


@pytest.fixture
async def db(url: str) -> AsyncIterator[Database]:
    async with open_db(url) as opened:
        yield opened


async def add(db: Database, name: str, *, swallow: bool = False) -> None:
    """An organization of that id and name. `swallow`: a failing statement besides, whose error nobody hears of."""
    async with db.write() as tx:
        await tx.execute(insert(organizations).values(id=name[:40], name=name, first=False, created_at=NOW))
        if swallow:
            with suppress(IntegrityError):
                await tx.execute(insert(organizations).values(id=name, name=name, first=False, created_at=NOW))


async def count(db: Database) -> int:
    async with db.read() as tx:
        return int((await tx.execute(select(func.count()).select_from(organizations))).scalar_one())


async def test_a_transaction_is_all_or_nothing_and_seen_when_it_is_over(db: Database) -> None:
    async with db.write() as tx:
        await tx.execute(insert(organizations).values(id="a", name="a", first=False, created_at=NOW))
        assert await count(db) == 0
    assert await count(db) == 1

    async def broken() -> None:
        async with db.write() as tx:
            await tx.execute(update(organizations).values(name="b"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await broken()
    async with db.read() as tx:
        assert (await tx.execute(select(organizations.c.name, organizations.c.created_at))).one() == ("a", NOW)


async def test_a_failed_statement_takes_its_transaction_with_it(db: Database) -> None:
    """PostgreSQL would roll back, and say that it has committed."""
    with pytest.raises(IntegrityError):
        await add(db, "a", swallow=True)
    assert await count(db) == 0
    await add(db, "b")
    assert await count(db) == 1


async def test_who_reads_cant_write(db: Database) -> None:
    with pytest.raises((DBAPIError, Unavailable)):
        async with db.read() as tx:
            await tx.execute(insert(organizations).values(id="a", name="a", first=False, created_at=NOW))
    assert await count(db) == 0


@pytest.mark.parametrize("name", ["\0", "x" * 201])
async def test_text_that_cant_be_kept(db: Database, url: str, name: str) -> None:
    if is_postgres(url):
        with pytest.raises(Invalid):
            await add(db, name)
        assert await count(db) == 0
    else:
        await add(db, name)


@asynccontextmanager
async def held_by_another_process(url: str) -> AsyncIterator[None]:
    """The organization "a" is being changed."""
    if is_postgres(url):
        other: asyncpg.Connection = await connect(url, {})
        await other.execute("BEGIN; UPDATE organizations SET name = 'other'")
        yield
        await other.close()
        return
    with closing(sqlite3.connect(str(make_url(url).database), isolation_level=None)) as file:
        file.execute("BEGIN IMMEDIATE")
        yield


async def test_what_another_process_holds_is_unavailable_within_a_second(db: Database, url: str) -> None:
    await add(db, "a")

    async def change(name: str) -> None:
        async with db.write() as tx:
            await tx.execute(update(organizations).values(name=name))

    async def told(name: str) -> float:
        began = time.monotonic()
        with pytest.raises(Unavailable) as raised:
            await change(name)
        assert raised.value.retry_after is not None
        return time.monotonic() - began

    async with held_by_another_process(url):
        assert max(await asyncio.gather(*(told(str(number)) for number in range(5)))) < 2
        assert await count(db) == 1
    await change("b")


async def test_however_often_who_writes_is_cancelled_no_connection_is_closed_under_a_statement(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """It crashed the process, by SQLite."""
    url = database_url(request, "sqlite", tmp_path, "keys")
    async with open_db(url) as db:
        async with held_by_another_process(url):
            adding = asyncio.create_task(add(db, "a"))
            for _ in range(5):
                await asyncio.sleep(0.05)
                adding.cancel()
            assert not adding.done()  # a thread of its still waits for the file
            with pytest.raises(asyncio.CancelledError):
                await adding
        await add(db, "b")
        assert await count(db) == 1


async def test_a_statement_that_is_wrong_is_a_bug(db: Database) -> None:
    with pytest.raises(DBAPIError) as raised:
        async with db.read() as tx:
            await tx.execute(text("SELECT secret FROM nowhere WHERE a = :value"), {"value": "sealed"})
    assert "sealed" not in str(raised.value)


async def test_a_disk_that_is_full_is_unavailable(db: Database, url: str) -> None:
    """The errors that a database makes when it has no room; that of PostgreSQL is made up by a function."""
    if is_postgres(url):
        full = "DO $$ BEGIN RAISE EXCEPTION 'no space left on device' USING ERRCODE = 'disk_full'; END $$"
    else:
        full = "CREATE TABLE large AS SELECT zeroblob(10000000)"

    async def fill() -> None:
        async with db.write() as tx:
            if not is_postgres(url):
                await tx.execute(text("PRAGMA max_page_count = 100"))
            await tx.execute(text(full))

    with pytest.raises(Unavailable):
        await fill()
    await add(db, "a")
    assert await count(db) == 1
