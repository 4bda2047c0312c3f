"""What keys serves of money, as fakes behind real gRPC: they remember what they were asked."""

from typing import Any

from mesh.ledger.v1 import audit_pb2, audit_pb2_grpc, ledger_pb2, ledger_pb2_grpc, prices_pb2, prices_pb2_grpc

from kit.errors import Exhausted, Invalid, NotFound

BALANCE = ledger_pb2.GetBalanceResponse(balance=2**53 - 1, reserved=5)


class FakeLedger(ledger_pb2_grpc.LedgerServicer):
    def __init__(self, requests: dict[str, Any]) -> None:
        self._requests = requests

    async def GetBalance(self, request: Any, context: Any) -> ledger_pb2.GetBalanceResponse:
        self._requests["GetBalance"] = request
        return BALANCE

    async def Grant(self, request: Any, context: Any) -> ledger_pb2.GrantResponse:
        self._requests["Grant"] = request
        if request.organization_id != "org_2":
            raise NotFound("no such organization")
        if request.amount < -7:
            raise Exhausted("it has 7 micro-credits", code="payment_required")
        return ledger_pb2.GrantResponse(balance=7 + request.amount)

    async def GetUsage(self, request: Any, context: Any) -> ledger_pb2.GetUsageResponse:
        self._requests["GetUsage"] = request
        item = ledger_pb2.UsageItem(group="2030-01-01", runs=3, amount=2**53 - 1)
        return ledger_pb2.GetUsageResponse(items=[item], next="2030-01-01")


class FakePrices(prices_pb2_grpc.PricesServicer):
    def __init__(self, requests: dict[str, Any]) -> None:
        self._requests = requests

    async def ListPrices(self, request: Any, context: Any) -> prices_pb2.ListPricesResponse:
        price = prices_pb2.Price(meter="run", micro_credits_per_million=100_000_000)
        price.valid_until.seconds = 1_900_000_000
        return prices_pb2.ListPricesResponse(prices=[price])

    async def SetPrice(self, request: Any, context: Any) -> prices_pb2.SetPriceResponse:
        self._requests["SetPrice"] = request
        if request.meter == "nothing":
            raise Invalid("no such meter")
        price = prices_pb2.Price(meter=request.meter, micro_credits_per_million=request.micro_credits_per_million)
        return prices_pb2.SetPriceResponse(price=price)


class FakeAudit(audit_pb2_grpc.AuditServicer):
    def __init__(self, requests: dict[str, Any]) -> None:
        self._requests = requests

    async def ListAudit(self, request: Any, context: Any) -> audit_pb2.ListAuditResponse:
        self._requests["ListAudit"] = request
        entry = audit_pb2.AuditEntry(id="aud_1", act="key.issued", subject="key_9", data='{"name":"n"}')
        return audit_pb2.ListAuditResponse(entries=[entry], next="aud_1")
