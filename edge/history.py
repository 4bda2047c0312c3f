"""GET /requests and DELETE /request: an organization's runs, and stopping one."""

import re
from typing import Protocol

from edge.calls import asker
from edge.http import Answer, Request, json_answer
from edge.reading import Reading, request_id, sees_logs
from edge.record import summary
from edge.run_model import RunRecord, Status
from kit.errors import Denied, Invalid
from kit.names import is_id

_STATUSES = {status.text: status for status in Status}
_TRACE_ID = re.compile("[0-9a-f]{32}")


class Runs(Protocol):
    """The scheduler's history."""

    async def list(
        self, organization_id: str, *, service_id: str, status: Status | None, trace_id: str, limit: int, after: str
    ) -> tuple[list[RunRecord], str]:
        """(newest first, where to go on: empty on the last page)."""

    async def cancel(self, organization_id: str, request_id: str, status: Status, detail: str) -> None:
        """Idempotent. Errors: NotFound."""


class History:
    """What has run, and the end of what runs."""

    def __init__(self, runs: Runs, reading: Reading) -> None:
        self._runs = runs
        self._reading = reading

    async def requests(self, request: Request) -> Answer:
        """Records without content, newest first. Errors: Invalid; Denied for a key of other services."""
        who, (limit, after) = request.who, request.page()
        service_id, status = request.parameter("service_id") or "", request.parameter("status")
        trace_id = request.parameter("trace_id") or ""
        if status and status not in _STATUSES:
            raise Invalid(f"status is {status[:40]!r}; it must be one of {', '.join(_STATUSES)}")
        if trace_id and not _TRACE_ID.fullmatch(trace_id):
            raise Invalid(f"trace_id is {trace_id[:40]!r}; it must be 32 hexadecimal digits, as in a `traceparent`")
        if after and not is_id(after, "run"):
            raise Invalid(f"after is {after[:40]!r}; it must be the `next` of the page before")
        if "run" not in who.scopes:
            if not service_id:
                raise Denied("this key runs single services only: name one of them with ?service_id=")
            who.check_run(service_id)
        records, following = await self._runs.list(
            who.organization_id,
            service_id=service_id,
            status=_STATUSES[status] if status else None,
            trace_id=trace_id,
            limit=limit,
            after=after,
        )
        items = [summary(record, sees_logs=sees_logs(who, record)) for record in records]
        return json_answer({"items": items, "next": following or None})

    async def cancel(self, request: Request) -> Answer:
        """Queued or running, it is killed; over, it stays as it is. Errors: NotFound."""
        who, wanted = request.who, request_id(request)
        if "run" not in who.scopes:
            await self._reading.find(request, summary=True)
        organization_id, why = asker(who).organization_id, "cancelled by DELETE /request"
        await self._reading.written_down(
            wanted, lambda: self._runs.cancel(organization_id, wanted, Status.CANCELLED, why)
        )
        return json_answer({"request_id": wanted})
