"""Keys, as the ports of money want it."""

from datetime import UTC
from typing import Any

import grpc
from mesh.ledger.v1 import ledger_pb2, ledger_pb2_grpc, prices_pb2, prices_pb2_grpc

from executor import wire
from executor.bill import Budget
from executor.prices import Price
from executor.purse import PATIENCE_SECONDS, Draw
from kit.errors import Unavailable
from kit.rpc_client import unary
from kit.telemetry import log


class LedgerClient:
    """purse.Ledger and prices.PriceSource."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._ledger = ledger_pb2_grpc.LedgerStub(channel)
        self._prices = prices_pb2_grpc.PricesStub(channel)

    async def draw(self, draw: Draw) -> int:
        request = ledger_pb2.DrawRequest(**{**vars(draw), "budgets": wire.to_budgets(draw.budgets)})
        return int((await self._ask(self._ledger.Draw, request)).amount)

    async def give_back(self, give_id: str, purse_id: str, amount: int) -> None:
        request = ledger_pb2.GiveBackRequest(id=give_id, purse_id=purse_id, amount=amount)
        await self._ask(self._ledger.GiveBack, request)

    async def keep(self, incarnation: str, purse_ids: list[str]) -> list[str]:
        request = ledger_pb2.KeepPursesRequest(incarnation=incarnation, purse_ids=purse_ids)
        return list((await self._ask(self._ledger.KeepPurses, request)).swept)

    async def room(self, organization_id: str, budgets: tuple[Budget, ...]) -> int:
        request = ledger_pb2.GetBalanceRequest(organization_id=organization_id, budgets=wire.to_budgets(budgets))
        return int((await self._ask(self._ledger.GetBalance, request)).room)

    async def prices(self) -> list[Price]:
        reply: prices_pb2.ListPricesResponse = await self._ask(self._prices.ListPrices, prices_pb2.ListPricesRequest())
        return [
            Price(
                price.meter,
                price.micro_credits_per_million,
                price.valid_from.ToDatetime(UTC),
                price.valid_until.ToDatetime(UTC) if price.HasField("valid_until") else None,
            )
            for price in reply.prices
        ]

    async def _ask(self, method: Any, request: Any) -> Any:
        """A ledger that fails may have done what it was asked all the same, as one that doesn't answer."""
        try:
            return await unary(method, request, timeout=PATIENCE_SECONDS)
        except grpc.aio.AioRpcError as error:
            log().error("ledger.broken", code=error.code().name, details=error.details())
            raise Unavailable("the ledger failed; try again in a moment") from error
