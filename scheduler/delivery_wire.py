"""Deliveries: protobuf ⇄ model. Pure functions; bounds what comes from outside."""

from google.protobuf.message import Message
from mesh.events.v1 import events_pb2
from mesh.runs.v1 import deliveries_pb2

from kit.errors import Invalid
from scheduler.delivery import Delivery, Settlement, Verdict
from scheduler.wire import timestamp

MOST_CLAIMED = 100
MOST_EXCLUDED = 1000


def check_claim(request: deliveries_pb2.ClaimDeliveriesRequest) -> None:
    """Errors: Invalid."""
    if not 1 <= request.limit <= MOST_CLAIMED:
        raise Invalid(f"limit must be 1 to {MOST_CLAIMED}")
    if max(len(request.without_hosts), len(request.without_organizations)) > MOST_EXCLUDED:
        raise Invalid(f"at most {MOST_EXCLUDED} hosts and organizations are left out")


def settlement(request: deliveries_pb2.SettleDeliveryRequest) -> Settlement:
    """Errors: Invalid."""
    if int(request.outcome) not in Verdict.__members__.values():
        raise Invalid(f"{request.outcome} is no outcome of an attempt")
    return Settlement(request.id, request.attempt, Verdict(request.outcome), request.status, request.error)


def delivery(found: Delivery) -> deliveries_pb2.Delivery:
    return deliveries_pb2.Delivery(
        id=found.id,
        run_id=found.run_id,
        organization_id=found.organization_id,
        url=found.url,
        host=found.host,
        state=deliveries_pb2.DeliveryState.ValueType(int(found.state)),
        attempts=found.attempts,
        next_attempt_at=timestamp(found.next_attempt_at) if found.next_attempt_at else None,
        last_status=found.last_status,
        last_error=found.last_error,
        created_at=timestamp(found.created_at),
        delivered_at=timestamp(found.delivered_at) if found.delivered_at else None,
    )


def due_message() -> tuple[str, Message]:
    """(subject, message): senders look at once instead of at their next turn."""
    return "event.delivery.due", events_pb2.DeliveryDue()
