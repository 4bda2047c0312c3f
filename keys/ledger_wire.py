"""Money: protobuf ⇄ model."""

from collections.abc import Iterable
from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp
from mesh.ledger.v1 import ledger_pb2

from keys.ledger import Balance
from keys.model import Page
from keys.money import Bill, BillLine, Budget, Draw
from keys.usage import Group, Used
from kit.errors import Invalid


def budgets_from_wire(messages: Iterable[ledger_pb2.Budget]) -> tuple[Budget, ...]:
    return tuple(Budget(message.id, message.limit) for message in messages)


def draw_from_wire(request: ledger_pb2.DrawRequest) -> Draw:
    return Draw(
        id=request.id,
        purse_id=request.purse_id,
        organization_id=request.organization_id,
        incarnation=request.incarnation,
        budgets=budgets_from_wire(request.budgets),
        need=request.need,
        want=request.want,
    )


def bill_from_wire(message: ledger_pb2.Bill, now: datetime) -> Bill:
    """One of no usable time is of `now`: it has to be booked."""
    return Bill(
        run_id=message.run_id,
        attempt=message.attempt,
        root_id=message.root_id,
        organization_id=message.organization_id,
        service_id=message.service_id,
        key_id=message.key_id,
        purse_id=message.purse_id,
        budgets=tuple(budget.id for budget in message.budgets),
        reserved=message.reserved,
        charge=message.charge,
        lines=tuple(BillLine(line.meter, line.quantity, line.amount) for line in message.lines),
        at=_moment(message.at) if message.HasField("at") and _usable(message.at) else now,
    )


def group_from_wire(group: ledger_pb2.UsageGroup.ValueType) -> Group:
    """Errors: Invalid for UNSPECIFIED and unknown ones."""
    if int(group) not in Group.__members__.values():
        raise Invalid("group_by must be service, day, key or model")
    return Group(group)


def time_from_wire(message: Timestamp, name: str) -> datetime:
    """Errors: Invalid for a time that no calendar has."""
    if not _usable(message):
        raise Invalid(f"{name} is no time between the years 1 and 9999")
    return _moment(message)


def balance_to_wire(found: Balance) -> ledger_pb2.GetBalanceResponse:
    return ledger_pb2.GetBalanceResponse(balance=found.balance, reserved=found.reserved, room=max(found.room, 0))


def usage_to_wire(page: Page[Used]) -> ledger_pb2.GetUsageResponse:
    items = [
        ledger_pb2.UsageItem(
            group=used.group,
            runs=used.runs,
            amount=used.amount,
            cpu_ms=used.cpu_ms,
            tokens_in=used.tokens_in,
            tokens_out=used.tokens_out,
            egress_bytes=used.egress_bytes,
        )
        for used in page.items
    ]
    return ledger_pb2.GetUsageResponse(items=items, next=page.next)


def _moment(message: Timestamp) -> datetime:
    return message.ToDatetime(tzinfo=UTC)


def _usable(message: Timestamp) -> bool:
    try:
        _moment(message)
    except (ValueError, OverflowError):
        return False
    return True
