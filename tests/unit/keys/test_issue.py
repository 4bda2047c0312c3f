from dataclasses import replace
from datetime import timedelta

import pytest

from keys.issue import Issue, Issued
from keys.mint import new_key
from keys.model import KeyKind, Principal
from keys.sealing import PepperedHash
from keys.verify import Verify
from kit.clock import FakeClock
from kit.errors import Conflict, Denied, Invalid, NotFound, Unauthenticated
from tests.fakes.memory_keys import MemoryKeyStore

DAY = timedelta(days=1)


@pytest.fixture
def issue(keys: MemoryKeyStore, key_hash: PepperedHash, clock: FakeClock) -> Issue:
    return Issue(keys, key_hash, clock)


@pytest.fixture
def verify(keys: MemoryKeyStore, key_hash: PepperedHash, clock: FakeClock) -> Verify:
    return Verify(keys, key_hash, clock)


async def make(
    issue: Issue, issuer: Principal, *scopes: str, kind: KeyKind = KeyKind.STANDARD, life: timedelta | None = None
) -> Issued:
    expires_at = None if life is None else issue._clock.now() + life
    return await issue.issue(issuer, name="n", kind=kind, scopes=scopes, expires_at=expires_at)


def with_scopes(principal: Principal, *scopes: str) -> Principal:
    return replace(principal, scopes=scopes)


async def test_an_issued_key_stands_for_its_organization_and_scopes(
    issue: Issue, verify: Verify, admin: Principal
) -> None:
    issued = await make(issue, admin, "files", "run:greet")
    found = (await verify(issued.secret)).principal
    plain = Principal(issued.key.id, "org_a", KeyKind.STANDARD, ("files", "run:greet"), first_organization=True)
    assert found == replace(plain, lineage_id=f"key:{issued.key.id}")
    assert issued.secret.startswith(issued.key.prefix)


async def test_without_scopes_a_key_has_run_files_deploy(issue: Issue, admin: Principal) -> None:
    assert (await make(issue, admin)).key.scopes == ("run", "files", "deploy")


async def test_without_scopes_it_gets_only_what_the_issuer_has(issue: Issue, admin: Principal) -> None:
    assert (await make(issue, with_scopes(admin, "deploy", "admin"))).key.scopes == ("deploy",)
    with pytest.raises(Denied):
        await make(issue, with_scopes(admin, "admin"))


@pytest.mark.parametrize(
    ("has", "wants"),
    [
        (("admin",), "run"),
        (("admin",), "run:greet"),
        (("admin", "run:greet"), "run:other"),
        (("admin", "run:greet"), "run"),
        (("run",), "admin"),
    ],
)
async def test_no_key_gives_what_it_lacks(issue: Issue, admin: Principal, has: tuple[str, ...], wants: str) -> None:
    with pytest.raises(Denied, match=f"lacks the scope {wants},"):
        await make(issue, with_scopes(admin, *has), wants)


async def test_who_has_run_may_give_it_for_one_service(issue: Issue, admin: Principal) -> None:
    issued = await make(issue, with_scopes(admin, "run"), "run:greet", "run:org_9.greet", "run:greet")
    assert issued.key.scopes == ("run:greet", "run:org_9.greet")


@pytest.mark.parametrize(
    "scope", ["", "Run", "run:", "run:a b", "run:../x", "run:" + "a" * 101, "root", "files:x", "run:a\n"]
)
async def test_a_scope_that_there_is_not_is_refused(issue: Issue, admin: Principal, scope: str) -> None:
    with pytest.raises(Invalid):
        await make(issue, admin, scope)


async def test_too_many_scopes_are_refused(issue: Issue, admin: Principal) -> None:
    with pytest.raises(Invalid):
        await make(issue, admin, *[f"run:s{n}" for n in range(101)])


async def test_a_one_time_key_carries_run_only(issue: Issue, admin: Principal) -> None:
    assert (await make(issue, admin, kind=KeyKind.ONE_TIME)).key.scopes == ("run",)
    assert (await make(issue, admin, "run:greet", kind=KeyKind.ONE_TIME)).key.scopes == ("run:greet",)
    for scope in ("files", "deploy", "admin"):
        with pytest.raises(Invalid):
            await make(issue, admin, scope, kind=KeyKind.ONE_TIME)


async def test_a_one_time_key_makes_no_keys(issue: Issue, admin: Principal) -> None:
    once = Principal("key_o", "org_a", KeyKind.ONE_TIME, ("run",), first_organization=True)
    with pytest.raises(Denied):
        await make(issue, once)
    made = await make(issue, admin, "run")
    with pytest.raises(Denied):
        await issue.rotate(once, made.key.id, timedelta(0))


@pytest.mark.parametrize("name", ["x" * 201, "a\nb", "a\0"])
async def test_a_bad_name_is_refused(issue: Issue, admin: Principal, name: str) -> None:
    with pytest.raises(Invalid):
        await issue.issue(admin, name=name, kind=KeyKind.STANDARD, scopes=(), expires_at=None)


async def test_an_expiry_in_the_past_is_refused(issue: Issue, admin: Principal) -> None:
    for life in (timedelta(0), -DAY):
        with pytest.raises(Invalid):
            await make(issue, admin, life=life)


async def test_a_key_ends_when_it_expires(issue: Issue, verify: Verify, admin: Principal, clock: FakeClock) -> None:
    issued = await make(issue, admin, life=DAY)
    await clock.advance(DAY.total_seconds() - 1)
    await verify(issued.secret)
    await clock.advance(1)
    with pytest.raises(Unauthenticated):
        await verify(issued.secret)


async def test_every_bad_key_gets_the_same_answer(
    issue: Issue, verify: Verify, admin: Principal, clock: FakeClock
) -> None:
    expired, revoked = await make(issue, admin, life=DAY), await make(issue, admin)
    await issue.revoke("org_a", revoked.key.id, "key_admin")
    await clock.advance(DAY.total_seconds())
    unknown = new_key(KeyKind.STANDARD)
    answers = set()
    for text in ("", "x", "cwk-run-abc", "cwk-" + "a" * 36, "é" * 300, expired.secret, revoked.secret, unknown):
        with pytest.raises(Unauthenticated) as caught:
            await verify(text)
        answers.add((caught.value.message, caught.value.code))
    assert len(answers) == 1


async def test_a_garbled_key_is_not_looked_up(key_hash: PepperedHash, clock: FakeClock) -> None:
    class NoLookUps:
        async def by_hash(self, digest: bytes) -> None:
            raise AssertionError("looked up")

    with pytest.raises(Unauthenticated):
        await Verify(NoLookUps(), key_hash, clock)("cwk-" + "a" * 36)


async def test_revoking_is_told_once(issue: Issue, verify: Verify, admin: Principal, keys: MemoryKeyStore) -> None:
    issued = await make(issue, admin)
    await issue.revoke("org_a", issued.key.id, "key_admin")
    await issue.revoke("org_a", issued.key.id, "key_admin")
    assert await keys.revoked() == [issued.key.id]
    with pytest.raises(Unauthenticated):
        await verify(issued.secret)


async def test_anothers_keys_are_not_found(issue: Issue, verify: Verify, admin: Principal) -> None:
    issued = await make(issue, admin)
    with pytest.raises(NotFound):
        await issue.revoke("org_b", issued.key.id, "key_admin")
    with pytest.raises(NotFound):
        await issue.rotate(replace(admin, organization_id="org_b"), issued.key.id, DAY)
    with pytest.raises(NotFound):
        await issue.revoke("org_a", "../key", "key_admin")
    await verify(issued.secret)


async def test_a_rotated_key_lives_on_for_the_overlap(
    issue: Issue, verify: Verify, admin: Principal, clock: FakeClock, keys: MemoryKeyStore
) -> None:
    old = await make(issue, admin, "run", "files")
    new = await issue.rotate(admin, old.key.id, timedelta(seconds=60))
    assert (new.key.name, new.key.kind, new.key.scopes, new.key.expires_at) == ("n", old.key.kind, old.key.scopes, None)
    assert (await verify(old.secret)).principal.key_id != (await verify(new.secret)).principal.key_id
    await clock.advance(60)
    with pytest.raises(Unauthenticated):
        await verify(old.secret)
    await verify(new.secret)
    assert await keys.revoked() == []


async def test_without_overlap_the_old_key_is_revoked_at_once(
    issue: Issue, verify: Verify, admin: Principal, keys: MemoryKeyStore
) -> None:
    old = await make(issue, admin)
    await issue.rotate(admin, old.key.id, timedelta(0))
    assert await keys.revoked() == [old.key.id]
    with pytest.raises(Unauthenticated):
        await verify(old.secret)


async def test_a_successor_lives_as_long_and_never_prolongs_the_old(
    issue: Issue, verify: Verify, admin: Principal, clock: FakeClock
) -> None:
    old = await make(issue, admin, life=DAY)
    await clock.advance(DAY.total_seconds() - 10)
    new = await issue.rotate(admin, old.key.id, DAY)
    assert new.key.expires_at == clock.now() + DAY
    await clock.advance(10)
    with pytest.raises(Unauthenticated):
        await verify(old.secret)


async def test_a_key_is_rotated_once_and_only_alive(issue: Issue, admin: Principal) -> None:
    old = await make(issue, admin)
    await issue.rotate(admin, old.key.id, DAY)
    with pytest.raises(Conflict):
        await issue.rotate(admin, old.key.id, DAY)
    revoked = await make(issue, admin)
    await issue.revoke("org_a", revoked.key.id, "key_admin")
    with pytest.raises(Conflict):
        await issue.rotate(admin, revoked.key.id, DAY)


async def test_a_key_that_can_more_than_the_issuer_is_not_rotated(
    issue: Issue, verify: Verify, admin: Principal
) -> None:
    old = await make(issue, admin, "deploy")
    with pytest.raises(Denied):
        await issue.rotate(with_scopes(admin, "admin", "run"), old.key.id, timedelta(0))
    await verify(old.secret)


@pytest.mark.parametrize("seconds", [-1, 31 * 24 * 3600, 2**31 - 1])
async def test_a_senseless_overlap_is_refused(issue: Issue, admin: Principal, seconds: int) -> None:
    old = await make(issue, admin)
    with pytest.raises(Invalid):
        await issue.rotate(admin, old.key.id, timedelta(seconds=seconds))


async def test_lists_come_in_pages(issue: Issue, admin: Principal) -> None:
    made = sorted([(await make(issue, admin)).key for _ in range(5)], key=lambda key: key.id)
    await make(issue, replace(admin, organization_id="org_b"))
    first = await issue.page("org_a", 2, "")
    second = await issue.page("org_a", 2, first.next)
    third = await issue.page("org_a", 2, second.next)
    assert [*first.items, *second.items, *third.items] == made
    assert (len(third.items), third.next) == (1, "")
    assert (await issue.page("org_a", 5, "")).next == ""
    for limit in (-1, 1001):
        with pytest.raises(Invalid):
            await issue.page("org_a", limit, "")
