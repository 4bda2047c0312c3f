"""Calls to keys. By its shape this is the port of charge.py and files.py."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from mesh.ledger.v1 import ledger_pb2, ledger_pb2_grpc, prices_pb2, prices_pb2_grpc

from filestore.storage import Price, StorageBill
from kit.errors import Problem, Unavailable
from kit.rpc_client import unary
from kit.telemetry import log

METER = "storage"
_SECONDS = 10.0


class LedgerClient:
    """charge.Ledger and files.Prices."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._ledger = ledger_pb2_grpc.LedgerStub(channel)
        self._prices = prices_pb2_grpc.PricesStub(channel)

    async def prices(self, since: datetime) -> Sequence[Price]:
        request = prices_pb2.ListPricesRequest(since=_time(since))
        reply: prices_pb2.ListPricesResponse = await _ask(self._prices.ListPrices, request)
        return [_price(price) for price in reply.prices if price.meter == METER]

    async def settle(self, bills: Sequence[StorageBill]) -> None:
        await _ask(self._ledger.Settle, ledger_pb2.SettleRequest(bills=map(_bill, bills)))


async def _ask(method: Any, request: Any) -> Any:
    """Errors: Unavailable, whatever it is: nothing may be left out."""
    try:
        return await unary(method, request, timeout=_SECONDS, retry=True)
    except Unavailable:
        raise
    except (Problem, grpc.aio.AioRpcError) as error:
        log().error("ledger.broken", reason=str(error))
        raise Unavailable("the ledger failed") from error


def _bill(bill: StorageBill) -> ledger_pb2.Bill:
    return ledger_pb2.Bill(
        run_id=bill.id,
        root_id=bill.id,
        organization_id=bill.organization_id,
        reserved=bill.amount,
        charge=bill.amount,
        lines=[ledger_pb2.BillLine(meter=METER, quantity=bill.mb_days, amount=bill.amount)],
        at=_time(bill.at),
    )


def _price(price: prices_pb2.Price) -> Price:
    until = price.valid_until.ToDatetime(tzinfo=UTC) if price.HasField("valid_until") else None
    return Price(price.micro_credits_per_million, price.valid_from.ToDatetime(tzinfo=UTC), until)


def _time(moment: datetime) -> Timestamp:
    message = Timestamp()
    message.FromDatetime(moment)
    return message
