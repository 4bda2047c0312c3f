"""The port of keys/hooks.py: on the fake and on SQL."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from keys.audit import Entry
from keys.audit_store import SqlAuditLog
from keys.hook_store import SqlHookStore
from keys.hooks import Hook
from keys.limits import Budget
from keys.model import Organization
from keys.store import SqlKeyStore
from kit.db import open_db
from kit.errors import NotFound
from tests.databases import database_url
from tests.fakes.memory_keys import MemoryHookStore

NOW = datetime(2026, 1, 1, 12, 0, 0, 123456, tzinfo=UTC)
FIRST = Hook("hook_1", "org_a", "greet", "slack", NOW, "key_1", Budget("key:key_1", 5))
SECOND = Hook("hook_2", "org_a", "greet", "standard", NOW)


class NotedHookStore(SqlHookStore):
    """With the audit log."""

    async def noted(self) -> list[Entry]:
        return await SqlAuditLog(self._db).page("org_a", 1000, "")


Store = MemoryHookStore | NotedHookStore


def an_entry(act: str) -> Entry:
    return Entry(NOW, act, "hook_1", "org_a")


@pytest.fixture(params=["memory", "sqlite", "postgres"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    if request.param == "memory":
        yield MemoryHookStore()
        return
    url = database_url(request, request.param, tmp_path, "keys")
    async with open_db(url) as db:
        async with SqlKeyStore(db).change() as change:
            for name in ("org_a", "org_b"):
                await change.add_organization(Organization(name, name, first=False, created_at=NOW))
        yield NotedHookStore(db)


async def test_one_is_found_by_its_hash_and_listed_in_order(store: Store) -> None:
    assert await store.add(SECOND, b"2" * 32, b"sealed 2", an_entry("hook.created"), 10)
    assert await store.add(FIRST, b"1" * 32, b"sealed 1", an_entry("hook.created"), 10)
    assert await store.by_hash(b"1" * 32) == (FIRST, b"sealed 1")
    assert await store.by_hash(b"3" * 32) is None
    assert await store.page("org_a", 10, "") == [FIRST, SECOND]
    assert await store.page("org_a", 1, "") == [FIRST]
    assert await store.page("org_a", 10, "hook_1") == [SECOND]
    assert await store.page("org_b", 10, "") == []


async def test_one_is_deleted_by_its_organization_only(store: Store) -> None:
    await store.add(FIRST, b"1" * 32, b"sealed", an_entry("hook.created"), 10)
    assert not await store.delete("org_b", "hook_1", an_entry("hook.deleted"))
    assert await store.delete("org_a", "hook_1", an_entry("hook.deleted"))
    assert not await store.delete("org_a", "hook_1", an_entry("hook.deleted"))
    assert await store.by_hash(b"1" * 32) is None
    assert sorted(entry.act for entry in await store.noted()) == ["hook.created", "hook.deleted"]


async def test_there_are_never_more_than_may_be(store: Store) -> None:
    def made(number: int) -> Hook:
        return replace(FIRST, id=f"hook_{number}")

    added = await asyncio.gather(
        *(store.add(made(n), bytes([n]) * 32, b"s", an_entry("hook.created"), 3) for n in range(6))
    )
    assert sorted(added) == [False] * 3 + [True] * 3
    assert len(await store.page("org_a", 10, "")) == 3
    assert await store.add(
        replace(SECOND, id="hook_b", organization_id="org_b"), b"b" * 32, b"s", an_entry("hook.created"), 3
    )


async def test_it_needs_its_organization(store: Store) -> None:
    with pytest.raises(NotFound):
        await store.add(replace(FIRST, organization_id="org_z"), b"1" * 32, b"s", an_entry("hook.created"), 3)
