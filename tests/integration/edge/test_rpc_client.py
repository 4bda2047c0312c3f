"""A call to a service that is being started again, or stays away, by a real channel."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from mesh.telemetry.v1 import telemetry_pb2, telemetry_pb2_grpc

from kit.errors import Unavailable
from kit.rpc_client import connect, unary
from kit.rpc_server import RpcServer


async def read_metrics(address: str, *, retry: bool) -> Any:
    async with connect(address) as channel:
        stub: Any = telemetry_pb2_grpc.TelemetryStub(channel)
        return await unary(stub.ReadMetrics, telemetry_pb2.ReadMetricsRequest(), retry=retry)


async def test_who_may_ask_again_waits_for_a_service_that_starts(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/s.sock"
    asking = asyncio.create_task(read_metrics(address, retry=True))
    await asyncio.sleep(0.3)
    assert not asking.done()
    async with RpcServer(address, grace=1):
        assert b"runmesh_rpc_total" in (await asking).text


@pytest.mark.parametrize("retry", [True, False])
async def test_a_service_that_stays_away_is_told_within_a_second(tmp_path: Path, retry: bool) -> None:
    began = time.monotonic()
    with pytest.raises(Unavailable, match=r"^failed to connect"):
        await read_metrics(f"unix:{tmp_path}/s.sock", retry=retry)
    assert time.monotonic() - began < 5
