"""The door: mesh.ledger.v1.Prices."""

from datetime import UTC, datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from mesh.ledger.v1 import prices_pb2, prices_pb2_grpc

from keys.audit import Actor
from keys.prices import Price, Prices
from kit.errors import Invalid


class PricesServicer(prices_pb2_grpc.PricesServicer):
    """The table of prices."""

    def __init__(self, prices: Prices) -> None:
        self._prices = prices

    async def ListPrices(self, request: prices_pb2.ListPricesRequest, _context: Any) -> prices_pb2.ListPricesResponse:
        since = _time(request.since, "since") if request.HasField("since") else None
        return prices_pb2.ListPricesResponse(prices=[_to_wire(price) for price in await self._prices.current(since)])

    async def SetPrice(self, request: prices_pb2.SetPriceRequest, _context: Any) -> prices_pb2.SetPriceResponse:
        actor = Actor(request.actor_key_id, request.actor_organization_id)
        valid_from = _time(request.valid_from, "valid_from") if request.HasField("valid_from") else None
        made = await self._prices.set(request.meter, request.micro_credits_per_million, valid_from, actor)
        return prices_pb2.SetPriceResponse(price=_to_wire(made))


def _to_wire(price: Price) -> prices_pb2.Price:
    return prices_pb2.Price(
        meter=price.meter,
        micro_credits_per_million=price.amount,
        valid_from=_timestamp(price.valid_from),
        valid_until=_timestamp(price.valid_until) if price.valid_until else None,
    )


def _time(message: Timestamp, name: str) -> datetime:
    """Errors: Invalid for a time that no calendar has."""
    try:
        return message.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise Invalid(f"{name} is no time between the years 1 and 9999") from error


def _timestamp(moment: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp
