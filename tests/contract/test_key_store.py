"""The ports of keys/issue.py, organizations.py, verify.py and vault.py: on the fakes and on SQL."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from mesh.events.v1 import events_pb2
from sqlalchemy import select

from keys.audit import Entry
from keys.audit_store import SqlAuditLog
from keys.limits import Binding, Budget, Rates
from keys.model import Key, KeyKind, KnownKey, Organization, SecretInfo
from keys.store import SqlKeyStore, SqlSecretStore, outbox
from keys.vault import Sealing
from kit.db import Database, open_db
from kit.errors import NotFound
from tests.databases import database_url
from tests.fakes.memory_keys import MemoryKeyStore, MemorySecretStore

NOW = datetime(2026, 1, 1, 12, 0, 0, 123456, tzinfo=UTC)
ORG_A = Organization("org_a", "a", first=True, created_at=NOW)
ORG_B = Organization("org_b", "b", first=False, created_at=NOW, rates=Rates(5, None))


async def noted(db: Database) -> list[Entry]:
    """The audit log, oldest first."""
    return [entry for name in ("org_a", "org_b") for entry in reversed(await SqlAuditLog(db).page(name, 1000, ""))]


class ToldKeyStore(SqlKeyStore):
    """With the events that wait in the outbox, and the audit log."""

    async def noted(self) -> list[Entry]:
        return await noted(self._db)

    async def revoked(self) -> list[str]:
        return [events_pb2.KeyRevoked.FromString(payload).key_id for payload in await waiting(self._db, "key.revoked")]


class ToldSecretStore(SqlSecretStore):
    """With the events that wait in the outbox, and the audit log."""

    async def noted(self) -> list[Entry]:
        return await noted(self._db)

    async def changed(self) -> list[tuple[str, str]]:
        events = map(events_pb2.SecretChanged.FromString, await waiting(self._db, "secret.changed"))
        return [(event.organization_id, event.name) for event in events]


async def waiting(db: Database, subject: str) -> list[bytes]:
    async with db.read() as tx:
        rows = await tx.execute(select(outbox.c.payload).where(outbox.c.subject == f"event.{subject}"))
        return [row.payload for row in rows]


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of the database; empty for the fakes."""
    return "" if request.param == "memory" else database_url(request, request.param, tmp_path, "keys")


@pytest.fixture
async def db(url: str) -> AsyncIterator[Database | None]:
    if not url:
        yield None
        return
    async with open_db(url) as database:
        yield database


@pytest.fixture
async def store(db: Database | None) -> MemoryKeyStore | ToldKeyStore:
    made = MemoryKeyStore() if db is None else ToldKeyStore(db)
    async with made.change() as change:
        await change.add_organization(ORG_A, 7)
        await change.add_organization(ORG_B)
    return made


@pytest.fixture
async def secret_store(db: Database | None) -> MemorySecretStore | ToldSecretStore:
    if db is None:
        return MemorySecretStore()
    async with SqlKeyStore(db).change() as change:
        for name in ("org_a", "org_b"):
            await change.add_organization(Organization(name, name, first=False, created_at=NOW))
    return ToldSecretStore(db)


Store = MemoryKeyStore | ToldKeyStore
Secrets = MemorySecretStore | ToldSecretStore


def a_key(key_id: str, organization_id: str = "org_a") -> Key:
    return Key(key_id, organization_id, "näme", KeyKind.ONE_TIME, "cwotk-abcd", ("run", "run:x"), NOW)


async def add(store: Store, *keys: Key) -> None:
    async with store.change() as change:
        for key in keys:
            await change.add(key, key.id.encode())


async def test_a_key_comes_back_as_it_was(store: Store) -> None:
    plain = a_key("key_1")
    full = replace(
        a_key("key_2", "org_b"),
        expires_at=NOW + timedelta(days=1),
        revoked_at=NOW,
        successor_id="key_3",
        bind=Binding("org_x.greet", "/a%2Fb", "0" * 64),
        budget=Budget("key:key_0", 2**53 - 1),
        rates=Rates(None, 7),
    )
    spent = replace(a_key("key_4"), budget=Budget("key:key_4", 0), bind=Binding(path="/"), rates=Rates(1, 1))
    successor = replace(a_key("key_5"), shared_id="key:key_1")
    await add(store, plain, full, spent, successor)
    assert await store.by_hash(b"key_1") == KnownKey(plain, first_organization=True, credit=7)
    found = KnownKey(full, first_organization=False, credit=0, organization_rates=ORG_B.rates)
    assert await store.by_hash(b"key_2") == found
    assert await store.by_hash(b"key_3") is None
    assert await store.page("org_a", 9, "") == [plain, spent, successor]
    async with store.change() as change:
        assert await change.get("org_a", "key_1") == plain
        assert await change.get("org_b", "key_1") is None
        assert await change.get("org_a", "key_9") is None


async def test_pages_are_by_id_and_of_one_organization(store: Store) -> None:
    keys = [a_key(f"key_{n}") for n in (3, 1, 2)]
    await add(store, *keys, a_key("key_4", "org_b"))
    assert [key.id for key in await store.page("org_a", 2, "")] == ["key_1", "key_2"]
    assert [key.id for key in await store.page("org_a", 2, "key_2")] == ["key_3"]
    assert await store.page("org_a", 2, "key_3") == []


async def test_saving_changes_the_state_and_tells_a_revocation_once(store: Store) -> None:
    await add(store, a_key("key_1"))
    shorter = replace(a_key("key_1"), expires_at=NOW, successor_id="key_2")
    async with store.change() as change:
        await change.save(shorter)
    assert await store.by_hash(b"key_1") == KnownKey(shorter, first_organization=True, credit=7)
    assert await store.revoked() == []
    for _ in range(2):
        async with store.change() as change:
            await change.save(replace(shorter, revoked_at=NOW))
    assert await store.revoked() == ["key_1"]


async def test_an_error_undoes_everything_the_event_too(store: Store) -> None:
    await add(store, a_key("key_1"))

    async def broken() -> None:
        async with store.change() as change:
            await change.save(replace(a_key("key_1"), revoked_at=NOW))
            await change.add(a_key("key_2"), b"key_2")
            await change.set_rates("org_a", Rates(1, 1))
            await change.note(an_entry())
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await broken()
    assert await store.by_hash(b"key_1") == KnownKey(a_key("key_1"), first_organization=True, credit=7)
    assert await store.by_hash(b"key_2") is None
    assert await store.revoked() == []
    assert await store.noted() == []


async def test_a_key_needs_its_organization(store: Store) -> None:
    with pytest.raises(NotFound):
        await add(store, a_key("key_1", "org_z"))


async def test_which_organizations_there_are(store: Store) -> None:
    async with store.change() as change:
        assert await change.organization_exists(first=True)
        assert not await change.organization_exists(first=False)
        await change.add_organization(Organization("org_system", "system", first=False, created_at=NOW))
        assert await change.organization_exists(first=False)


async def test_rates_are_an_organizations_own(store: Store) -> None:
    await add(store, a_key("key_1"), a_key("key_2", "org_b"))
    async with store.change() as change:
        assert await change.set_rates("org_a", Rates(10, 20))
        assert not await change.set_rates("org_z", Rates(10, 20))
        await change.note(an_entry())
    known = KnownKey(a_key("key_1"), first_organization=True, credit=7, organization_rates=Rates(10, 20))
    assert await store.by_hash(b"key_1") == known
    other = KnownKey(a_key("key_2", "org_b"), first_organization=False, organization_rates=ORG_B.rates)
    assert await store.by_hash(b"key_2") == other
    (entry,) = await store.noted()
    assert replace(entry, id="") == replace(an_entry(), id="")
    async with store.change() as change:
        assert await change.set_rates("org_a", Rates())
    assert await store.by_hash(b"key_1") == KnownKey(a_key("key_1"), first_organization=True, credit=7)


def an_entry(act: str = "rates.changed", **data: str) -> Entry:
    return Entry(NOW, act, "org_a", "org_a", "key_1", "org_a", data or {"név": "x\0"})


def a_secret(name: str, *hosts: str, seconds: int = 0) -> SecretInfo:
    return SecretInfo(name, hosts, NOW + timedelta(seconds=seconds))


def sealing(box: bytes) -> Sealing:
    """A box that tells what it is sealed for."""
    return lambda version, bound: b"%s %d %s" % (box, version, bound.encode())


async def sealed(store: Secrets, organization_id: str, *names: str) -> dict[str, tuple[bytes, int, tuple[str, ...]]]:
    """(box, version, hosts) of each, which has been sealed for just these."""
    found = await store.sealed(organization_id, names)
    for one in found.values():
        assert one.box[1:] == b" %d %s" % (one.version, one.bound.encode())
    return {name: (one.box[:1], one.version, one.hosts) for name, one in found.items()}


async def test_secrets_are_put_replaced_read_and_deleted(secret_store: Secrets) -> None:
    await secret_store.put("org_a", a_secret("B"), sealing(b"1"), an_entry())
    await secret_store.put("org_a", a_secret("A", "x.org", "y.org"), sealing(b"2"), an_entry())
    await secret_store.put("org_b", a_secret("A"), sealing(b"3"), an_entry())
    await secret_store.put("org_a", a_secret("B", "z.org", seconds=1), sealing(b"4"), an_entry())
    assert await secret_store.page("org_a", 9, "") == [
        a_secret("A", "x.org", "y.org"),
        a_secret("B", "z.org", seconds=1),
    ]
    assert await secret_store.page("org_a", 1, "") == [a_secret("A", "x.org", "y.org")]
    assert await secret_store.page("org_a", 9, "A") == [a_secret("B", "z.org", seconds=1)]
    assert await sealed(secret_store, "org_a", "A", "B", "C") == {
        "A": (b"2", 1, ("x.org", "y.org")),
        "B": (b"4", 2, ("z.org",)),
    }
    assert await sealed(secret_store, "org_a") == {}
    assert await secret_store.delete("org_a", "A", an_entry())
    assert not await secret_store.delete("org_a", "A", an_entry())
    assert await sealed(secret_store, "org_a", "A") == {}
    assert await sealed(secret_store, "org_b", "A") == {"A": (b"3", 1, ())}
    # The version that was deleted counts as used.
    await secret_store.put("org_a", a_secret("A"), sealing(b"5"), an_entry())
    assert await sealed(secret_store, "org_a", "A") == {"A": (b"5", 3, ())}


async def test_an_organization_has_so_many_secrets(secret_store: Secrets) -> None:
    for name in ("A", "B"):
        assert await secret_store.put("org_a", a_secret(name), sealing(b"1"), an_entry(), 2)
    assert not await secret_store.put("org_a", a_secret("C"), sealing(b"1"), an_entry(), 2)
    assert await secret_store.put("org_a", a_secret("B"), sealing(b"2"), an_entry(), 2)
    assert await secret_store.put("org_b", a_secret("C"), sealing(b"1"), an_entry(), 2)
    at_once = [secret_store.put("org_b", a_secret(name), sealing(b"1"), an_entry(), 2) for name in "DEF"]
    assert sorted(await asyncio.gather(*at_once)) == [False, False, True]
    assert [one.name for one in await secret_store.page("org_a", 9, "")] == ["A", "B"]
    assert len(await secret_store.noted()) == 5


async def test_every_change_of_a_secret_is_told(secret_store: Secrets) -> None:
    await secret_store.put("org_a", a_secret("A"), sealing(b"1"), an_entry("put"))
    await secret_store.put("org_a", a_secret("A"), sealing(b"2"), an_entry("put"))
    await secret_store.delete("org_a", "A", an_entry("delete"))
    await secret_store.delete("org_a", "A", an_entry("delete"))
    assert await secret_store.changed() == [("org_a", "A")] * 3
    assert [entry.act for entry in await secret_store.noted()] == ["put", "put", "delete"]


async def test_a_secret_needs_its_organization(secret_store: Secrets) -> None:
    with pytest.raises(NotFound):
        await secret_store.put("org_z", a_secret("A"), sealing(b"1"), an_entry())
    assert await secret_store.changed() == []
    assert await secret_store.noted() == []
