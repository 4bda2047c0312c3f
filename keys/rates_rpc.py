"""The door: mesh.keys.v1.RateLimits."""

from dataclasses import asdict
from typing import Any

from mesh.keys.v1 import rates_pb2, rates_pb2_grpc

from keys.rates import TakePermits, Wanted


class RateLimitsServicer(rates_pb2_grpc.RateLimitsServicer):
    """Permits for calls."""

    def __init__(self, take: TakePermits) -> None:
        self._take = take

    async def TakePermits(self, request: rates_pb2.TakePermitsRequest, _context: Any) -> rates_pb2.TakePermitsResponse:
        wanted = [Wanted(each.bucket, each.limit, each.window_ms, each.want) for each in request.wanted]
        permits = await self._take(wanted)
        return rates_pb2.TakePermitsResponse(permits=[rates_pb2.Permits(**asdict(each)) for each in permits])
