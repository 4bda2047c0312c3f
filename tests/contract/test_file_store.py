"""The port FileStore of filestore/files.py: on the fake and on SQL."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from filestore.model import Content, File, Stored
from filestore.store import SqlFileStore
from kit.db import open_db
from kit.errors import Conflict
from tests.databases import database_url
from tests.fakes.memory_files import MemoryFileStore

NOW = datetime(2026, 1, 1, 12, 0, 0, 123456, tzinfo=UTC)
HOUR = timedelta(hours=1)
CONTENT = Content("text/plain", Stored("ab" * 32, 6 * 2**30), "files/_1/file_1/1")
MOST = 2**40
Store = MemoryFileStore | SqlFileStore


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of the database; empty for the fake."""
    return "" if request.param == "memory" else database_url(request, request.param, tmp_path, "filestore")


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    if not url:
        yield MemoryFileStore()
        return
    async with open_db(url) as database:
        yield SqlFileStore(database)


def a_file(file_id: str, expires_at: datetime = NOW + HOUR) -> File:
    return File(file_id, "org_a", "../grüße.txt", NOW, expires_at)


async def test_a_file_comes_back_as_it_was(store: Store) -> None:
    await store.add(a_file("file_1"))
    assert await store.get("file_1") == a_file("file_1")
    assert await store.get("file_2") is None


async def test_an_upload_is_recorded_once(store: Store) -> None:
    await store.add(a_file("file_1"))
    filled = replace(a_file("file_1"), content=CONTENT, expires_at=NOW + 2 * HOUR)
    await store.fill(filled, "", MOST, NOW)
    assert await store.get("file_1") == filled
    for file_id in ("file_1", "file_unknown"):
        with pytest.raises(Conflict):
            await store.fill(replace(filled, id=file_id, expires_at=NOW), "", MOST, NOW)
    assert await store.get("file_1") == filled


async def test_of_many_uploads_at_once_one_is_recorded(store: Store) -> None:
    await store.add(a_file("file_1"))
    contents = [replace(CONTENT, kept_as=f"files/aa/file_1/{n}") for n in range(5)]
    filled = [replace(a_file("file_1"), content=content, expires_at=NOW) for content in contents]
    told = await asyncio.gather(*(store.fill(file, "", MOST, NOW) for file in filled), return_exceptions=True)
    assert sorted(type(one).__name__ for one in told) == ["Conflict"] * 4 + ["NoneType"]
    assert await store.get("file_1") == filled[told.index(None)]


async def test_files_of_before_have_no_key_of_their_own(store: Store) -> None:
    await store.add(a_file("file_1"))
    await store.fill(replace(a_file("file_1"), content=replace(CONTENT, kept_as="")), "", MOST, NOW)
    found = await store.get("file_1")
    assert found is not None
    assert found.storage_key == found.folder


async def test_the_expired_come_oldest_first_until_they_are_removed(store: Store) -> None:
    for file_id, hours in (("file_1", 3), ("file_2", 1), ("file_3", 2), ("file_4", 9)):
        await store.add(a_file(file_id, NOW + hours * HOUR))
    assert await store.expired(NOW, 10) == []
    assert [file.id for file in await store.expired(NOW + 3 * HOUR, 10)] == ["file_2", "file_3", "file_1"]
    assert [file.id for file in await store.expired(NOW + 3 * HOUR, 1)] == ["file_2"]
    for _ in range(2):
        await store.remove(a_file("file_2"), NOW)
    assert [file.id for file in await store.expired(NOW + 3 * HOUR, 10)] == ["file_3", "file_1"]
