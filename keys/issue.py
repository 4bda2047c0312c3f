"""Making, listing, rotating and revoking API keys."""

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol

from keys.mint import new_key, shown_prefix
from keys.model import DEFAULT_SCOPES, Key, KeyKind, Page, Principal, check_name, check_scopes, page_size
from keys.verify import KeyHash
from kit.clock import Clock
from kit.errors import Conflict, Denied, Invalid, NotFound
from kit.names import new_id

MAX_OVERLAP = timedelta(days=30)


class KeyChange(Protocol):
    """One transaction on keys."""

    async def get(self, organization_id: str, key_id: str) -> Key | None: ...

    async def add(self, key: Key, digest: bytes) -> None: ...

    async def save(self, key: Key) -> None:
        """Stores the key's new state. One that has just been revoked is also told to everybody."""
        ...


class KeyStore(Protocol):
    """The keys of all organizations."""

    def change(self) -> AbstractAsyncContextManager[KeyChange]:
        """Commits on leaving, undoes everything on an error. One at a time."""
        ...

    async def page(self, organization_id: str, limit: int, after: str) -> list[Key]:
        """The keys after the id `after`, oldest first."""
        ...


@dataclass(frozen=True)
class Issued:
    """A new key; `secret` is the key itself, which is shown this once."""

    key: Key
    secret: str


class Issue:
    """All that is done to keys. The edge checks that who asks has `admin`; the rules about rights are checked here."""

    def __init__(self, keys: KeyStore, key_hash: KeyHash, clock: Clock) -> None:
        self._keys = keys
        self._hash = key_hash
        self._clock = clock

    async def issue(
        self, issuer: Principal, *, name: str, kind: KeyKind, scopes: tuple[str, ...], expires_at: datetime | None
    ) -> Issued:
        """Errors: Denied for a scope that the issuer lacks, Invalid."""
        now = self._clock.now()
        if expires_at is not None and expires_at <= now:
            raise Invalid("expires_at lies in the past")
        granted = _granted(issuer, kind, scopes)
        issued = mint(issuer.organization_id, check_name(name, "a key"), kind, granted, now, expires_at)
        async with self._keys.change() as change:
            await change.add(issued.key, self._hash(issued.secret))
        return issued

    async def page(self, organization_id: str, limit: int, after: str) -> Page[Key]:
        """Oldest first, revoked and expired ones too. Errors: Invalid for a limit out of range."""
        size = page_size(limit)
        keys = await self._keys.page(organization_id, size + 1, after)
        return Page(keys[:size], keys[size - 1].id if len(keys) > size else "")

    async def revoke(self, organization_id: str, key_id: str) -> None:
        """Idempotent. Errors: NotFound, also for another organization's."""
        async with self._keys.change() as change:
            key = _existing(await change.get(organization_id, key_id))
            if key.revoked_at is None:
                await change.save(replace(key, revoked_at=self._clock.now()))

    async def rotate(self, issuer: Principal, key_id: str, overlap: timedelta) -> Issued:
        """A successor with the same kind, name and scopes, and as long a life; the old key ends after `overlap`.

        Errors: NotFound; Denied when the key can do what the issuer can't; Conflict for one that is dead or was
        rotated before; Invalid for an overlap that is negative or over 30 days.
        """
        if not timedelta(0) <= overlap <= MAX_OVERLAP:
            raise Invalid(f"overlap_seconds must be between 0 and {int(MAX_OVERLAP.total_seconds())}")
        now = self._clock.now()
        async with self._keys.change() as change:
            old = _existing(await change.get(issuer.organization_id, key_id))
            _check_rights(issuer, old.scopes)
            if not old.alive(now) or old.successor_id:
                raise Conflict("this key has ended or was rotated before; rotate its successor, or make a new key")
            expires_at = old.expires_at and now + (old.expires_at - old.created_at)
            issued = mint(old.organization_id, old.name, old.kind, old.scopes, now, expires_at)
            await change.add(issued.key, self._hash(issued.secret))
            await change.save(_retired(old, issued.key.id, now, overlap))
        return issued


def mint(
    organization_id: str, name: str, kind: KeyKind, scopes: tuple[str, ...], now: datetime, expires_at: datetime | None
) -> Issued:
    """A new key of an organization; not stored yet."""
    secret = new_key(kind)
    key = Key(new_id("key"), organization_id, name, kind, shown_prefix(secret), scopes, now, expires_at)
    return Issued(key, secret)


def _existing(key: Key | None) -> Key:
    if key is None:
        raise NotFound("no such key")
    return key


def _retired(old: Key, successor_id: str, now: datetime, overlap: timedelta) -> Key:
    if not overlap:
        return replace(old, revoked_at=now, successor_id=successor_id)
    end = now + overlap
    return replace(old, expires_at=min(old.expires_at or end, end), successor_id=successor_id)


def _granted(issuer: Principal, kind: KeyKind, scopes: tuple[str, ...]) -> tuple[str, ...]:
    """The scopes asked for, or the kind's defaults as far as the issuer has them. Errors: Denied, Invalid."""
    wanted = check_scopes(scopes)
    one_time = kind is KeyKind.ONE_TIME
    if not wanted:
        wanted = tuple(scope for scope in (("run",) if one_time else DEFAULT_SCOPES) if issuer.has(scope))
        if not wanted:
            raise Denied("your key has none of the scopes that a new key gets; name the scopes")
    if one_time and any(scope != "run" and not scope.startswith("run:") for scope in wanted):
        raise Invalid("a one-time key starts a run: it carries run or run:SERVICE only")
    _check_rights(issuer, wanted)
    return wanted


def _check_rights(issuer: Principal, scopes: tuple[str, ...]) -> None:
    if issuer.kind is KeyKind.ONE_TIME:
        raise Denied("a one-time key can't make keys")
    lacking = [scope for scope in scopes if not issuer.has(scope)]
    if lacking:
        raise Denied(f"your key lacks the scope {', '.join(lacking)}, so it can't give it")
