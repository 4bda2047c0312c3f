"""What signs receipts (SPEC §9.8): Ed25519 keys, one at a time, each for 90 days."""

import base64
import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keys.audit import PLATFORM, Actor, Entry, done
from keys.model import SYSTEM_ORGANIZATION
from keys.vault import Seal
from kit.clock import Clock
from kit.errors import Conflict, Invalid
from kit.names import new_id

LIFE = timedelta(days=90)
MAX_PAYLOAD = 64 * 1024
TYPE = "runmesh-receipt"


@dataclass(frozen=True)
class ReceiptKey:
    """`public`: 32 bytes. It signs until it is retired, and verifies for ever."""

    id: str
    public: bytes
    created_at: datetime
    retired_at: datetime | None = None


class ReceiptKeyStore(Protocol):
    """All keys there ever were; at most one of them isn't retired."""

    async def current(self) -> tuple[ReceiptKey, bytes] | None:
        """With its sealed private half."""
        ...

    async def replace(self, before: str, made: ReceiptKey, sealed: bytes, told: Entry) -> bool:
        """Retires the key with the id `before` (empty: there is none) and adds this one; `told` comes into the audit
        log. False, and nothing has changed, when another one signs by now.
        """
        ...

    async def all(self) -> list[ReceiptKey]:
        """Newest first."""
        ...


class Receipts:
    """Signs, and tells by which keys."""

    def __init__(self, store: ReceiptKeyStore, seal: Seal, clock: Clock) -> None:
        self._store = store
        self._seal = seal
        self._clock = clock
        self._opened: dict[str, Ed25519PrivateKey] = {}

    async def sign(self, payload: bytes) -> str:
        """A JWS of it (RFC 7515, compact; EdDSA of RFC 8037). The first makes a key. Errors: Invalid over 64 KiB."""
        if len(payload) > MAX_PAYLOAD:
            raise Invalid(f"a receipt has at most {MAX_PAYLOAD} bytes", code="too_large")
        key, private = await self._signing()
        header = {"alg": "EdDSA", "kid": key.id, "typ": TYPE}
        told = f"{base64url(json.dumps(header, separators=(',', ':')).encode())}.{base64url(payload)}"
        return f"{told}.{base64url(private.sign(told.encode()))}"

    async def keys(self) -> list[ReceiptKey]:
        """All of them, newest first."""
        return await self._store.all()

    async def rotate(self, actor: Actor) -> ReceiptKey:
        """The key that signs from now on. Errors: Conflict when another one was made just now."""
        found = await self._store.current()
        made = await self._replace(found[0].id if found else "", actor)
        if made is None:
            raise Conflict("another key was made just now; that one signs")
        return made

    async def _signing(self) -> tuple[ReceiptKey, Ed25519PrivateKey]:
        found = await self._store.current()
        if found is None or self._clock.now() >= found[0].created_at + LIFE:
            await self._replace(found[0].id if found else "", PLATFORM)  # or somebody else has
            found = await self._store.current()
        if found is None:
            raise Conflict("no key signs receipts at this moment; try again")
        key, sealed = found
        if key.id not in self._opened:
            text = self._seal.open(SYSTEM_ORGANIZATION, receipt_key_place(key.id), sealed)
            self._opened = {key.id: Ed25519PrivateKey.from_private_bytes(base64.b64decode(text))}
        return key, self._opened[key.id]

    async def _replace(self, before: str, actor: Actor) -> ReceiptKey | None:
        private = Ed25519PrivateKey.generate()
        made = ReceiptKey(new_id("rck"), private.public_key().public_bytes_raw(), self._clock.now())
        text = base64.b64encode(private.private_bytes_raw()).decode()
        sealed = self._seal.seal(SYSTEM_ORGANIZATION, receipt_key_place(made.id), text)
        data = {"retired_key_id": before or None}
        told = done(made.created_at, actor, "receipt_key.rotated", made.id, SYSTEM_ORGANIZATION, data)
        return made if await self._store.replace(before, made, sealed, told) else None


def base64url(data: bytes) -> str:
    """Without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def receipt_key_place(key_id: str) -> str:
    """Its name in the seal's eyes: no secret of an organization can have it."""
    return f"receipt-key {key_id}"
