"""Webhook secrets: what they look like, and what a rotation leaves valid."""

import base64
from datetime import UTC, datetime

import pytest

from keys.sealing import Envelope, Tampered
from keys.webhooks import Webhooks
from kit.clock import FakeClock
from kit.errors import NotFound
from tests.fakes.memory_keys import MemoryWebhookStore


class Rig:
    def __init__(self) -> None:
        self.clock = FakeClock(datetime(2026, 1, 1, tzinfo=UTC))
        self.store = MemoryWebhookStore()
        self.seal = Envelope(b"k" * 32)
        self.webhooks = Webhooks(self.store, self.seal, self.clock)


async def test_the_first_question_makes_it() -> None:
    rig = Rig()
    secret = await rig.webhooks.get("org_a")
    assert secret.current.startswith("whsec_")
    assert 24 <= len(base64.b64decode(secret.current.removeprefix("whsec_"), validate=True)) <= 64
    assert secret == await rig.webhooks.get("org_a")
    assert secret.current != (await rig.webhooks.get("org_b")).current
    assert (secret.previous, secret.previous_until) == ("", None)
    assert secret.current not in repr(secret)
    with pytest.raises(NotFound):
        await rig.webhooks.get("org_z")


async def test_the_one_before_is_valid_for_a_day() -> None:
    rig = Rig()
    first = await rig.webhooks.get("org_a")
    second = await rig.webhooks.rotate("org_a", "key_1")
    assert second.current != first.current
    assert second.previous == first.current
    await rig.clock.advance(24 * 3600 - 1)
    assert (await rig.webhooks.get("org_a")).previous == first.current
    await rig.clock.advance(1)
    assert (await rig.webhooks.get("org_a")).previous == ""
    third = await rig.webhooks.rotate("org_a", "key_1")
    assert third.previous == second.current


async def test_the_first_rotation_may_come_before_any_use() -> None:
    rig = Rig()
    made = await rig.webhooks.rotate("org_a", "key_1")
    assert made.previous not in {"", made.current}


async def test_it_lies_sealed_and_opens_for_its_organization_only() -> None:
    rig = Rig()
    secret = await rig.webhooks.get("org_a")
    sealed = await rig.store.find("org_a")
    assert sealed is not None
    assert secret.current.encode() not in sealed.current
    await rig.store.add("org_b", sealed)
    with pytest.raises(Tampered):
        await rig.webhooks.get("org_b")
