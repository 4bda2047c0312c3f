"""Two templates: one of code, one of a prompt."""

from dataclasses import replace

from edge.model import Prompt
from edge.templates import Template
from kit.errors import NotFound

FINDER = Template("finder", "Finder", "Finds.", "finder", {"TOKEN": None, "MODE": "fast"})
SOURCES: dict[str, str | Prompt] = {"finder": "the code", "asking": Prompt("Tell of {{ x }}", "openai/m")}


class MemoryTemplates:
    """edge.templates.Templates."""

    async def list_templates(self, limit: int, after: str) -> tuple[list[Template], str]:
        """A page."""
        assert (limit, after) == (2, "a")
        return [FINDER], "b"

    async def template(self, organization_id: str, template_id: str) -> Template:
        """With its source."""
        assert organization_id == "org_1"
        if template_id not in SOURCES:
            raise NotFound("no")
        return replace(FINDER, source=SOURCES[template_id])
