"""money.Books over rpc."""

from datetime import datetime

import grpc
from mesh.ledger.v1 import audit_pb2, audit_pb2_grpc, ledger_pb2, ledger_pb2_grpc, prices_pb2, prices_pb2_grpc

from edge.model import Principal
from edge.money import AuditEntry, Balance, Price, Span, Used
from edge.wire import moment, to_timestamp
from kit.rpc_client import unary


class BooksClient:
    """money.Books."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._ledger = ledger_pb2_grpc.LedgerStub(channel)
        self._prices = prices_pb2_grpc.PricesStub(channel)
        self._audit = audit_pb2_grpc.AuditStub(channel)

    async def balance(self, organization_id: str) -> Balance:
        request = ledger_pb2.GetBalanceRequest(organization_id=organization_id)
        reply = await unary(self._ledger.GetBalance, request, retry=True)
        return Balance(reply.balance, reply.reserved)

    async def grant(self, who: Principal, grant_id: str, organization_id: str, amount: int, reason: str) -> int:
        request = ledger_pb2.GrantRequest(
            id=grant_id,
            organization_id=organization_id,
            amount=amount,
            reason=reason,
            actor_key_id=who.key_id,
            actor_organization_id=who.organization_id,
        )
        return (await unary(self._ledger.Grant, request, retry=True)).balance

    async def usage(
        self, organization_id: str, group_by: str, span: Span, limit: int, after: str
    ) -> tuple[list[Used], str]:
        request = ledger_pb2.GetUsageRequest(
            organization_id=organization_id,
            group_by=ledger_pb2.UsageGroup.Value(f"USAGE_GROUP_{group_by.upper()}"),
            since=to_timestamp(span.since),
            until=to_timestamp(span.until),
            limit=limit,
            after=after,
        )
        reply = await unary(self._ledger.GetUsage, request, retry=True)
        return [_used(item) for item in reply.items], reply.next

    async def prices(self) -> list[Price]:
        reply = await unary(self._prices.ListPrices, prices_pb2.ListPricesRequest(), retry=True)
        return [_price(each) for each in reply.prices]

    async def set_price(self, who: Principal, meter: str, price: int, valid_from: datetime | None) -> Price:
        request = prices_pb2.SetPriceRequest(
            meter=meter,
            micro_credits_per_million=price,
            valid_from=to_timestamp(valid_from),
            actor_key_id=who.key_id,
            actor_organization_id=who.organization_id,
        )
        return _price((await unary(self._prices.SetPrice, request)).price)

    async def audit(self, organization_id: str, limit: int, after: str) -> tuple[list[AuditEntry], str]:
        request = audit_pb2.ListAuditRequest(organization_id=organization_id, limit=limit, after=after)
        reply = await unary(self._audit.ListAudit, request, retry=True)
        return [_entry(each) for each in reply.entries], reply.next


def _used(item: ledger_pb2.UsageItem) -> Used:
    return Used(
        group=item.group,
        runs=item.runs,
        amount=item.amount,
        cpu_ms=item.cpu_ms,
        tokens_in=item.tokens_in,
        tokens_out=item.tokens_out,
        egress_bytes=item.egress_bytes,
    )


def _price(message: prices_pb2.Price) -> Price:
    return Price(
        meter=message.meter,
        micro_credits_per_million=message.micro_credits_per_million,
        valid_from=moment(message.valid_from),
        valid_until=moment(message.valid_until) if message.HasField("valid_until") else None,
    )


def _entry(message: audit_pb2.AuditEntry) -> AuditEntry:
    return AuditEntry(
        id=message.id,
        at=moment(message.at),
        act=message.act,
        subject=message.subject,
        actor_key_id=message.actor_key_id,
        actor_organization_id=message.actor_organization_id,
        data=message.data,
    )
