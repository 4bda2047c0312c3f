"""GET /request/{id}/egress: what a run contacted, once it is over."""

import json
from contextlib import aclosing
from datetime import timedelta

from edge.calls import unknown_request
from edge.http import Answer, Request, json_answer
from edge.patience import within
from edge.reading import Reading, sees_logs
from edge.results import pending
from edge.run_model import Blobs
from kit.clock import Clock
from kit.errors import NotFound

SOON = timedelta(seconds=1)


class Contacts:
    """Egress logs. They are bounded when they are written, to a thousand entries."""

    def __init__(self, reading: Reading, blobs: Blobs, clock: Clock) -> None:
        self._reading = reading
        self._blobs = blobs
        self._clock = clock

    async def egress(self, request: Request) -> Answer:
        """`{"items", "next"}`; 408 while the run goes on. For the organization whose secrets the run uses.

        Errors: NotFound, for others too.
        """
        record = await self._reading.find(request, summary=True)
        if not sees_logs(request.who, record):
            raise unknown_request()
        if not record.status.over:  # whoever has just got the answer is here before the record is
            try:
                record = await within(self._clock, SOON, self._reading.ended(request))
            except TimeoutError:
                return pending(request, record)
        items = [json.loads(line) for line in (await self._lines(record.egress_digest)).splitlines()]
        return json_answer({"items": items, "next": None})

    async def _lines(self, digest: str) -> bytes:
        if not digest:
            return b""
        try:
            async with aclosing(self._blobs.get(digest)) as chunks:
                return b"".join([chunk async for chunk in chunks])
        except NotFound:  # kept no longer
            return b""
