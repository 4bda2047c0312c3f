"""/secrets: written and listed, never read."""

from typing import Protocol

from edge.fields import Fields
from edge.http import Answer, Request, json_answer
from edge.model import Principal, SecretInfo, iso
from kit.errors import Invalid

MAX_VALUE_LENGTH = 64 * 1024


class Secrets(Protocol):
    """The keys service."""

    async def put(self, who: Principal, name: str, value: str, hosts: tuple[str, ...]) -> None:
        """Errors: Invalid."""
        ...

    async def list_secrets(self, organization_id: str, limit: int, after: str) -> tuple[list[SecretInfo], str]:
        """A page, and the token of the next; empty on the last."""
        ...

    async def delete(self, who: Principal, name: str) -> None:
        """Errors: NotFound."""
        ...


class SecretHandlers:
    """Handlers of mesh.edge.v1.Secrets."""

    def __init__(self, secrets: Secrets) -> None:
        self._secrets = secrets

    async def list_secrets(self, request: Request) -> Answer:
        limit, after = request.page()
        found, following = await self._secrets.list_secrets(request.who.organization_id, limit, after)
        items = [{"name": each.name, "updated_at": iso(each.updated_at), "hosts": list(each.hosts)} for each in found]
        return json_answer({"items": items, "next": following or None})

    async def put(self, request: Request) -> Answer:
        body = await request.json()
        fields = Fields(body)
        value, hosts = fields.text("value", longest=MAX_VALUE_LENGTH), fields.texts("hosts")
        fields.done()
        if body.get("value") is None:
            raise Invalid("value is missing")
        await self._secrets.put(request.who, request.params["name"], value, hosts)
        return json_answer({"name": request.params["name"]})

    async def delete(self, request: Request) -> Answer:
        await self._secrets.delete(request.who, request.params["name"])
        return json_answer({"name": request.params["name"], "deleted": True})
