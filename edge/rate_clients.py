"""keys' RateLimits: the adapter of permits.Permits."""

from collections.abc import Sequence

import grpc
from mesh.keys.v1 import rates_pb2, rates_pb2_grpc

from edge.permits import Bucket, Granted
from kit.rpc_client import unary


class PermitsClient:
    """permits.Permits."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = rates_pb2_grpc.RateLimitsStub(channel)

    async def take(self, wanted: Sequence[tuple[Bucket, int]]) -> Sequence[Granted]:
        request = rates_pb2.TakePermitsRequest(
            wanted=[
                rates_pb2.PermitsWanted(bucket=it.name, limit=it.limit, window_ms=it.window_ms, want=want)
                for it, want in wanted
            ]
        )
        # Asked again though some may be taken then: they are lost, which is better than a refusal.
        reply = await unary(self._stub.TakePermits, request, timeout=5.0, retry=True)
        return [Granted(it.granted, it.remaining, it.wait_ms, it.reset_ms) for it in reply.permits]
