"""keys.hooks: tokens, and what lies sealed behind them."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from keys.hooks import MOST_HOOKS, Hooks, Proof
from keys.limits import Budget
from keys.sealing import Envelope, PepperedHash, Tampered
from kit.clock import FakeClock
from kit.errors import Exhausted, NotFound
from tests.fakes.memory_keys import MemoryHookStore


class Rig:
    def __init__(self) -> None:
        self.store = MemoryHookStore()
        self.hash = PepperedHash(b"p" * 32)
        clock = FakeClock(datetime(2026, 1, 1, tzinfo=UTC))
        self.hooks = Hooks(self.store, self.hash, Envelope(b"k" * 32), clock)


async def test_a_token_opens_its_hook() -> None:
    rig = Rig()
    proof, budget = Proof("a secret", "a token"), Budget("key:key_1", 5)
    hook, token = await rig.hooks.create("org_a", "greet", "whatsapp", proof, "key_1", budget)
    assert await rig.hooks.open(token) == (hook, proof)
    assert (hook.reference, hook.kind, hook.budget) == ("greet", "whatsapp", budget)
    assert token not in repr(hook)
    assert "a secret" not in repr(proof)
    assert list((await rig.hooks.page("org_a", 0, "")).items) == [hook]
    for wrong in (token[:-1], token + "A", "", "cwh-", token.replace("cwh-", "cwk-"), "cwh-" + "a" * 10_000):
        with pytest.raises(NotFound):
            await rig.hooks.open(wrong)
    with pytest.raises(NotFound):
        await rig.hooks.delete("org_b", hook.id, "key_1")
    await rig.hooks.delete("org_a", hook.id, "key_1")
    with pytest.raises(NotFound):
        await rig.hooks.open(token)
    assert [(entry.act, entry.subject, entry.actor_key_id) for entry in await rig.store.noted()] == [
        ("hook.created", hook.id, "key_1"),
        ("hook.deleted", hook.id, "key_1"),
    ]


async def test_the_proof_lies_sealed_and_opens_in_its_place_only() -> None:
    rig = Rig()
    (first, one), (_, two) = [
        await rig.hooks.create("org_a", "greet", "slack", Proof(f"secret-{n}"), "", None) for n in (1, 2)
    ]
    found = await rig.store.by_hash(rig.hash(two))
    assert found is not None
    assert b"secret-2" not in found[1]
    await rig.store.delete("org_a", first.id, (await rig.store.noted())[0])
    await rig.store.add(first, rig.hash(one), found[1], (await rig.store.noted())[0], 10)
    with pytest.raises(Tampered):
        await rig.hooks.open(one)


@pytest.mark.parametrize("change", [{"kind": "github"}, {"reference": "other"}])
async def test_the_proof_is_for_that_kind_and_that_workflow_only(change: dict[str, str]) -> None:
    rig = Rig()
    hook, token = await rig.hooks.create("org_a", "greet", "slack", Proof("s"), "", None)
    found = await rig.store.by_hash(rig.hash(token))
    assert found is not None
    (entry,) = await rig.store.noted()
    await rig.store.delete("org_a", hook.id, entry)
    changed: Any = change
    await rig.store.add(replace(hook, **changed), rig.hash(token), found[1], entry, 10)
    with pytest.raises(Tampered):
        await rig.hooks.open(token)


async def test_there_are_so_many_of_an_organization() -> None:
    rig = Rig()
    for _ in range(MOST_HOOKS):
        await rig.hooks.create("org_a", "greet", "slack", Proof("s"), "", None)
    with pytest.raises(Exhausted, match="at most 1000"):
        await rig.hooks.create("org_a", "greet", "slack", Proof("s"), "", None)
    await rig.hooks.create("org_b", "greet", "slack", Proof("s"), "", None)
