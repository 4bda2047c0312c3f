"""Permits over gRPC."""

import pytest
from mesh.keys.v1 import rates_pb2

from kit.errors import Invalid
from kit.rpc_client import unary
from tests.integration.keys.conftest import Service


async def take(service: Service, *wanted: rates_pb2.PermitsWanted) -> list[rates_pb2.Permits]:
    return list((await unary(service.rates.TakePermits, rates_pb2.TakePermitsRequest(wanted=wanted))).permits)


async def test_permits_are_taken_until_there_are_none(service: Service) -> None:
    key = rates_pb2.PermitsWanted(bucket="key:key_1:api", limit=3, window_ms=3_600_000, want=2)
    organization = rates_pb2.PermitsWanted(bucket="organization:org_1", limit=9, window_ms=3_600_000, want=1)
    first, other = await take(service, key, organization)
    assert (first.granted, first.remaining, first.wait_ms) == (2, 1, 0)
    assert (other.granted, other.remaining) == (1, 8)
    second, third = [(await take(service, key))[0] for _ in range(2)]
    assert (second.granted, second.remaining) == (1, 0)
    assert (third.granted, third.remaining) == (0, 0)
    assert 0 < third.wait_ms <= 1_200_000 < third.reset_ms <= 3_600_000


async def test_nonsense_is_refused(service: Service) -> None:
    with pytest.raises(Invalid):
        await take(service, rates_pb2.PermitsWanted(bucket="key:k", limit=0, window_ms=1000, want=1))
