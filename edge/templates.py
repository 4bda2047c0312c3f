"""/templates: workflows to begin with."""

import json
from dataclasses import dataclass
from typing import Any, Protocol

from edge.http import Answer, Request, json_answer
from edge.model import Prompt


@dataclass(frozen=True)
class Template:
    """`env_vars`: by name, with their defaults; None: a secret that has to be there. `source` is code or a prompt,
    empty in lists. `service_id`: what a copy is called where its maker doesn't say.
    """

    id: str
    name: str
    description: str
    service_id: str
    env_vars: dict[str, str | None]
    source: str | Prompt = ""

    @property
    def copy_id(self) -> str:
        """The service id of a copy; empty for a prompt, whose id is given to it."""
        return self.service_id if isinstance(self.source, str) else ""


class Templates(Protocol):
    """The scheduler's."""

    async def list_templates(self, limit: int, after: str) -> tuple[list[Template], str]:
        """A page, and the token of the next; empty on the last."""
        ...

    async def template(self, organization_id: str, template_id: str) -> Template:
        """With its source. Errors: NotFound."""
        ...


class TemplateHandlers:
    """Handlers of mesh.edge.v1.Templates."""

    def __init__(self, templates: Templates) -> None:
        self._templates = templates

    async def list_templates(self, request: Request) -> Answer:
        limit, after = request.page()
        found, following = await self._templates.list_templates(limit, after)
        return json_answer({"items": [_item(each) for each in found], "next": following or None})

    async def get(self, request: Request) -> Answer:
        found = await self._templates.template(request.who.organization_id, request.params["template_id"])
        return json_answer(_item(found) | _shown(found.source))


def _item(template: Template) -> dict[str, Any]:
    return {
        "id": template.id,
        "name": template.name,
        "description": template.description,
        "secrets": [name for name, default in template.env_vars.items() if default is None],
        "defaults": {name: default for name, default in template.env_vars.items() if default is not None},
    }


def _shown(source: str | Prompt) -> dict[str, Any]:
    """As `POST /deploy` takes it."""
    if isinstance(source, str):
        return {"kind": "code", "code": source}
    return {
        "kind": "prompt",
        "template": source.template,
        "model": source.model,
        "parameters": json.loads(source.parameters),
        "web_search": source.web_search,
    }
