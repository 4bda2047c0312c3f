from datetime import UTC, datetime

import pytest

from keys.model import ALL_SCOPES, KeyKind, Organization, Principal
from keys.sealing import PepperedHash
from kit.clock import FakeClock
from tests.fakes.memory_keys import MemoryKeyStore

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(NOW)


@pytest.fixture
def key_hash() -> PepperedHash:
    return PepperedHash(b"p" * 32)


@pytest.fixture
async def keys() -> MemoryKeyStore:
    """A store with the organizations org_a (the first) and org_b."""
    store = MemoryKeyStore()
    async with store.change() as change:
        await change.add_organization(Organization("org_a", "a", first=True, created_at=NOW))
        await change.add_organization(Organization("org_b", "b", first=False, created_at=NOW))
    return store


@pytest.fixture
def admin() -> Principal:
    return Principal("key_admin", "org_a", KeyKind.STANDARD, ALL_SCOPES, first_organization=True)
