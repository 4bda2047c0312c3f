"""The port FileStore of filestore/files.py: on the fake and on SQL."""

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
CONTENT = Content("text/plain", Stored("ab" * 32, 6 * 2**30))
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
    async with store.filling("file_1", CONTENT, NOW + 2 * HOUR):
        pass
    filled = replace(a_file("file_1"), content=CONTENT, expires_at=NOW + 2 * HOUR)
    assert await store.get("file_1") == filled
    for file_id in ("file_1", "file_unknown"):
        with pytest.raises(Conflict):
            async with store.filling(file_id, replace(CONTENT, media_type="a/b"), NOW):
                raise AssertionError("entered")
    assert await store.get("file_1") == filled


async def test_an_upload_that_fails_while_it_is_kept_is_not_recorded(store: Store) -> None:
    await store.add(a_file("file_1"))
    with pytest.raises(OSError, match="disk full"):
        async with store.filling("file_1", CONTENT, NOW):
            raise OSError("disk full")
    assert await store.get("file_1") == a_file("file_1")
    async with store.filling("file_1", CONTENT, NOW):
        pass


async def test_the_expired_come_oldest_first_until_they_are_removed(store: Store) -> None:
    for file_id, hours in (("file_1", 3), ("file_2", 1), ("file_3", 2), ("file_4", 9)):
        await store.add(a_file(file_id, NOW + hours * HOUR))
    assert await store.expired(NOW, 10) == []
    assert [file.id for file in await store.expired(NOW + 3 * HOUR, 10)] == ["file_2", "file_3", "file_1"]
    assert [file.id for file in await store.expired(NOW + 3 * HOUR, 1)] == ["file_2"]
    await store.remove("file_2")
    await store.remove("file_2")
    assert [file.id for file in await store.expired(NOW + 3 * HOUR, 10)] == ["file_3", "file_1"]
