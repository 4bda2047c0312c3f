"""A key as sent by a caller → the principal that it stands for, and what that may spend."""

from typing import Protocol

from keys.mint import well_formed
from keys.model import KnownKey, Principal, Verified
from kit.clock import Clock
from kit.errors import Unauthenticated


class KeyHash(Protocol):
    """The keyed hash by which keys are stored."""

    def __call__(self, key: str) -> bytes: ...


class KnownKeys(Protocol):
    """Look-up by keyed hash."""

    async def by_hash(self, digest: bytes) -> KnownKey | None: ...


class Verify:
    """One answer for every bad key, so that nothing can be learnt from it."""

    def __init__(self, keys: KnownKeys, key_hash: KeyHash, clock: Clock) -> None:
        self._keys = keys
        self._hash = key_hash
        self._clock = clock

    async def __call__(self, text: str) -> Verified:
        """Errors: Unauthenticated for a key that is garbled, unknown, expired or revoked, all alike."""
        found = await self._keys.by_hash(self._hash(text)) if well_formed(text) else None
        if found is None or not found.key.alive(self._clock.now()):
            raise Unauthenticated("no such API key: it is mistyped, unknown, expired or revoked")
        key = found.key
        principal = Principal(
            key.id,
            key.organization_id,
            key.kind,
            key.scopes,
            found.first_organization,
            key.bind,
            key.budget,
            key.rates,
            found.organization_rates,
            key.lineage_id,
        )
        return Verified(principal, found.credit)
