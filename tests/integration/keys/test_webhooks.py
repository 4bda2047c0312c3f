"""Webhook secrets over gRPC, and what lies on the disk."""

import pytest
from mesh.keys.v1 import webhooks_pb2

from keys.settings import Settings
from kit.errors import NotFound
from kit.rpc_client import unary
from tests.integration.keys.conftest import Service, running


async def get(service: Service, organization_id: str) -> webhooks_pb2.WebhookSecret:
    request = webhooks_pb2.GetWebhookSecretRequest(organization_id=organization_id)
    return (await unary(service.webhooks.GetWebhookSecret, request)).secret


async def test_a_webhook_secret_outlives_the_process_and_never_lies_open(settings: Settings) -> None:
    async with running(settings) as service:
        organization = (await service.admin()).organization_id
        first = await get(service, organization)
        request = webhooks_pb2.RotateWebhookSecretRequest(organization_id=organization)
        second = (await unary(service.webhooks.RotateWebhookSecret, request)).secret
        assert (second.previous, second.secret == first.secret) == (first.secret, False)
        assert second.previous_until.seconds - second.created_at.seconds == 24 * 3600
        with pytest.raises(NotFound):
            await get(service, "org_unknown")
        files = [path for path in settings.home.rglob("*") if path.is_file()]
        for secret in (first.secret, second.secret):
            assert not [path for path in files if secret.removeprefix("whsec_").encode() in path.read_bytes()]
    async with running(settings) as service:
        assert await get(service, organization) == second
