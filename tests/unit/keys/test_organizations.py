import pytest

from keys.audit import Actor
from keys.model import ALL_SCOPES, KeyKind, Principal
from keys.money import FIRST_CREDITS
from keys.organizations import Organizations
from keys.sealing import PepperedHash
from keys.verify import Verify
from kit.clock import FakeClock
from kit.errors import Invalid, Unauthenticated
from tests.fakes.memory_keys import MemoryKeyStore

ACTOR = Actor("key_admin", "org_a")


@pytest.fixture
def empty() -> MemoryKeyStore:
    return MemoryKeyStore()


@pytest.fixture
def organizations(empty: MemoryKeyStore, key_hash: PepperedHash, clock: FakeClock) -> Organizations:
    return Organizations(empty, key_hash, clock)


@pytest.fixture
def verify(empty: MemoryKeyStore, key_hash: PepperedHash, clock: FakeClock) -> Verify:
    return Verify(empty, key_hash, clock)


async def test_the_first_start_makes_the_first_organization_and_the_systems(
    organizations: Organizations, verify: Verify, empty: MemoryKeyStore
) -> None:
    handed: list[str] = []
    await organizations.ensure_first(handed.append)
    (secret,) = handed
    found = (await verify(secret)).principal
    assert (found.kind, found.scopes, found.first_organization) == (KeyKind.STANDARD, ALL_SCOPES, True)
    assert set(empty._state.organizations) == {"org_system", found.organization_id}


async def test_later_starts_make_nothing(organizations: Organizations, empty: MemoryKeyStore) -> None:
    handed: list[str] = []
    for _ in range(3):
        await organizations.ensure_first(handed.append)
    assert len(handed) == 1
    assert len(empty._state.organizations) == 2
    assert len(empty._state.keys) == 1


async def test_a_crash_before_the_commit_repeats_it_with_another_key(
    organizations: Organizations, verify: Verify, empty: MemoryKeyStore
) -> None:
    handed: list[str] = []

    def crash(secret: str) -> None:
        handed.append(secret)
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        await organizations.ensure_first(crash)
    assert not empty._state.organizations
    await organizations.ensure_first(handed.append)
    with pytest.raises(Unauthenticated):
        await verify(handed[0])
    assert (await verify(handed[1])).principal.first_organization


async def test_further_organizations_have_a_key_with_all_scopes_and_are_not_first(
    organizations: Organizations, verify: Verify
) -> None:
    await organizations.ensure_first(lambda _: None)
    created = await organizations.create("Ünïcorp", ACTOR)
    found = (await verify(created.first_key.secret)).principal
    assert found == Principal(
        created.first_key.key.id,
        created.organization.id,
        KeyKind.STANDARD,
        ALL_SCOPES,
        first_organization=False,
        lineage_id=f"key:{created.first_key.key.id}",
    )


@pytest.mark.parametrize("name", ["", "  ", "a\tb", "x" * 201])
async def test_a_bad_name_is_refused(organizations: Organizations, name: str) -> None:
    with pytest.raises(Invalid):
        await organizations.create(name, ACTOR)


async def test_the_first_one_has_a_thousand_credits_and_others_what_the_operator_says(
    empty: MemoryKeyStore, key_hash: PepperedHash, clock: FakeClock, verify: Verify
) -> None:
    organizations = Organizations(empty, key_hash, clock, initial_credits=7)
    handed: list[str] = []
    await organizations.ensure_first(handed.append)
    created = await organizations.create("Other", ACTOR)
    assert (await verify(handed[0])).credit == FIRST_CREDITS == 1000 * 1_000_000
    assert (await verify(created.first_key.secret)).credit == 7
    assert empty._state.credits["org_system"] == 0
    told = [(entry.act, entry.data["initial_credits"]) for entry in empty._state.noted]
    assert told == [("organization.created", FIRST_CREDITS), ("organization.created", 7)]
