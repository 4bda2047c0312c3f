"""Prices over gRPC."""

import dataclasses
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from mesh.ledger.v1 import prices_pb2

from keys import main
from keys.prices import Price
from keys.settings import Settings
from kit.errors import Invalid
from kit.rpc_client import unary
from tests.integration.keys.conftest import Service, running


async def listed(service: Service) -> dict[str, list[int]]:
    """The amounts of each meter, the one of now first."""
    found: dict[str, list[int]] = {}
    for price in (await unary(service.prices.ListPrices, prices_pb2.ListPricesRequest())).prices:
        found.setdefault(price.meter, []).append(price.micro_credits_per_million)
    return found


async def put(service: Service, meter: str, amount: int, when: datetime | None = None) -> prices_pb2.Price:
    request = prices_pb2.SetPriceRequest(meter=meter, micro_credits_per_million=amount)
    if when is not None:
        request.valid_from.FromDatetime(when)
    return (await unary(service.prices.SetPrice, request)).price


async def test_a_new_mesh_has_prices_which_the_operator_may_change(settings: Settings) -> None:
    async with running(settings) as service:
        prices = await listed(service)
        assert prices["run"] == [100_000_000]
        assert prices["tokens:openai/gpt-4o-mini:in"] == [150_000]
        assert (await put(service, "run", 7)).HasField("valid_until") is False
        tomorrow = datetime.now(UTC) + timedelta(days=1)
        later = await put(service, "cpu", 8, tomorrow)
        assert later.valid_from.ToDatetime(UTC) == tomorrow
        assert await listed(service) == prices | {"run": [7], "cpu": [20_000, 8]}
    async with running(dataclasses.replace(settings, run_fee=5)) as service:  # a fee that was set by hand stays
        assert await listed(service) == prices | {"run": [7], "cpu": [20_000, 8]}


async def test_the_fee_is_a_setting_until_it_is_set_by_hand(settings: Settings) -> None:
    for fee in (3, 0):
        async with running(dataclasses.replace(settings, run_fee=fee)) as service:
            assert (await listed(service))["run"] == [fee * 1_000_000]


async def test_a_start_without_news_makes_no_list(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def price_list(run_fee: int) -> Sequence[Price]:
        made.append(run_fee)
        return ()

    monkeypatch.setattr(main, "price_list", price_list)
    for fee in (3, 3, 4):
        async with running(dataclasses.replace(settings, run_fee=fee)):
            pass
    assert made == [3, 4]


async def test_what_has_been_valid_is_told_to_who_asks_since_when(service: Service) -> None:
    before = Timestamp()
    before.FromDatetime(datetime.now(UTC))
    await put(service, "storage", 7)
    reply = await unary(service.prices.ListPrices, prices_pb2.ListPricesRequest(since=before))
    assert [price.micro_credits_per_million for price in reply.prices if price.meter == "storage"] == [700_000, 7]


async def test_nonsense_is_refused(service: Service) -> None:
    yesterday = datetime.now(UTC) - timedelta(days=1)
    for meter, amount, when in (("gpu", 1, None), ("run", -1, None), ("run", 1, yesterday)):
        with pytest.raises(Invalid):
            await put(service, meter, amount, when)
    never = Timestamp(seconds=1 << 62)
    with pytest.raises(Invalid):
        await unary(service.prices.SetPrice, prices_pb2.SetPriceRequest(meter="run", valid_from=never))
    with pytest.raises(Invalid):
        await unary(service.prices.ListPrices, prices_pb2.ListPricesRequest(since=never))
