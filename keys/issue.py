"""Making, listing, rotating and revoking API keys."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Protocol

from keys.audit import Entry
from keys.limits import Binding, Budget, Rates, check_binding, check_money, check_rates
from keys.mint import new_key, shown_prefix
from keys.model import DEFAULT_SCOPES, Key, KeyKind, Page, Principal, check_name, check_scopes, page_size
from keys.verify import KeyHash
from kit.clock import Clock
from kit.errors import Conflict, Denied, Invalid, NotFound
from kit.names import new_id

MAX_OVERLAP = timedelta(days=30)
NO_RATES = Rates()


class KeyChange(Protocol):
    """One transaction on keys."""

    async def get(self, organization_id: str, key_id: str) -> Key | None: ...

    async def add(self, key: Key, digest: bytes) -> None: ...

    async def save(self, key: Key) -> None:
        """Stores the key's new state. One that has just been revoked is also told to everybody."""
        ...

    async def note(self, entry: Entry) -> None:
        """In the audit log."""
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
        self,
        issuer: Principal,
        *,
        name: str,
        kind: KeyKind,
        scopes: tuple[str, ...],
        expires_at: datetime | None,
        bind: Binding | None = None,
        budget: int | None = None,
        rates: Rates = NO_RATES,
    ) -> Issued:
        """`budget` in micro-credits. Errors: Denied for a scope that the issuer lacks, and to one that has a budget
        itself; Invalid.
        """
        now = self._clock.now()
        if expires_at is not None and expires_at <= now:
            raise Invalid("expires_at lies in the past")
        if bind is not None and kind is not KeyKind.ONE_TIME:
            raise Invalid("only a one-time key can be bound: make it with kind one_time, or leave bind out")
        granted = _granted(issuer, kind, scopes)
        issued = mint(issuer.organization_id, check_name(name, "a key"), kind, granted, now, expires_at)
        key = replace(issued.key, bind=bind and check_binding(bind), rates=check_rates(rates))
        if budget is not None:
            key = replace(key, budget=Budget(f"key:{key.id}", check_money(budget, "budget")))
        async with self._keys.change() as change:
            await change.add(key, self._hash(issued.secret))
            await change.note(_issued(issuer, key, now))
        return replace(issued, key=key)

    async def page(self, organization_id: str, limit: int, after: str) -> Page[Key]:
        """Oldest first, revoked and expired ones too. Errors: Invalid for a limit out of range."""
        size = page_size(limit)
        keys = await self._keys.page(organization_id, size + 1, after)
        return Page(keys[:size], keys[size - 1].id if len(keys) > size else "")

    async def revoke(self, organization_id: str, key_id: str, actor_key_id: str) -> None:
        """Idempotent. Errors: NotFound, also for another organization's."""
        now = self._clock.now()
        async with self._keys.change() as change:
            key = _existing(await change.get(organization_id, key_id))
            if key.revoked_at is None:
                await change.save(replace(key, revoked_at=now))
                await change.note(Entry(now, "key.revoked", key.id, organization_id, actor_key_id, organization_id))

    async def rotate(self, issuer: Principal, key_id: str, overlap: timedelta) -> Issued:
        """A successor with the same kind, name, scopes, binding and rates, the same budget (what is spent of it is
        spent), and as long a life; the old key ends after `overlap`.

        Errors: NotFound; Denied when the key can do what the issuer can't; Conflict for one that is dead or was
        rotated before; Invalid for an overlap that is negative or over 30 days.
        """
        if not timedelta(0) <= overlap <= MAX_OVERLAP:
            raise Invalid(f"overlap_seconds must be between 0 and {int(MAX_OVERLAP.total_seconds())}")
        now = self._clock.now()
        async with self._keys.change() as change:
            old = _existing(await change.get(issuer.organization_id, key_id))
            _check_rights(issuer, old.scopes, old.budget)
            if not old.alive(now) or old.successor_id:
                raise Conflict("this key has ended or was rotated before; rotate its successor, or make a new key")
            expires_at = old.expires_at and now + (old.expires_at - old.created_at)
            issued = mint(old.organization_id, old.name, old.kind, old.scopes, now, expires_at)
            shared_id = "" if old.budget else old.lineage_id
            successor = replace(issued.key, bind=old.bind, budget=old.budget, rates=old.rates, shared_id=shared_id)
            await change.add(successor, self._hash(issued.secret))
            await change.save(_retired(old, successor.id, now, overlap))
            told = {"successor_id": successor.id, "overlap_seconds": int(overlap.total_seconds())}
            await change.note(_done(issuer, "key.rotated", old.id, now, told))
        return replace(issued, key=successor)


def mint(
    organization_id: str, name: str, kind: KeyKind, scopes: tuple[str, ...], now: datetime, expires_at: datetime | None
) -> Issued:
    """A new key of an organization; not stored yet."""
    secret = new_key(kind)
    key = Key(new_id("key"), organization_id, name, kind, shown_prefix(secret), scopes, now, expires_at)
    return Issued(key, secret)


def _done(issuer: Principal, act: str, subject: str, at: datetime, data: Mapping[str, Any]) -> Entry:
    return Entry(at, act, subject, issuer.organization_id, issuer.key_id, issuer.organization_id, data)


def _issued(issuer: Principal, key: Key, now: datetime) -> Entry:
    told = {
        "name": key.name,
        "kind": key.kind,
        "scopes": list(key.scopes),
        "expires_at": key.expires_at and key.expires_at.isoformat(),
        "bind": key.bind and asdict(key.bind),
        "budget": key.budget and key.budget.limit,
        **asdict(key.rates),
    }
    return _done(issuer, "key.issued", key.id, now, {name: value for name, value in told.items() if value is not None})


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


def _check_rights(issuer: Principal, scopes: tuple[str, ...], budget: Budget | None = None) -> None:
    """`budget`: of the key to be. An issuer with one gives no more than that very budget: its keys would spend more."""
    if issuer.kind is KeyKind.ONE_TIME:
        raise Denied("a one-time key can't make keys")
    if issuer.budget is not None and (budget is None or budget.id != issuer.budget.id):
        raise Denied("a key that has a budget can't make or rotate other keys: their calls wouldn't count against it")
    lacking = [scope for scope in scopes if not issuer.has(scope)]
    if lacking:
        raise Denied(f"your key lacks the scope {', '.join(lacking)}, so it can't give it")
