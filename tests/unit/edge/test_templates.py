"""edge.templates, and deploys of them."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import Any

import pytest

from edge.http import Answer, Request
from edge.model import Check, Principal, Prompt, Workflow
from edge.templates import TemplateHandlers
from edge.workflows import WorkflowHandlers
from kit.errors import NotFound
from tests.fakes.templates import MemoryTemplates

WHO = Principal("key_1", "org_1", "standard", frozenset({"deploy"}))
THEN = datetime(2030, 1, 1, tzinfo=UTC)
MADE = Workflow("org_1", "s", "S", "code", 1, "private", {}, "", THEN, THEN)


class Deployed:
    """As much of the catalogue as a deploy asks."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    async def deploy(self, *arguments: Any) -> tuple[Workflow, int, Sequence[Check]]:
        self.calls.append(arguments)
        return MADE, 1, []


def request(body: Any = None, query: str = "", **params: str) -> Request:
    async def sent() -> AsyncIterator[bytes]:
        yield json.dumps(body).encode()

    return Request("POST", "/", query=query, body=sent(), principal=WHO, params=params)


def body(answer: Answer) -> Any:
    assert isinstance(answer.body, bytes)
    return json.loads(answer.body)


async def test_they_are_listed_and_read() -> None:
    templates = TemplateHandlers(MemoryTemplates())
    item: dict[str, Any] = {"id": "finder", "name": "Finder", "description": "Finds."}
    item |= {"secrets": ["TOKEN"], "defaults": {"MODE": "fast"}}
    assert body(await templates.list_templates(request(query="limit=2&after=a"))) == {"items": [item], "next": "b"}
    whole = item | {"kind": "code", "code": "the code"}
    assert body(await templates.get(request(template_id="finder"))) == whole
    asking = body(await templates.get(request(template_id="asking")))
    assert (asking["kind"], asking["template"], asking["parameters"]) == ("prompt", "Tell of {{ x }}", {})


async def test_deploying_one() -> None:
    catalogue = Deployed()
    workflows: Any = WorkflowHandlers(
        catalogue,  # type: ignore[arg-type]
        MemoryTemplates(),
        "https://mesh.example",
        lambda: None,
        lambda _: nullcontext(""),
    )
    await workflows.deploy(request({"template_id": "finder"}))
    await workflows.deploy(request({"template_id": "finder", "name": "My finder"}, query="publish=false"))
    await workflows.deploy(request({"template_id": "finder", "service_id": "mine"}))
    await workflows.deploy(request({"template_id": "asking"}))
    assert catalogue.calls == [
        ("org_1", "the code", "Finder", "finder", True, ""),
        ("org_1", "the code", "My finder", "", False, ""),
        ("org_1", "the code", "mine", "mine", True, ""),
        ("org_1", Prompt("Tell of {{ x }}", "openai/m"), "Finder", "", True, ""),
    ]
    with pytest.raises(NotFound):
        await workflows.deploy(request({"template_id": "nothing"}))
