"""Bindings, budgets and rates: what is accepted, and what becomes of them when a key is rotated."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from mesh.keys.v1 import keys_pb2

from keys import wire
from keys.audit import Actor
from keys.budgets import Budgets
from keys.issue import Issue, Issued
from keys.limits import Binding, Budget, Rates
from keys.model import KeyKind, Principal
from keys.organizations import Organizations
from keys.sealing import PepperedHash
from keys.verify import Verify
from kit.clock import FakeClock
from kit.errors import Denied, Invalid, NotFound
from tests.fakes.memory_keys import MemoryKeyStore

BIND = Binding("greet", "/a%20b/", "0a" * 32)


@pytest.fixture
def issue(keys: MemoryKeyStore, key_hash: PepperedHash, clock: FakeClock) -> Issue:
    return Issue(keys, key_hash, clock)


@pytest.fixture
def verify(keys: MemoryKeyStore, key_hash: PepperedHash, clock: FakeClock) -> Verify:
    return Verify(keys, key_hash, clock)


async def make(issue: Issue, issuer: Principal, kind: KeyKind = KeyKind.STANDARD, **more: Any) -> Issued:
    return await issue.issue(issuer, name="n", kind=kind, scopes=("run",), expires_at=None, **more)


async def test_a_one_time_key_is_bound(issue: Issue, verify: Verify, admin: Principal) -> None:
    made = await make(issue, admin, KeyKind.ONE_TIME, bind=BIND)
    assert made.key.bind == BIND
    assert (await verify(made.secret)).principal.bind == BIND
    for part in (Binding(service_id="org_9x.greet-2"), Binding(path="/"), Binding(body_sha256="0" * 64)):
        assert (await make(issue, admin, KeyKind.ONE_TIME, bind=part)).key.bind == part


async def test_a_standard_key_is_not_bound(issue: Issue, admin: Principal) -> None:
    with pytest.raises(Invalid, match="only a one-time key"):
        await make(issue, admin, bind=BIND)


@pytest.mark.parametrize(
    "bind",
    [
        *(Binding(), Binding("a b"), Binding("greet@1"), Binding("a/b"), Binding("x" * 101), Binding("Org_1.greet")),
        *(Binding(path="a"), Binding(path="/a?b"), Binding(path="/ä"), Binding(path="/a b"), Binding(path="/a#b")),
        *(Binding(path="/" + "a" * 2000), Binding(path="/a\n")),
        *(Binding(body_sha256="0" * 63), Binding(body_sha256="G" * 64), Binding(body_sha256="A" * 64)),
        Binding("greet", "/", "0" * 64 + "\n"),
    ],
)
async def test_a_senseless_binding_is_refused(
    issue: Issue, admin: Principal, keys: MemoryKeyStore, bind: Binding
) -> None:
    with pytest.raises(Invalid):
        await make(issue, admin, KeyKind.ONE_TIME, bind=bind)
    assert await keys.page("org_a", 9, "") == []
    assert await keys.noted() == []


async def test_any_key_may_have_a_budget(issue: Issue, verify: Verify, admin: Principal) -> None:
    for kind in KeyKind:
        for limit in (0, 1, 2**53 - 1):
            made = await make(issue, admin, kind, budget=limit)
            assert made.key.budget == Budget(f"key:{made.key.id}", limit)
            assert (await verify(made.secret)).principal.budget == made.key.budget
    for limit in (-1, 2**53):
        with pytest.raises(Invalid, match="budget"):
            await make(issue, admin, budget=limit)


async def test_any_key_may_have_rates(issue: Issue, verify: Verify, admin: Principal) -> None:
    made = await make(issue, admin, rates=Rates(1, 1_000_000))
    found = (await verify(made.secret)).principal
    assert (found.rates, found.organization_rates) == (Rates(1, 1_000_000), Rates())
    for rates in (Rates(0), Rates(None, -1), Rates(1_000_001)):
        with pytest.raises(Invalid):
            await make(issue, admin, rates=rates)


async def test_a_successor_is_bound_the_same_and_shares_the_budget(
    issue: Issue, verify: Verify, admin: Principal
) -> None:
    old = await make(issue, admin, KeyKind.ONE_TIME, bind=BIND, budget=5, rates=Rates(2, 3))
    for _ in range(2):
        new = await issue.rotate(admin, old.key.id, timedelta(0))
        found = (await verify(new.secret)).principal
        assert found.key_id != old.key.id
        assert (found.bind, found.budget, found.rates) == (BIND, old.key.budget, Rates(2, 3))
        old = new


async def test_a_key_with_a_budget_makes_no_way_around_it(issue: Issue, admin: Principal) -> None:
    mine = await issue.issue(admin, name="", kind=KeyKind.STANDARD, scopes=("run", "admin"), expires_at=None, budget=10)
    other = await make(issue, admin)
    poorer = await make(issue, admin, budget=5)
    me = replace(admin, key_id=mine.key.id, budget=mine.key.budget)
    with pytest.raises(Denied, match="budget"):
        await make(issue, me)
    with pytest.raises(Denied, match="budget"):
        await make(issue, me, budget=10)
    for key in (other, poorer):
        with pytest.raises(Denied, match="budget"):
            await issue.rotate(me, key.key.id, timedelta(0))
    assert (await issue.rotate(me, mine.key.id, timedelta(0))).key.budget == mine.key.budget


async def test_what_is_done_to_keys_is_noted(issue: Issue, admin: Principal, keys: MemoryKeyStore) -> None:
    made = await make(issue, admin, KeyKind.ONE_TIME, bind=BIND, budget=5)
    new = await issue.rotate(admin, made.key.id, timedelta(seconds=60))
    for _ in range(2):
        await issue.revoke("org_a", new.key.id, "key_admin")
    with pytest.raises(NotFound):
        await issue.revoke("org_a", "key_z", "key_admin")
    issued, rotated, revoked = await keys.noted()
    assert (issued.act, issued.subject) == ("key.issued", made.key.id)
    assert issued.data["bind"]["path"] == "/a%20b/"
    assert (issued.data["kind"], issued.data["scopes"], issued.data["budget"]) == ("one_time", ["run"], 5)
    assert (rotated.act, rotated.subject, rotated.data["successor_id"]) == ("key.rotated", made.key.id, new.key.id)
    assert (revoked.act, revoked.subject) == ("key.revoked", new.key.id)
    for entry in (issued, rotated, revoked):
        assert (entry.organization_id, entry.actor_organization_id) == ("org_a", "org_a")
        assert entry.actor_key_id == "key_admin"
        assert made.secret not in repr(entry)
        assert new.secret not in repr(entry)


@pytest.mark.parametrize("budget", [None, 5])
async def test_what_is_rotated_counts_as_the_first_of_its_line(
    issue: Issue, verify: Verify, admin: Principal, budget: int | None
) -> None:
    first = await make(issue, admin, budget=budget)
    second = await issue.rotate(admin, first.key.id, timedelta(seconds=60))
    third = await issue.rotate(admin, second.key.id, timedelta(seconds=60))
    for key in (first, second, third):
        assert (await verify(key.secret)).principal.lineage_id == f"key:{first.key.id}"
    other = await make(issue, admin, budget=budget)
    assert (await verify(other.secret)).principal.lineage_id == f"key:{other.key.id}"


async def test_rates_of_an_organization(
    issue: Issue, verify: Verify, admin: Principal, keys: MemoryKeyStore, key_hash: PepperedHash, clock: FakeClock
) -> None:
    organizations, actor = Organizations(keys, key_hash, clock), Actor("key_admin", "org_a")
    made = await make(issue, replace(admin, organization_id="org_b"))
    await organizations.set_rates("org_b", Rates(7, None), actor)
    assert (await verify(made.secret)).principal.organization_rates == Rates(7, None)
    with pytest.raises(Invalid):
        await organizations.set_rates("org_b", Rates(0), actor)
    with pytest.raises(NotFound):
        await organizations.set_rates("org_z", Rates(1), actor)
    entry = (await keys.noted())[-1]
    assert (entry.act, entry.organization_id, entry.actor_organization_id) == ("rates.changed", "org_b", "org_a")
    assert entry.data == {"per_second": 7, "api_per_minute": None}


class Spent:
    """keys.budgets.Spending."""

    def __init__(self, **used: int) -> None:
        self.known = used
        self.asked = 0

    async def used(self, budget_ids: Collection[str]) -> Mapping[str, int]:
        self.asked += 1
        return {name: amount for name, amount in self.known.items() if name in budget_ids}


async def test_what_is_left_of_a_budget() -> None:
    spending = Spent(b=3)
    budgets = Budgets(spending)
    assert await budgets.left(None) is None
    assert await budgets.used([None]) == {}
    assert spending.asked == 0
    assert await budgets.left(Budget("b", 10)) == 7
    assert await budgets.left(Budget("b", 3)) == await budgets.left(Budget("b", 1)) == 0
    assert await budgets.left(Budget("c", 1)) == 1
    assert await budgets.used([None, Budget("b", 10), Budget("c", 1)]) == {"b": 3}


def test_on_the_wire_absent_is_not_zero() -> None:
    assert wire.budget_from_wire(keys_pb2.IssueKeyRequest()) is None
    assert wire.budget_from_wire(keys_pb2.IssueKeyRequest(budget=0)) == 0
    assert wire.bind_from_wire(keys_pb2.IssueKeyRequest()) is None
    assert wire.bind_from_wire(keys_pb2.IssueKeyRequest(bind=keys_pb2.Binding())) == Binding()
    assert wire.rates_from_wire(keys_pb2.Rates(per_second=0)) == Rates(0, None)
    full = Principal(
        "key_1",
        "org_a",
        KeyKind.ONE_TIME,
        ("run",),
        False,
        BIND,
        Budget("key:key_1", 0),
        Rates(1, None),
        Rates(None, 2),
        "key:key_0",
    )
    assert wire.principal_from_wire(wire.principal_to_wire(full)) == full
