"""The secrets that sign what an organization's receivers are sent (Standard Webhooks): made when first asked for."""

import base64
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Protocol

from keys.audit import Entry
from keys.vault import Seal
from kit.clock import Clock
from kit.errors import Conflict

PREFIX = "whsec_"
SECRET_BYTES = 32
OVERLAP = timedelta(hours=24)
# Its place in the seal's eyes: no secret of an organization can have this name.
PLACE = "webhook-secret"


@dataclass(frozen=True)
class SealedPair:
    """As it is kept. `previous` signs besides until `previous_until`. `version`: the newest that there is, which
    `current` is sealed as, and `previous` as the one before it.
    """

    current: bytes
    created_at: datetime
    previous: bytes | None = None
    previous_until: datetime | None = None
    version: int = 0


@dataclass(frozen=True)
class SigningSecret:
    """`whsec_…`, and the one before it while that is valid."""

    current: str = field(repr=False)
    created_at: datetime
    previous: str = field(repr=False, default="")
    previous_until: datetime | None = None


class WebhookStore(Protocol):
    """One row an organization."""

    async def find(self, organization_id: str) -> SealedPair | None: ...

    async def add(self, organization_id: str, made: SealedPair) -> bool:
        """False when it has one already. Errors: NotFound for an organization that there is not."""
        ...

    async def change(
        self, organization_id: str, change: Callable[[SealedPair, int], SealedPair], entry: Entry
    ) -> SealedPair | None:
        """One change at a time, to the next version, with its entry in the audit log; the new state, None where there
        is nothing.
        """
        ...


class Webhooks:
    """All that is done with them."""

    def __init__(self, store: WebhookStore, seal: Seal, clock: Clock) -> None:
        self._store = store
        self._seal = seal
        self._clock = clock

    async def get(self, organization_id: str) -> SigningSecret:
        """Whoever asks first gets what the others get. Errors: NotFound for an unknown organization."""
        found = await self._store.find(organization_id)
        if found is None:
            made = self._new(organization_id)
            found = made if await self._store.add(organization_id, made) else await self._store.find(organization_id)
        return self._opened(organization_id, found)

    async def rotate(self, organization_id: str, actor_key_id: str) -> SigningSecret:
        """The new one; the one that it replaces signs besides for 24 hours. Errors: NotFound."""
        await self.get(organization_id)
        now = self._clock.now()

        def replaced(before: SealedPair, version: int) -> SealedPair:
            made = self._new(organization_id, version)
            return replace(made, created_at=now, previous=before.current, previous_until=now + OVERLAP)

        who = (organization_id, actor_key_id, organization_id)
        entry = Entry(now, "webhook_secret.rotated", "webhook-secret", *who)
        return self._opened(organization_id, await self._store.change(organization_id, replaced, entry))

    def _new(self, organization_id: str, version: int = 0) -> SealedPair:
        secret = PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()
        sealed = self._seal.seal(organization_id, PLACE, secret, version=version)
        return SealedPair(sealed, self._clock.now(), version=version)

    def _opened(self, organization_id: str, found: SealedPair | None) -> SigningSecret:
        if found is None:
            raise Conflict("the webhook secret went away meanwhile; try again")
        current = self._seal.open(organization_id, PLACE, found.current, version=found.version)
        opened = SigningSecret(current, found.created_at)
        if found.previous is None or found.previous_until is None or found.previous_until <= self._clock.now():
            return opened
        previous = self._seal.open(organization_id, PLACE, found.previous, version=found.version - 1)
        return replace(opened, previous=previous, previous_until=found.previous_until)
