"""What deliveries use of the mesh: adapters of the ports that deliver.py, deliveries.py and webhooks.py declare."""

from collections.abc import Collection

import grpc
from mesh.keys.v1 import webhooks_pb2, webhooks_pb2_grpc
from mesh.runs.v1 import deliveries_pb2, deliveries_pb2_grpc

from edge.delivery import Attempt, Delivery, WebhookSecret
from edge.model import Principal
from edge.run_model import Asker
from edge.run_wire import from_time
from kit.rpc_client import unary

_STATES = {
    deliveries_pb2.DELIVERY_STATE_PENDING: "pending",
    deliveries_pb2.DELIVERY_STATE_DELIVERED: "delivered",
    deliveries_pb2.DELIVERY_STATE_FAILED: "failed",
}


class DeliveriesClient:
    """deliver.Deliveries and deliveries.Deliveries."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = deliveries_pb2_grpc.DeliveriesStub(channel)

    async def claim(self, limit: int, hosts: Collection[str], organizations: Collection[str]) -> list[Delivery]:
        request = deliveries_pb2.ClaimDeliveriesRequest(
            limit=limit, without_hosts=hosts, without_organizations=organizations
        )
        return [_delivery(each) for each in (await unary(self._stub.ClaimDeliveries, request)).deliveries]

    async def settle(self, delivery_id: str, attempt: int, how: Attempt) -> None:
        request = deliveries_pb2.SettleDeliveryRequest(
            id=delivery_id,
            attempt=attempt,
            outcome=deliveries_pb2.SettleDeliveryRequest.Outcome.ValueType(int(how.verdict)),
            status=how.status,
            error=how.error,
        )
        await unary(self._stub.SettleDelivery, request, retry=True)

    async def of_run(self, asker: Asker, run_id: str) -> list[Delivery]:
        request = deliveries_pb2.ListDeliveriesRequest(
            organization_id=asker.organization_id, run_id=run_id, one_time_key_id=asker.one_time_key_id
        )
        return [_delivery(each) for each in (await unary(self._stub.ListDeliveries, request, retry=True)).deliveries]


class WebhooksClient:
    """deliver.Secrets and webhooks.Secrets."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = webhooks_pb2_grpc.WebhooksStub(channel)

    async def webhook_secret(self, organization_id: str) -> WebhookSecret:
        request = webhooks_pb2.GetWebhookSecretRequest(organization_id=organization_id)
        return _secret((await unary(self._stub.GetWebhookSecret, request, retry=True)).secret)

    async def rotate(self, who: Principal) -> WebhookSecret:
        request = webhooks_pb2.RotateWebhookSecretRequest(organization_id=who.organization_id, actor_key_id=who.key_id)
        return _secret((await unary(self._stub.RotateWebhookSecret, request)).secret)


def _delivery(message: deliveries_pb2.Delivery) -> Delivery:
    return Delivery(
        id=message.id,
        run_id=message.run_id,
        organization_id=message.organization_id,
        url=message.url,
        host=message.host,
        # A state that we don't know yet is one of many ways not to be there.
        state=_STATES.get(message.state, "pending"),
        attempts=message.attempts,
        created_at=from_time(message.created_at),
        next_attempt_at=from_time(message.next_attempt_at) if message.HasField("next_attempt_at") else None,
        last_status=message.last_status,
        last_error=message.last_error,
        delivered_at=from_time(message.delivered_at) if message.HasField("delivered_at") else None,
    )


def _secret(message: webhooks_pb2.WebhookSecret) -> WebhookSecret:
    until = from_time(message.previous_until) if message.HasField("previous_until") else None
    return WebhookSecret(message.secret, from_time(message.created_at), message.previous, until)
