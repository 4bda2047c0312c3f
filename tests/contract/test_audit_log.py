"""The port of keys/audit.py on both engines: who sees what, in which order, and that nobody changes it."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from keys.audit import Audit, Entry
from keys.audit_store import SqlAuditLog, note
from kit.db import Database, open_db
from kit.errors import Invalid
from tests.databases import database_url

NOW = datetime(2026, 1, 1, 12, 0, 0, 123456, tzinfo=UTC)


@pytest.fixture(params=["sqlite", "postgres"])
async def db(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    async with open_db(database_url(request, request.param, tmp_path, "keys")) as db:
        yield db


def entry(number: int, whose: str = "org_a", actor: str = "org_first") -> Entry:
    return Entry(NOW, "key.issued", f"key_{number}", whose, "key_0", actor, {"n": number}, id=f"aud_{number}")


async def add(db: Database, *entries: Entry) -> None:
    async with db.write() as tx:
        for one in entries:
            await note(tx, one)


async def test_an_organization_sees_what_it_did_and_what_was_done_to_it_newest_first(db: Database) -> None:
    log = Audit(SqlAuditLog(db))
    entries = [entry(1), entry(2, "org_b"), entry(3, "org_first"), entry(4, "org_a", "org_a")]
    await add(db, *entries)
    assert (await log.page("org_a", 0, "")).items == [entries[3], entries[0]]
    assert (await log.page("org_first", 0, "")).items == [entries[2], entries[1], entries[0]]
    assert (await log.page("org_b", 0, "")).items == [entries[1]]
    assert (await log.page("", 0, "")).items == []


async def test_it_comes_in_pages(db: Database) -> None:
    log = Audit(SqlAuditLog(db))
    await add(db, *(entry(n, actor="org_a" if n % 2 else "org_first") for n in range(1, 6)))
    first = await log.page("org_a", 2, "")
    second = await log.page("org_a", 2, first.next)
    third = await log.page("org_a", 2, second.next)
    subjects = [one.subject for page in (first, second, third) for one in page.items]
    assert subjects == [f"key_{n}" for n in (5, 4, 3, 2, 1)]
    assert third.next == ""
    for limit in (-1, 1001):
        with pytest.raises(Invalid):
            await log.page("org_a", limit, "")


async def test_an_entry_goes_with_its_transaction(db: Database) -> None:
    async def broken() -> None:
        async with db.write() as tx:
            await note(tx, entry(1))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await broken()
    assert await SqlAuditLog(db).page("org_a", 9, "") == []


CHANGES = [
    *("UPDATE audit SET act = 'nothing'", "UPDATE audit SET data = '{}' WHERE id = 'aud_1'"),
    *("DELETE FROM audit", "DELETE FROM audit WHERE id = 'aud_1'", "TRUNCATE audit"),
    (
        "INSERT OR REPLACE INTO audit SELECT id, at, 'nothing', subject, organization_id, actor_key_id, "
        "actor_organization_id, data FROM audit"
    ),
]
ONLY_POSTGRESQL, ONLY_SQLITE = "TRUNCATE", "INSERT OR REPLACE"


@pytest.mark.parametrize("change", CHANGES)
async def test_nobody_changes_it(db: Database, change: str) -> None:
    await add(db, entry(1))
    unknown = change.startswith(ONLY_SQLITE if db.shared else ONLY_POSTGRESQL)
    said = "syntax error" if unknown else "append-only"

    async def execute() -> None:
        async with db.write() as tx:
            await tx.execute(text(change))

    with pytest.raises(DBAPIError, match=said):
        await execute()
    assert await SqlAuditLog(db).page("org_a", 9, "") == [entry(1)]


async def test_an_entry_comes_once(db: Database) -> None:
    await add(db, entry(1))
    with pytest.raises(DBAPIError):
        await add(db, replace(entry(1), act="another"))
    assert await SqlAuditLog(db).page("org_a", 9, "") == [entry(1)]
