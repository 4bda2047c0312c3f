"""GET /request/{id}/deliveries: where the record of a run went, and how."""

from typing import Any, Protocol

from edge.calls import asker
from edge.delivery import Delivery
from edge.http import Answer, Request, json_answer
from edge.model import iso
from edge.reading import Reading
from edge.run_model import Asker


class Deliveries(Protocol):
    """The scheduler's."""

    async def of_run(self, asker: Asker, run_id: str) -> list[Delivery]:
        """A run's, as this organization may see them. Errors: NotFound, Unavailable."""
        ...


class DeliveryHandlers:
    """The handler of Runs.ListDeliveries."""

    def __init__(self, reading: Reading, deliveries: Deliveries) -> None:
        self._reading = reading
        self._deliveries = deliveries

    async def deliveries(self, request: Request) -> Answer:
        """`{"items", "next"}`, for whoever may see the run; none before it has ended. Errors: NotFound."""
        record = await self._reading.find(request, summary=True)
        found = await self._deliveries.of_run(asker(request.who), record.id)
        return json_answer({"items": [_shown(each) for each in found], "next": None})


def _shown(delivery: Delivery) -> dict[str, Any]:
    return {
        "id": delivery.id,
        "url": delivery.url,
        "state": delivery.state,
        "attempts": delivery.attempts,
        "next_attempt_at": iso(delivery.next_attempt_at),
        "last_status": delivery.last_status or None,
        "last_error": delivery.last_error or None,
        "created_at": iso(delivery.created_at),
        "delivered_at": iso(delivery.delivered_at),
    }
