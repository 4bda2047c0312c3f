"""/workflows/{service_id}/versions, /rollback and /traffic: which of a workflow's versions are served."""

from collections.abc import Callable
from typing import Any, Protocol

from edge.fields import Fields
from edge.http import Answer, Request, json_answer
from edge.model import Version, Workflow, iso
from edge.workflows import item, traffic, url
from kit.errors import Invalid

MOST_NUMBER = (1 << 31) - 1


class Served(Protocol):
    """The scheduler's side of it, for an organization's own workflows."""

    async def versions(
        self, organization_id: str, service_id: str, limit: int, after: str
    ) -> tuple[Workflow, list[Version], str]:
        """The workflow, a page of its versions, the newest first, and the token of the next; empty on the last.
        Errors: NotFound.
        """
        ...

    async def roll_back(self, organization_id: str, service_id: str, version: int) -> Workflow:
        """0 is what was served before. Errors: NotFound, Conflict."""
        ...

    async def split(self, organization_id: str, service_id: str, traffic: dict[int, int]) -> Workflow:
        """Errors: NotFound, Invalid."""
        ...


class ServingHandlers:
    """Handlers of mesh.edge.v1.Workflows. `public_url` has no slash at its end. `changed` is called before an answer
    tells of a change.
    """

    def __init__(self, served: Served, public_url: str, changed: Callable[[], None]) -> None:
        self._served = served
        self._public_url = public_url
        self._changed = changed

    async def versions(self, request: Request) -> Answer:
        limit, after = request.page()
        workflow, found, following = await self._served.versions(*_which(request), limit, after)
        shares = traffic(workflow)
        items = [
            {
                "version": one.number,
                "id": one.id,
                "created_at": iso(one.created_at),
                "python": one.python,
                "code_sha256": one.source_digest,
                "traffic": shares.get(str(one.number), 0),
                "url": f"{url(workflow, self._public_url)}@{one.number}",
            }
            for one in found
        ]
        return json_answer({"items": items, "next": following or None})

    async def roll_back(self, request: Request) -> Answer:
        fields = Fields(await request.json())
        version = fields.integer("version", lowest=1, highest=MOST_NUMBER)
        fields.done(known=["version"])
        return self._answer(await self._served.roll_back(*_which(request), version or 0))

    async def split(self, request: Request) -> Answer:
        shares = _shares(await request.json())
        return self._answer(await self._served.split(*_which(request), shares))

    def _answer(self, workflow: Workflow) -> Answer:
        self._changed()
        return json_answer(item(workflow, self._public_url) | {"traffic": traffic(workflow)})


def _which(request: Request) -> tuple[str, str]:
    return request.who.organization_id, request.params["service_id"]


def _shares(body: dict[str, Any]) -> dict[int, int]:
    """Errors: Invalid."""
    fields, shares = Fields(body), {}
    for name in body:
        if not (name.isascii() and name.isdecimal() and name[0] != "0" and len(name) < 10):
            raise Invalid(
                f'{name[:40]!r} is no version: per cent of the calls by version are asked for, {{"1": 90, "2": 10}}'
            )
        percent = fields.integer(name, lowest=0, highest=100)
        if percent is None:
            raise Invalid(f"the share of version {name} must be a whole number from 0 to 100")
        shares[int(name)] = percent
    return shares
