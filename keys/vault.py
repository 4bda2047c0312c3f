"""Secrets of organizations: put, listed, deleted by their owners; read by executors only."""

from collections.abc import Sequence
from typing import Protocol

from keys.audit import Entry
from keys.model import Page, Resolved, SecretInfo, check_hosts, check_secret_name, check_secret_value, page_size
from kit.clock import Clock
from kit.errors import Invalid, NotFound

MAX_NAMES = 1000


class Seal(Protocol):
    """Encryption that is bound to the place of a secret: what was sealed for one opens for no other."""

    def seal(self, organization_id: str, name: str, value: str) -> bytes: ...

    def open(self, organization_id: str, name: str, sealed: bytes) -> str:
        """Errors: Tampered when `sealed` was made for another place or was changed."""
        ...


class SecretStore(Protocol):
    """Sealed secrets. What changes one also tells everybody that it changed, and enters `entry` in the audit log."""

    async def put(self, organization_id: str, secret: SecretInfo, sealed: bytes, entry: Entry) -> None: ...

    async def delete(self, organization_id: str, name: str, entry: Entry) -> bool:
        """Whether there was one."""
        ...

    async def page(self, organization_id: str, limit: int, after: str) -> list[SecretInfo]:
        """By name, those after `after`."""
        ...

    async def sealed(self, organization_id: str, names: Sequence[str]) -> dict[str, tuple[bytes, tuple[str, ...]]]:
        """(box, hosts) of those of `names` that exist."""
        ...


class Vault:
    """All that is done with secrets."""

    def __init__(self, secrets: SecretStore, seal: Seal, clock: Clock) -> None:
        self._secrets = secrets
        self._seal = seal
        self._clock = clock

    async def put(self, organization_id: str, name: str, value: str, hosts: Sequence[str], actor_key_id: str) -> None:
        """Makes or replaces it. Errors: Invalid for a bad or reserved name, a bad host, a value over 64 KiB or, with
        hosts, one that is unfit for a header.
        """
        secret = SecretInfo(check_secret_name(name), check_hosts(hosts), self._clock.now())
        sealed = self._seal.seal(organization_id, name, check_secret_value(value, secret.hosts))
        told = {"hosts": list(secret.hosts)} if secret.hosts else {}
        entry = Entry(secret.updated_at, "secret.put", name, organization_id, actor_key_id, organization_id, told)
        await self._secrets.put(organization_id, secret, sealed, entry)

    async def delete(self, organization_id: str, name: str, actor_key_id: str) -> None:
        """Errors: NotFound."""
        entry = Entry(self._clock.now(), "secret.deleted", name, organization_id, actor_key_id, organization_id)
        if not await self._secrets.delete(organization_id, name, entry):
            raise NotFound("no such secret")

    async def page(self, organization_id: str, limit: int, after: str) -> Page[SecretInfo]:
        """By name, never with a value. Errors: Invalid for a limit out of range."""
        size = page_size(limit)
        secrets = await self._secrets.page(organization_id, size + 1, after)
        return Page(secrets[:size], secrets[size - 1].name if len(secrets) > size else "")

    async def resolve(self, organization_id: str, names: Sequence[str]) -> dict[str, Resolved]:
        """By name, those that exist. Errors: Invalid for over 1000 names."""
        if len(names) > MAX_NAMES:
            raise Invalid(f"at most {MAX_NAMES} secrets at a time")
        sealed = await self._secrets.sealed(organization_id, names)
        return {
            name: Resolved(self._seal.open(organization_id, name, box), hosts) for name, (box, hosts) in sealed.items()
        }
