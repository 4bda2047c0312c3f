"""The door: mesh.runs.v1.Deliveries."""

from typing import Any

import prometheus_client
from mesh.runs.v1 import deliveries_pb2, deliveries_pb2_grpc

from scheduler import delivery_wire as wire
from scheduler.deliver import Deliver
from scheduler.model import Asker

SETTLED = prometheus_client.Counter(
    "runmesh_delivery_attempts_total", "Attempts to deliver the record of a run, by how they went.", ["outcome"]
)


class Deliveries(deliveries_pb2_grpc.DeliveriesServicer):
    """Records of runs on their way to who asked for them."""

    def __init__(self, deliver: Deliver) -> None:
        self._deliver = deliver

    async def ClaimDeliveries(
        self, request: deliveries_pb2.ClaimDeliveriesRequest, _context: Any
    ) -> deliveries_pb2.ClaimDeliveriesResponse:
        wire.check_claim(request)
        claimed = await self._deliver.claim(
            limit=request.limit,
            without_hosts=tuple(request.without_hosts),
            without_organizations=tuple(request.without_organizations),
        )
        return deliveries_pb2.ClaimDeliveriesResponse(deliveries=[wire.delivery(each) for each in claimed])

    async def SettleDelivery(
        self, request: deliveries_pb2.SettleDeliveryRequest, _context: Any
    ) -> deliveries_pb2.SettleDeliveryResponse:
        said = wire.settlement(request)
        if await self._deliver.settle(said):
            SETTLED.labels(said.verdict.name.lower()).inc()
        return deliveries_pb2.SettleDeliveryResponse()

    async def ListDeliveries(
        self, request: deliveries_pb2.ListDeliveriesRequest, _context: Any
    ) -> deliveries_pb2.ListDeliveriesResponse:
        found = await self._deliver.of(Asker(request.organization_id, request.one_time_key_id), request.run_id)
        return deliveries_pb2.ListDeliveriesResponse(deliveries=[wire.delivery(each) for each in found])
