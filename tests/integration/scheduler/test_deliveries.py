"""The record of a run that has ended, from the transaction that ends it to the last word about its delivery."""

import asyncio

import pytest
from mesh.runs.v1 import deliveries_pb2, deliveries_pb2_grpc, run_pb2

from kit.errors import Invalid, NotFound
from kit.rpc_client import connect, unary
from scheduler.settings import Settings
from tests.integration.scheduler.rig import Neighbours, Service, running

URL = "https://a.example/hook"
DELIVERED = deliveries_pb2.SettleDeliveryRequest.OUTCOME_DELIVERED


async def ended(service: Service) -> str:
    """A run that asked for its record, and is over by its executor's report."""
    await service.beat()
    run_id = await service.submit(await service.deploy(), callback_url=URL)
    await service.until(run_id, run_pb2.RUN_STATUS_RUNNING)
    await service.report(ended=run_id)
    return run_id


async def test_from_the_end_of_a_run_to_its_delivery(settings: Settings, neighbours: Neighbours) -> None:
    told = asyncio.Event()

    async def due(_subject: str, _payload: bytes) -> None:
        told.set()

    listed = deliveries_pb2.ListDeliveriesRequest(organization_id="org_a")
    claim = deliveries_pb2.ClaimDeliveriesRequest(limit=10)
    async with running(settings, neighbours) as service, service.bus.subscribed("event.delivery.due", due):
        listed.run_id = await ended(service)
        await asyncio.wait_for(told.wait(), 10)
    async with running(settings, neighbours), connect(settings.address("scheduler")) as channel:
        stub = deliveries_pb2_grpc.DeliveriesStub(channel)
        assert not (await unary(stub.ClaimDeliveries, _without_host(claim))).deliveries
        (claimed,) = (await unary(stub.ClaimDeliveries, claim)).deliveries
        assert (claimed.run_id, claimed.organization_id, claimed.url) == (listed.run_id, "org_a", URL)
        assert (claimed.host, claimed.attempts, claimed.state) == ("a.example:443", 1, 1)
        assert not (await unary(stub.ClaimDeliveries, claim)).deliveries
        settle = deliveries_pb2.SettleDeliveryRequest(id=claimed.id, attempt=1, outcome=DELIVERED, status=200)
        for _ in range(2):
            await unary(stub.SettleDelivery, settle)
        (found,) = (await unary(stub.ListDeliveries, listed)).deliveries
        assert (found.state, found.last_status) == (deliveries_pb2.DELIVERY_STATE_DELIVERED, 200)
        assert found.HasField("delivered_at")
        assert not found.HasField("next_attempt_at")
        listed.organization_id = "org_b"
        with pytest.raises(NotFound):
            await unary(stub.ListDeliveries, listed)


async def test_an_address_that_no_edge_sends_starts_nothing(service: Service) -> None:
    version = await service.deploy()
    with pytest.raises(Invalid):
        await service.submit(version, callback_url="file:///etc/passwd")


def _without_host(claim: deliveries_pb2.ClaimDeliveriesRequest) -> deliveries_pb2.ClaimDeliveriesRequest:
    return deliveries_pb2.ClaimDeliveriesRequest(limit=claim.limit, without_hosts=["a.example:443"])
