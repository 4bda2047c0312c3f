"""The stores of the keys service, in memory."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from keys.audit import Entry
from keys.hooks import Hook
from keys.limits import Rates
from keys.model import SYSTEM_ORGANIZATION, Key, KnownKey, Organization, SecretInfo
from keys.receipts import ReceiptKey
from keys.vault import MOST_SECRETS, SealedSecret, Sealing
from keys.webhooks import SealedPair
from kit.errors import NotFound


@dataclass
class _State:
    organizations: dict[str, Organization] = field(default_factory=dict)
    keys: dict[str, Key] = field(default_factory=dict)
    digests: dict[bytes, str] = field(default_factory=dict)
    revoked: list[str] = field(default_factory=list)
    credits: dict[str, int] = field(default_factory=dict)
    noted: list[Entry] = field(default_factory=list)

    def copy(self) -> "_State":
        known = dict(self.organizations), dict(self.keys), dict(self.digests)
        return _State(*known, list(self.revoked), dict(self.credits), list(self.noted))


class MemoryKeyStore:
    """Keys and organizations. `revoked`: the events that were sent; `noted`: the audit log, oldest first."""

    def __init__(self) -> None:
        self._state = _State()

    @asynccontextmanager
    async def change(self) -> AsyncIterator["MemoryKeyChange"]:
        state = self._state.copy()
        yield MemoryKeyChange(state)
        self._state = state

    async def by_hash(self, digest: bytes) -> KnownKey | None:
        key_id = self._state.digests.get(digest)
        if key_id is None:
            return None
        key = self._state.keys[key_id]
        organization = self._state.organizations[key.organization_id]
        credit = self._state.credits[organization.id]
        return KnownKey(key, organization.first, credit=credit, organization_rates=organization.rates)

    async def page(self, organization_id: str, limit: int, after: str) -> list[Key]:
        mine = [key for key in self._state.keys.values() if key.organization_id == organization_id and key.id > after]
        return sorted(mine, key=lambda key: key.id)[:limit]

    async def revoked(self) -> list[str]:
        return self._state.revoked

    async def noted(self) -> list[Entry]:
        return self._state.noted


class MemoryKeyChange:
    """One transaction."""

    def __init__(self, state: _State) -> None:
        self._state = state

    async def get(self, organization_id: str, key_id: str) -> Key | None:
        key = self._state.keys.get(key_id)
        return key if key and key.organization_id == organization_id else None

    async def add(self, key: Key, digest: bytes) -> None:
        if key.organization_id not in self._state.organizations:
            raise NotFound("no such organization")
        assert digest not in self._state.digests
        self._state.keys[key.id] = key
        self._state.digests[digest] = key.id

    async def save(self, key: Key) -> None:
        if key.revoked_at is not None and self._state.keys[key.id].revoked_at is None:
            self._state.revoked.append(key.id)
        self._state.keys[key.id] = key

    async def add_organization(self, organization: Organization, credits_: int = 0) -> None:
        self._state.organizations[organization.id] = organization
        self._state.credits[organization.id] = credits_

    async def set_rates(self, organization_id: str, rates: Rates) -> bool:
        known = self._state.organizations
        if organization_id in known:
            known[organization_id] = replace(known[organization_id], rates=rates)
        return organization_id in known

    async def note(self, entry: Entry) -> None:
        self._state.noted.append(entry)

    async def organization_exists(self, *, first: bool) -> bool:
        known = self._state.organizations
        return any(one.first for one in known.values()) if first else SYSTEM_ORGANIZATION in known


class MemorySecretStore:
    """Sealed secrets. `changed`: the events that were sent; `noted`: the audit log, oldest first."""

    def __init__(self, organizations: Sequence[str] = ("org_a", "org_b")) -> None:
        self._organizations = organizations
        self._rows: dict[tuple[str, str], tuple[SecretInfo, bytes]] = {}
        self._versions: dict[tuple[str, str], int] = {}
        self._changed: list[tuple[str, str]] = []
        self._noted: list[Entry] = []

    async def put(
        self, organization_id: str, secret: SecretInfo, seal: Sealing, entry: Entry, most: int = MOST_SECRETS
    ) -> bool:
        if organization_id not in self._organizations:
            raise NotFound("no such organization")
        place = (organization_id, secret.name)
        if place not in self._rows and sum(owner == organization_id for owner, _ in self._rows) >= most:
            return False
        self._versions[place] = self._versions.get(place, 0) + 1
        self._rows[place] = (secret, seal(self._versions[place], repr(secret.hosts)))
        self._changed.append((organization_id, secret.name))
        self._noted.append(entry)
        return True

    async def delete(self, organization_id: str, name: str, entry: Entry) -> bool:
        there = self._rows.pop((organization_id, name), None) is not None
        if there:
            self._versions[organization_id, name] += 1
            self._changed.append((organization_id, name))
            self._noted.append(entry)
        return there

    async def page(self, organization_id: str, limit: int, after: str) -> list[SecretInfo]:
        mine = [info for (owner, name), (info, _) in self._rows.items() if owner == organization_id and name > after]
        return sorted(mine, key=lambda info: info.name)[:limit]

    async def sealed(self, organization_id: str, names: Sequence[str]) -> dict[str, SealedSecret]:
        found = {name: self._rows.get((organization_id, name)) for name in names}
        return {
            name: SealedSecret(row[1], self._versions[organization_id, name], row[0].hosts, repr(row[0].hosts))
            for name, row in found.items()
            if row
        }

    async def changed(self) -> list[tuple[str, str]]:
        return self._changed

    async def noted(self) -> list[Entry]:
        return self._noted


class MemoryWebhookStore:
    """Webhook secrets."""

    def __init__(self, organizations: Sequence[str] = ("org_a", "org_b")) -> None:
        self._organizations = organizations
        self._rows: dict[str, SealedPair] = {}
        self._noted: list[Entry] = []

    async def find(self, organization_id: str) -> SealedPair | None:
        return self._rows.get(organization_id)

    async def add(self, organization_id: str, made: SealedPair) -> bool:
        if organization_id not in self._organizations:
            raise NotFound("no such organization")
        return self._rows.setdefault(organization_id, made) is made

    async def change(
        self, organization_id: str, change: Callable[[SealedPair, int], SealedPair], entry: Entry
    ) -> SealedPair | None:
        if organization_id not in self._rows:
            return None
        before = self._rows[organization_id]
        self._rows[organization_id] = change(before, before.version + 1)
        self._noted.append(entry)
        return self._rows[organization_id]

    async def noted(self) -> list[Entry]:
        return self._noted


class MemoryReceiptKeyStore:
    """Keys of receipts."""

    def __init__(self) -> None:
        self._rows: list[tuple[ReceiptKey, bytes]] = []
        self.noted: list[Entry] = []

    async def current(self) -> tuple[ReceiptKey, bytes] | None:
        return next((row for row in self._rows if row[0].retired_at is None), None)

    async def replace(self, before: str, made: ReceiptKey, sealed: bytes, told: Entry) -> bool:
        current = await self.current()
        if (current[0].id if current else "") != before:
            return False
        retired = [(replace(key, retired_at=key.retired_at or made.created_at), box) for key, box in self._rows]
        self._rows = [(made, sealed), *retired]
        self.noted.append(told)
        return True

    async def all(self) -> list[ReceiptKey]:
        return [key for key, _ in self._rows]


class MemoryHookStore:
    """Hooks."""

    def __init__(self, organizations: Sequence[str] = ("org_a", "org_b")) -> None:
        self._organizations = organizations
        self._rows: dict[bytes, tuple[Hook, bytes]] = {}
        self._noted: list[Entry] = []

    async def add(self, hook: Hook, digest: bytes, sealed: bytes, entry: Entry, most: int) -> bool:
        if hook.organization_id not in self._organizations:
            raise NotFound("no such organization")
        if len(await self.page(hook.organization_id, most, "")) >= most:
            return False
        self._rows[digest] = (hook, sealed)
        self._noted.append(entry)
        return True

    async def page(self, organization_id: str, limit: int, after: str) -> list[Hook]:
        mine = [hook for hook, _ in self._rows.values() if hook.organization_id == organization_id and hook.id > after]
        return sorted(mine, key=lambda hook: hook.id)[:limit]

    async def delete(self, organization_id: str, hook_id: str, entry: Entry) -> bool:
        for digest, (hook, _) in self._rows.items():
            if (hook.organization_id, hook.id) == (organization_id, hook_id):
                del self._rows[digest]
                self._noted.append(entry)
                return True
        return False

    async def by_hash(self, digest: bytes) -> tuple[Hook, bytes] | None:
        return self._rows.get(digest)

    async def noted(self) -> list[Entry]:
        return self._noted
