"""The audit log: administrative acts, each written in the transaction of what it tells of (audit_store.note)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from keys.model import Page, page_size
from kit.names import new_id


@dataclass(frozen=True)
class Entry:
    """`act` as key.issued; `subject`: the id or name that was acted on, which is `organization_id`'s. The actor is
    empty where the platform itself acts. `data` is shown as JSON: never a secret.
    """

    at: datetime
    act: str
    subject: str
    organization_id: str
    actor_key_id: str = ""
    actor_organization_id: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)
    id: str = field(default_factory=lambda: new_id("aud"))


@dataclass(frozen=True)
class Actor:
    """Whoever does it; empty: the platform itself."""

    key_id: str = ""
    organization_id: str = ""


PLATFORM = Actor()


def done(at: datetime, actor: Actor, act: str, subject: str, organization_id: str, data: Mapping[str, Any]) -> Entry:
    """That somebody has done it."""
    return Entry(at, act, subject, organization_id, actor.key_id, actor.organization_id, data)


class AuditLog(Protocol):
    """All entries."""

    async def page(self, organization_id: str, limit: int, after: str) -> list[Entry]:
        """Newest first, those before the id `after` (empty: all): what the organization did or was done to it."""
        ...


class Audit:
    """Reads the log."""

    def __init__(self, log: AuditLog) -> None:
        self._log = log

    async def page(self, organization_id: str, limit: int, after: str) -> Page[Entry]:
        """Newest first. Errors: Invalid for a limit out of range."""
        size = page_size(limit)
        entries = await self._log.page(organization_id, size + 1, after)
        return Page(entries[:size], entries[size - 1].id if len(entries) > size else "")
