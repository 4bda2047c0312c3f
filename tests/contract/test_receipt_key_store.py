"""The port of keys/receipts.py: on the fake and on SQL."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from keys.audit import Entry
from keys.audit_store import SqlAuditLog
from keys.receipt_store import SqlReceiptKeyStore
from keys.receipts import ReceiptKey
from kit.db import open_db
from tests.databases import database_url
from tests.fakes.memory_keys import MemoryReceiptKeyStore

NOW = datetime(2026, 1, 1, 12, 0, 0, 123456, tzinfo=UTC)
LATER = NOW + timedelta(days=90)
FIRST, SECOND = ReceiptKey("rck_1", b"1" * 32, NOW), ReceiptKey("rck_2", b"2" * 32, LATER)
Store = MemoryReceiptKeyStore | SqlReceiptKeyStore


def told(key_id: str = "rck_1") -> Entry:
    return Entry(NOW, "receipt_key.rotated", key_id, "org_system", "key_1", "org_first", {"retired_key_id": None})


async def noted(store: Store) -> list[Entry]:
    if isinstance(store, MemoryReceiptKeyStore):
        return store.noted[::-1]
    return await SqlAuditLog(store._db).page("org_first", 100, "")


@pytest.fixture(params=["memory", "sqlite", "postgres"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    if request.param == "memory":
        yield MemoryReceiptKeyStore()
        return
    async with open_db(database_url(request, request.param, tmp_path, "keys")) as db:
        yield SqlReceiptKeyStore(db)


async def test_one_follows_the_other(store: Store) -> None:
    assert await store.current() is None
    assert await store.all() == []
    assert await store.replace("", FIRST, b"sealed 1", told())
    assert await store.current() == (FIRST, b"sealed 1")
    assert await store.replace("rck_1", SECOND, b"sealed 2", told())
    assert await store.current() == (SECOND, b"sealed 2")
    assert await store.all() == [SECOND, replace(FIRST, retired_at=LATER)]


async def test_whoever_comes_late_changes_nothing(store: Store) -> None:
    assert await store.replace("", FIRST, b"sealed 1", told())
    assert not await store.replace("", SECOND, b"sealed 2", told())
    assert not await store.replace("rck_0", SECOND, b"sealed 2", told())
    assert await store.all() == [FIRST]
    assert await store.replace("rck_1", SECOND, b"sealed 2", told())
    assert not await store.replace("rck_1", ReceiptKey("rck_3", b"3" * 32, LATER), b"sealed 3", told())
    assert [key.id for key in await store.all()] == ["rck_2", "rck_1"]


async def test_the_audit_log_tells_of_what_was_done_and_of_nothing_else(store: Store) -> None:
    assert await noted(store) == []
    first, second = told(), told("rck_2")
    assert await store.replace("", FIRST, b"sealed 1", first)
    assert not await store.replace("", SECOND, b"sealed 2", told("rck_2"))
    assert not await store.replace("rck_0", SECOND, b"sealed 2", told("rck_2"))
    assert await store.replace("rck_1", SECOND, b"sealed 2", second)
    assert sorted(await noted(store), key=lambda one: one.subject) == [first, second]


async def test_of_many_at_once_one_is_made(store: Store) -> None:
    async def make(n: int) -> bool:
        return await store.replace("", ReceiptKey(f"rck_{n}", bytes([n]) * 32, NOW), b"sealed", told())

    assert sum(await asyncio.gather(*(make(n) for n in range(8)))) == 1
    assert len(await store.all()) == 1
