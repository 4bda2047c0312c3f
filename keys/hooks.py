"""Inbound webhooks: addresses at which signed events start an organization's workflow (SPEC §4)."""

import json
import secrets
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from keys.audit import Actor, Entry, done
from keys.limits import Budget
from keys.model import Page, page_size
from keys.vault import Seal
from kit.clock import Clock
from kit.errors import Exhausted, NotFound
from kit.names import new_id

MOST_HOOKS = 1000
PREFIX = "cwh-"
TOKEN_BYTES = 32
MOST_TOKEN = 100


@dataclass(frozen=True)
class Hook:
    """`reference`: what its events start, as its organization names it; `kind`: how they are signed. `key_id` and
    `budget`: of the key that it was made with.
    """

    id: str
    organization_id: str
    reference: str
    kind: str
    created_at: datetime
    key_id: str = ""
    budget: Budget | None = None


@dataclass(frozen=True)
class Proof:
    """What its events are verified by."""

    secret: str = field(repr=False)
    verify_token: str = field(repr=False, default="")


class HookStore(Protocol):
    """Hooks by the hash of their token. What changes one enters `entry` in the audit log."""

    async def add(self, hook: Hook, digest: bytes, sealed: bytes, entry: Entry, most: int) -> bool:
        """False when its organization has `most` of them already. Errors: NotFound for an organization that there is
        not.
        """
        ...

    async def page(self, organization_id: str, limit: int, after: str) -> list[Hook]:
        """By id, those after `after`."""
        ...

    async def delete(self, organization_id: str, hook_id: str, entry: Entry) -> bool:
        """Whether there was one."""
        ...

    async def by_hash(self, digest: bytes) -> tuple[Hook, bytes] | None:
        """And its sealed proof."""
        ...


class KeyHash(Protocol):
    """keys.sealing.PepperedHash."""

    def __call__(self, key: str) -> bytes: ...


class Hooks:
    """All that is done with them."""

    def __init__(self, store: HookStore, key_hash: KeyHash, seal: Seal, clock: Clock) -> None:
        self._store = store
        self._hash = key_hash
        self._seal = seal
        self._clock = clock

    async def create(
        self, organization_id: str, reference: str, kind: str, proof: Proof, key_id: str, budget: Budget | None
    ) -> tuple[Hook, str]:
        """And its token, which is shown this once. Errors: NotFound; Exhausted."""
        hook = Hook(new_id("hook"), organization_id, reference, kind, self._clock.now(), key_id, budget)
        token = PREFIX + secrets.token_urlsafe(TOKEN_BYTES)
        proven = json.dumps([proof.secret, proof.verify_token])
        sealed = self._seal.seal(organization_id, place_of(hook.id), proven, bound=bound_of(kind, reference))
        told = {"kind": kind, "service_id": reference}
        entry = done(hook.created_at, Actor(key_id, organization_id), "hook.created", hook.id, organization_id, told)
        if not await self._store.add(hook, self._hash(token), sealed, entry, MOST_HOOKS):
            raise Exhausted(
                f"an organization has at most {MOST_HOOKS} hooks: delete one (DELETE /hooks/ID) before another is made",
                retry_after=timedelta(hours=1),
            )
        return hook, token

    async def page(self, organization_id: str, limit: int, after: str) -> Page[Hook]:
        """By id. Errors: Invalid for a limit out of range."""
        size = page_size(limit)
        hooks = await self._store.page(organization_id, size + 1, after)
        return Page(hooks[:size], hooks[size - 1].id if len(hooks) > size else "")

    async def delete(self, organization_id: str, hook_id: str, actor_key_id: str) -> None:
        """Errors: NotFound."""
        actor = Actor(actor_key_id, organization_id)
        entry = done(self._clock.now(), actor, "hook.deleted", hook_id, organization_id, {})
        if not await self._store.delete(organization_id, hook_id, entry):
            raise NotFound("no such hook")

    async def open(self, token: str) -> tuple[Hook, Proof]:
        """Errors: NotFound."""
        found = None
        if token.startswith(PREFIX) and len(token) <= MOST_TOKEN:
            found = await self._store.by_hash(self._hash(token))
        if found is None:
            raise NotFound("no such hook: it was deleted, or this address is not whole")
        hook, sealed = found
        bound = bound_of(hook.kind, hook.reference)
        return hook, Proof(*json.loads(self._seal.open(hook.organization_id, place_of(hook.id), sealed, bound=bound)))


def place_of(hook_id: str) -> str:
    """In the seal's eyes: no secret of an organization can have this name."""
    return f"hook/{hook_id}"


def bound_of(kind: str, reference: str) -> str:
    """What its proof is only good with: another kind would ask for less, another workflow do something else."""
    return f"{kind} {reference}"
