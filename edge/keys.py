"""/keys and /organizations."""

from datetime import datetime, timedelta
from typing import Any, Protocol

from edge.fields import Fields
from edge.http import Answer, Request, json_answer
from edge.model import ApiKey, Principal, iso
from kit.errors import Invalid

MAX_OVERLAP = timedelta(days=30)


class Keys(Protocol):
    """The keys service."""

    async def issue(
        self, issuer: Principal, name: str, kind: str, scopes: tuple[str, ...], expires_at: datetime | None
    ) -> tuple[ApiKey, str]:
        """The key's description and the key itself. Errors: Denied, Invalid."""
        ...

    async def list_keys(self, organization_id: str, limit: int, after: str) -> tuple[list[ApiKey], str]:
        """A page, and the token of the next; empty on the last."""
        ...

    async def revoke(self, organization_id: str, key_id: str) -> None:
        """Errors: NotFound."""
        ...

    async def rotate(self, issuer: Principal, key_id: str, overlap: timedelta) -> tuple[ApiKey, str]:
        """The successor. Errors: Denied, NotFound."""
        ...

    async def create_organization(self, name: str) -> tuple[str, str]:
        """Its id and its first key. Errors: Invalid."""
        ...


class KeyHandlers:
    """Handlers of mesh.edge.v1.Keys."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    async def issue(self, request: Request) -> Answer:
        """The answer is the only place where the key is ever shown."""
        fields = Fields(await request.json())
        kind = fields.choice("kind", ("standard", "one_time"))
        name, scopes, expires_at = fields.text("name"), fields.texts("scopes"), fields.moment("expires_at")
        fields.integer("overlap_seconds", lowest=0, highest=int(MAX_OVERLAP.total_seconds()))
        fields.done()
        if not kind:
            raise Invalid("kind is missing; it must be standard or one_time")
        key, secret = await self._keys.issue(request.who, name, kind, scopes, expires_at)
        shown = {name: value for name, value in _shown(key).items() if name in _ISSUED}
        return json_answer({"id": key.id, "key": secret} | shown)

    async def list_keys(self, request: Request) -> Answer:
        limit, after = request.page()
        keys, following = await self._keys.list_keys(request.who.organization_id, limit, after)
        return json_answer({"items": [_shown(key) for key in keys], "next": following or None})

    async def revoke(self, request: Request) -> Answer:
        key_id = request.params["key_id"]
        await self._keys.revoke(request.who.organization_id, key_id)
        return json_answer({"id": key_id, "revoked": True})

    async def rotate(self, request: Request) -> Answer:
        fields = Fields(await request.json())
        overlap = fields.integer("overlap_seconds", lowest=0, highest=int(MAX_OVERLAP.total_seconds()))
        fields.done()
        successor, secret = await self._keys.rotate(
            request.who, request.params["key_id"], timedelta(seconds=overlap or 0)
        )
        return json_answer({"id": successor.id, "key": secret})

    async def create_organization(self, request: Request) -> Answer:
        fields = Fields(await request.json())
        name = fields.needed("name", longest=200)
        fields.done()
        organization_id, secret = await self._keys.create_organization(name)
        return json_answer({"id": organization_id, "name": name, "key": secret})


_ISSUED = ("kind", "prefix", "scopes", "expires_at")


def _shown(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "kind": key.kind,
        "prefix": key.prefix,
        "scopes": list(key.scopes),
        "created_at": iso(key.created_at),
        "expires_at": iso(key.expires_at),
        "revoked_at": iso(key.revoked_at),
    }
