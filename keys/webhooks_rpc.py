"""The door: mesh.keys.v1.Webhooks."""

from datetime import datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from mesh.keys.v1 import webhooks_pb2, webhooks_pb2_grpc

from keys.webhooks import SigningSecret, Webhooks


class WebhooksServicer(webhooks_pb2_grpc.WebhooksServicer):
    """Signing secrets of organizations."""

    def __init__(self, webhooks: Webhooks) -> None:
        self._webhooks = webhooks

    async def GetWebhookSecret(
        self, request: webhooks_pb2.GetWebhookSecretRequest, _context: Any
    ) -> webhooks_pb2.GetWebhookSecretResponse:
        found = await self._webhooks.get(request.organization_id)
        return webhooks_pb2.GetWebhookSecretResponse(secret=_to_wire(found))

    async def RotateWebhookSecret(
        self, request: webhooks_pb2.RotateWebhookSecretRequest, _context: Any
    ) -> webhooks_pb2.RotateWebhookSecretResponse:
        made = await self._webhooks.rotate(request.organization_id, request.actor_key_id)
        return webhooks_pb2.RotateWebhookSecretResponse(secret=_to_wire(made))


def _to_wire(secret: SigningSecret) -> webhooks_pb2.WebhookSecret:
    return webhooks_pb2.WebhookSecret(
        secret=secret.current,
        created_at=_timestamp(secret.created_at),
        previous=secret.previous,
        previous_until=_timestamp(secret.previous_until) if secret.previous_until else None,
    )


def _timestamp(moment: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp
