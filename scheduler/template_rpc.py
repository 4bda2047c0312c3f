"""The door of mesh.workflows.v1.Templates."""

from typing import Any

from mesh.workflows.v1 import templates_pb2, templates_pb2_grpc

from scheduler import workflow_wire
from scheduler.templates import Template, Templates
from scheduler.wire import page_limit


class TemplatesServicer(templates_pb2_grpc.TemplatesServicer):
    """Workflows to begin with."""

    def __init__(self, templates: Templates) -> None:
        self._templates = templates

    async def ListTemplates(
        self, request: templates_pb2.ListTemplatesRequest, _context: Any
    ) -> templates_pb2.ListTemplatesResponse:
        found, after = self._templates.page(limit=page_limit(request.limit), after=request.after)
        return templates_pb2.ListTemplatesResponse(templates=[_to_wire(one) for one in found], next=after)

    async def GetTemplate(
        self, request: templates_pb2.GetTemplateRequest, _context: Any
    ) -> templates_pb2.GetTemplateResponse:
        found = await self._templates.get(request.organization_id, request.id)
        prompt = workflow_wire.prompt(found.prompt)
        return templates_pb2.GetTemplateResponse(template=_to_wire(found), code=found.code, prompt=prompt)


def _to_wire(found: Template) -> templates_pb2.Template:
    return templates_pb2.Template(
        id=found.id,
        name=found.name,
        description=found.description,
        env_vars=workflow_wire.env_vars(found.env_vars),
        service_id=found.service_id,
    )
