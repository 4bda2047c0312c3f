"""Organizations: made by the operator, and the first ones by the service itself when it starts on empty data."""

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from keys.audit import PLATFORM, Actor, Entry, done
from keys.issue import Issued, mint
from keys.limits import Rates, check_rates
from keys.model import ALL_SCOPES, SYSTEM_ORGANIZATION, Key, KeyKind, Organization, check_name
from keys.money import FIRST_CREDITS
from keys.verify import KeyHash
from kit.clock import Clock
from kit.errors import Conflict, Invalid, NotFound
from kit.names import new_id


class OrganizationChange(Protocol):
    """One transaction on organizations and their first keys."""

    async def add_organization(self, organization: Organization, credits_: int = 0) -> None:
        """With an account that has `credits_` micro-credits. Errors: Conflict when it, or a first one, is there."""
        ...

    async def organization_exists(self, *, first: bool) -> bool:
        """`first`: the first organization; else the system's."""
        ...

    async def add(self, key: Key, digest: bytes) -> None: ...

    async def set_rates(self, organization_id: str, rates: Rates) -> bool:
        """Whether there is such an organization."""
        ...

    async def note(self, entry: Entry) -> None: ...


class OrganizationStore(Protocol):
    """All organizations."""

    def change(self) -> AbstractAsyncContextManager[OrganizationChange]: ...


@dataclass(frozen=True)
class Created:
    """A new organization and its first key, which has all scopes."""

    organization: Organization
    first_key: Issued


class Organizations:
    """Makes organizations."""

    def __init__(
        self, organizations: OrganizationStore, key_hash: KeyHash, clock: Clock, initial_credits: int = 0
    ) -> None:
        """`initial_credits`: micro-credits that a new organization has. The first one has FIRST_CREDITS."""
        self._organizations = organizations
        self._hash = key_hash
        self._clock = clock
        self._initial_credits = initial_credits

    async def create(self, name: str, actor: Actor) -> Created:
        """Names needn't be unique. Errors: Invalid for an empty or bad name."""
        if not check_name(name, "an organization").strip():
            raise Invalid("an organization needs a name")
        created = self._new(name, first=False)
        async with self._organizations.change() as change:
            await self._add(change, created, actor)
        return created

    async def set_rates(self, organization_id: str, rates: Rates, actor: Actor) -> None:
        """How often all its keys together may call. Errors: Invalid; NotFound."""
        check_rates(rates)
        async with self._organizations.change() as change:
            if not await change.set_rates(organization_id, rates):
                raise NotFound("no such organization")
            await change.note(self._done("rates.changed", organization_id, actor, vars(rates)))

    async def ensure_first(self, hand_over: Callable[[str], None]) -> None:
        """Makes the system's organization and the first one where they are missing.

        `hand_over` gets the first admin key and must have it safe when it returns: only then is the organization
        committed. A crash in between repeats all of it, with another key. Who lost against another process that starts
        at the same time finds them there.
        """
        try:
            await self._ensure_first(hand_over)
        except Conflict:
            await self._ensure_first(hand_over)

    async def _ensure_first(self, hand_over: Callable[[str], None]) -> None:
        async with self._organizations.change() as change:
            if not await change.organization_exists(first=False):
                await change.add_organization(
                    Organization(SYSTEM_ORGANIZATION, "system", first=False, created_at=self._clock.now())
                )
            if not await change.organization_exists(first=True):
                created = self._new("default", first=True)
                await self._add(change, created, PLATFORM)
                hand_over(created.first_key.secret)

    def _new(self, name: str, *, first: bool) -> Created:
        organization = Organization(new_id("org"), name, first, self._clock.now())
        key = mint(organization.id, "admin", KeyKind.STANDARD, ALL_SCOPES, organization.created_at, None)
        return Created(organization, key)

    async def _add(self, change: OrganizationChange, created: Created, actor: Actor) -> None:
        organization, key = created.organization, created.first_key.key
        credits_ = FIRST_CREDITS if organization.first else self._initial_credits
        await change.add_organization(organization, credits_)
        await change.add(key, self._hash(created.first_key.secret))
        told = {"name": organization.name, "key_id": key.id, "initial_credits": credits_}
        await change.note(self._done("organization.created", organization.id, actor, told))

    def _done(self, act: str, organization_id: str, actor: Actor, data: Mapping[str, Any]) -> Entry:
        return done(self._clock.now(), actor, act, organization_id, organization_id, data)
