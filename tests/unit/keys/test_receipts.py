"""Signatures of receipts, and what becomes of the keys that make them."""

import asyncio
import base64
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from keys.audit import PLATFORM, Actor
from keys.receipts import Receipts
from keys.sealing import Envelope
from kit.clock import FakeClock
from kit.errors import Invalid
from tests.fakes.memory_keys import MemoryReceiptKeyStore

DAY = 24 * 3600
ACTOR = Actor("key_admin", "org_first")


class Rig:
    def __init__(self) -> None:
        self.clock = FakeClock(datetime(2026, 1, 1, tzinfo=UTC))
        self.store = MemoryReceiptKeyStore()
        self.receipts = self.another()

    def another(self) -> Receipts:
        """A replica of the service."""
        return Receipts(self.store, Envelope(b"k" * 32), self.clock)

    async def kid(self) -> str:
        return str(part((await self.receipts.sign(b"{}")).split(".")[0])["kid"])


def part(text: str) -> Any:
    return json.loads(base64.urlsafe_b64decode(text + "=="))


def verify(public: bytes, jws: str) -> bytes:
    signed, _, signature = jws.rpartition(".")
    Ed25519PublicKey.from_public_bytes(public).verify(base64.urlsafe_b64decode(signature + "=="), signed.encode())
    return base64.urlsafe_b64decode(signed.partition(".")[2] + "==")


async def test_a_signature_is_verified_by_the_public_key() -> None:
    rig = Rig()
    jws = await rig.receipts.sign('{"a":"ü"}'.encode())
    (key,) = await rig.receipts.keys()
    assert verify(key.public, jws) == '{"a":"ü"}'.encode()
    assert part(jws.split(".")[0]) == {"alg": "EdDSA", "kid": key.id, "typ": "runmesh-receipt"}
    assert "=" not in jws
    header, _, signature = jws.split(".")
    other = (await rig.receipts.sign(b"{}")).split(".")[1]
    with pytest.raises(InvalidSignature):
        verify(key.public, f"{header}.{other}.{signature}")


async def test_a_key_signs_for_ninety_days_and_verifies_for_ever() -> None:
    rig = Rig()
    old = await rig.receipts.sign(b'"old"')
    first = await rig.kid()
    await rig.clock.advance(90 * DAY - 1)
    assert await rig.kid() == first
    await rig.clock.advance(1)
    second = await rig.kid()
    assert second != first
    newest, oldest = await rig.receipts.keys()
    assert (newest.id, oldest.id, newest.retired_at) == (second, first, None)
    assert oldest.retired_at == newest.created_at
    assert verify(oldest.public, old) == b'"old"'


async def test_the_audit_log_tells_of_each_key_and_who_made_it() -> None:
    rig = Rig()
    first = await rig.kid()
    second = (await rig.receipts.rotate(ACTOR)).id
    await rig.clock.advance(90 * DAY)
    third = await rig.kid()
    told = [
        (one.act, one.subject, Actor(one.actor_key_id, one.actor_organization_id), one.data["retired_key_id"])
        for one in rig.store.noted
    ]
    assert told == [
        ("receipt_key.rotated", first, PLATFORM, None),
        ("receipt_key.rotated", second, ACTOR, first),
        ("receipt_key.rotated", third, PLATFORM, second),
    ]


async def test_replicas_sign_with_one_key() -> None:
    rig = Rig()
    other = rig.another()
    signed = await asyncio.gather(rig.receipts.sign(b"1"), other.sign(b"2"), rig.receipts.sign(b"3"))
    (key,) = await rig.receipts.keys()
    assert [verify(key.public, jws) for jws in signed] == [b"1", b"2", b"3"]
    made = await other.rotate(ACTOR)
    assert await rig.kid() == made.id != key.id


async def test_private_keys_lie_sealed() -> None:
    rig = Rig()
    await rig.receipts.sign(b"{}")
    found = await rig.store.current()
    assert found is not None
    opened = Envelope(b"k" * 32).open("org_system", f"receipt-key {found[0].id}", found[1])
    assert len(base64.b64decode(opened)) == 32
    assert opened.encode() not in found[1]
    assert base64.b64decode(opened) not in found[1]


async def test_what_is_signed_is_bounded() -> None:
    rig = Rig()
    await rig.receipts.sign(b"x" * 65536)
    with pytest.raises(Invalid) as refused:
        await rig.receipts.sign(b"x" * 65537)
    assert refused.value.code == "too_large"
