"""The port of keys/webhooks.py: on the fake and on SQL."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from keys.audit import Entry
from keys.audit_store import SqlAuditLog
from keys.model import Organization
from keys.store import SqlKeyStore
from keys.webhook_store import SqlWebhookStore
from keys.webhooks import SealedPair
from kit.db import open_db
from kit.errors import NotFound
from tests.databases import database_url
from tests.fakes.memory_keys import MemoryWebhookStore

NOW = datetime(2026, 1, 1, 12, 0, 0, 123456, tzinfo=UTC)
FIRST = SealedPair(b"1", NOW)


class NotedWebhookStore(SqlWebhookStore):
    """With the audit log."""

    async def noted(self) -> list[Entry]:
        return await SqlAuditLog(self._db).page("org_a", 1000, "")


Store = MemoryWebhookStore | NotedWebhookStore


def an_entry() -> Entry:
    return Entry(NOW, "webhook_secret.rotated", "webhook-secret", "org_a")


@pytest.fixture(params=["memory", "sqlite", "postgres"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    if request.param == "memory":
        yield MemoryWebhookStore()
        return
    url = database_url(request, request.param, tmp_path, "keys")
    async with open_db(url) as db:
        async with SqlKeyStore(db).change() as change:
            for name in ("org_a", "org_b"):
                await change.add_organization(Organization(name, name, first=False, created_at=NOW))
        yield NotedWebhookStore(db)


async def test_the_first_one_stays(store: Store) -> None:
    assert await store.find("org_a") is None
    added = await asyncio.gather(*(store.add("org_a", replace(FIRST, current=b"%d" % n)) for n in range(5)))
    assert sorted(added) == [False] * 4 + [True]
    assert await store.find("org_a") == replace(FIRST, current=b"%d" % added.index(True))
    assert await store.find("org_b") is None


async def test_it_changes_from_what_it_is(store: Store) -> None:
    await store.add("org_a", FIRST)

    def next_one(before: SealedPair, version: int) -> SealedPair:
        return SealedPair(before.current + b"+", NOW, before.current, NOW + timedelta(hours=1), version)

    await asyncio.gather(*(store.change("org_a", next_one, an_entry()) for _ in range(3)))
    assert await store.find("org_a") == SealedPair(b"1+++", NOW, b"1++", NOW + timedelta(hours=1), version=3)
    assert await store.change("org_b", next_one, an_entry()) is None
    assert [entry.act for entry in await store.noted()] == ["webhook_secret.rotated"] * 3


async def test_it_needs_its_organization(store: Store) -> None:
    with pytest.raises(NotFound):
        await store.add("org_z", FIRST)
