"""templates.Templates over rpc."""

import grpc
from mesh.workflows.v1 import templates_pb2, templates_pb2_grpc

from edge.templates import Template
from edge.wire import from_prompt
from kit.rpc_client import unary


class TemplatesClient:
    """templates.Templates."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = templates_pb2_grpc.TemplatesStub(channel)

    async def list_templates(self, limit: int, after: str) -> tuple[list[Template], str]:
        request = templates_pb2.ListTemplatesRequest(limit=limit, after=after)
        reply = await unary(self._stub.ListTemplates, request, retry=True)
        return [_template(each, templates_pb2.GetTemplateResponse()) for each in reply.templates], reply.next

    async def template(self, organization_id: str, template_id: str) -> Template:
        request = templates_pb2.GetTemplateRequest(organization_id=organization_id, id=template_id)
        reply = await unary(self._stub.GetTemplate, request, retry=True)
        return _template(reply.template, reply)


def _template(message: templates_pb2.Template, whole: templates_pb2.GetTemplateResponse) -> Template:
    return Template(
        id=message.id,
        name=message.name,
        description=message.description,
        service_id=message.service_id,
        env_vars={each.name: each.default if each.HasField("default") else None for each in message.env_vars},
        source=from_prompt(whole.prompt) if whole.HasField("prompt") else whole.code,
    )
