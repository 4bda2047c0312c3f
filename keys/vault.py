"""Secrets of organizations: put, listed, deleted by their owners; read by executors only."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from keys.audit import Entry
from keys.model import Page, Resolved, SecretInfo, check_hosts, check_secret_name, check_secret_value, page_size
from kit.clock import Clock
from kit.errors import Exhausted, Invalid, NotFound

MAX_NAMES = 1000
# Of one organization: each has up to 64 KiB in the database that everybody's keys are in.
MOST_SECRETS = 1000


class Seal(Protocol):
    """Encryption that is bound to the place of a secret: what was sealed for one opens for no other. `version`: of what
    is replaced by others of the same name; `bound`: what else the value is only good with.
    """

    def seal(self, organization_id: str, name: str, value: str, *, version: int = 0, bound: str = "") -> bytes: ...

    def open(self, organization_id: str, name: str, sealed: bytes, *, version: int = 0, bound: str = "") -> str:
        """Errors: Tampered when `sealed` was made for another place or version, or was changed."""
        ...


@dataclass(frozen=True)
class SealedSecret:
    """As it is kept. `version`: the newest of its name, whatever the box says; `bound`: its hosts, as they are kept."""

    box: bytes
    version: int
    hosts: tuple[str, ...]
    bound: str


# Seals a value for the version and bound to the text that it is given.
Sealing = Callable[[int, str], bytes]


class SecretStore(Protocol):
    """Sealed secrets. What changes one also tells everybody that it changed, and enters `entry` in the audit log."""

    async def put(
        self, organization_id: str, secret: SecretInfo, seal: Sealing, entry: Entry, most: int = MOST_SECRETS
    ) -> bool:
        """False when it would be a new one and its organization has `most` already."""
        ...

    async def delete(self, organization_id: str, name: str, entry: Entry) -> bool:
        """Whether there was one. Its version counts as used."""
        ...

    async def page(self, organization_id: str, limit: int, after: str) -> list[SecretInfo]:
        """By name, those after `after`."""
        ...

    async def sealed(self, organization_id: str, names: Sequence[str]) -> dict[str, SealedSecret]:
        """Those of `names` that exist."""
        ...


class Vault:
    """All that is done with secrets."""

    def __init__(self, secrets: SecretStore, seal: Seal, clock: Clock) -> None:
        self._secrets = secrets
        self._seal = seal
        self._clock = clock

    async def put(self, organization_id: str, name: str, value: str, hosts: Sequence[str], actor_key_id: str) -> None:
        """Makes or replaces it. Errors: Invalid for a bad or reserved name, a bad host, a value over 64 KiB or, with
        hosts, one that is unfit for a header; Exhausted.
        """
        secret = SecretInfo(check_secret_name(name), check_hosts(hosts), self._clock.now())
        checked = check_secret_value(value, secret.hosts)

        def sealing(version: int, bound: str) -> bytes:
            return self._seal.seal(organization_id, name, checked, version=version, bound=bound)

        told = {"hosts": list(secret.hosts)} if secret.hosts else {}
        entry = Entry(secret.updated_at, "secret.put", name, organization_id, actor_key_id, organization_id, told)
        if not await self._secrets.put(organization_id, secret, sealing, entry):
            raise Exhausted(
                f"an organization has at most {MOST_SECRETS} secrets: delete one (DELETE /secrets/NAME) before another"
                " is made",
                retry_after=timedelta(hours=1),
            )

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
        return {name: Resolved(self._opened(organization_id, name, one), one.hosts) for name, one in sealed.items()}

    def _opened(self, organization_id: str, name: str, one: SealedSecret) -> str:
        return self._seal.open(organization_id, name, one.box, version=one.version, bound=one.bound)
