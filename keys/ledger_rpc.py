"""The door: mesh.ledger.v1.Ledger."""

from typing import Any

from mesh.ledger.v1 import ledger_pb2, ledger_pb2_grpc

from keys import ledger_wire as wire
from keys.audit import Actor
from keys.ledger import Ledger
from keys.usage import Usage
from kit.clock import Clock


class LedgerServicer(ledger_pb2_grpc.LedgerServicer):
    """Money of organizations."""

    def __init__(self, ledger: Ledger, usage: Usage, clock: Clock) -> None:
        self._ledger = ledger
        self._usage = usage
        self._clock = clock

    async def GetBalance(self, request: ledger_pb2.GetBalanceRequest, _context: Any) -> ledger_pb2.GetBalanceResponse:
        budgets = wire.budgets_from_wire(request.budgets)
        return wire.balance_to_wire(await self._ledger.balance(request.organization_id, budgets))

    async def Grant(self, request: ledger_pb2.GrantRequest, _context: Any) -> ledger_pb2.GrantResponse:
        actor = Actor(request.actor_key_id, request.actor_organization_id)
        grant = (request.id, request.organization_id, request.amount)
        balance = await self._ledger.grant(*grant, reason=request.reason, actor=actor)
        return ledger_pb2.GrantResponse(balance=balance)

    async def Draw(self, request: ledger_pb2.DrawRequest, _context: Any) -> ledger_pb2.DrawResponse:
        return ledger_pb2.DrawResponse(amount=await self._ledger.draw(wire.draw_from_wire(request)))

    async def GiveBack(self, request: ledger_pb2.GiveBackRequest, _context: Any) -> ledger_pb2.GiveBackResponse:
        await self._ledger.give_back(request.id, request.purse_id, request.amount)
        return ledger_pb2.GiveBackResponse()

    async def KeepPurses(self, request: ledger_pb2.KeepPursesRequest, _context: Any) -> ledger_pb2.KeepPursesResponse:
        swept = await self._ledger.keep(request.incarnation, request.purse_ids, request.closed)
        return ledger_pb2.KeepPursesResponse(swept=swept)

    async def Settle(self, request: ledger_pb2.SettleRequest, _context: Any) -> ledger_pb2.SettleResponse:
        now = self._clock.now()
        await self._ledger.settle([wire.bill_from_wire(bill, now) for bill in request.bills])
        return ledger_pb2.SettleResponse()

    async def GetUsage(self, request: ledger_pb2.GetUsageRequest, _context: Any) -> ledger_pb2.GetUsageResponse:
        group = wire.group_from_wire(request.group_by)
        since = wire.time_from_wire(request.since, "since") if request.HasField("since") else None
        until = wire.time_from_wire(request.until, "until") if request.HasField("until") else None
        page = await self._usage(request.organization_id, group, since, until, request.limit, request.after)
        return wire.usage_to_wire(page)
