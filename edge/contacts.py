"""GET /request/{id}/egress: what a run contacted, once it is over."""

import json
from contextlib import aclosing

from edge.calls import unknown_request
from edge.http import Answer, Request, json_answer
from edge.reading import Reading, sees_logs
from edge.run_model import Blobs
from kit.errors import NotFound


class Contacts:
    """Egress logs. They are bounded when they are written, to a thousand entries."""

    def __init__(self, reading: Reading, blobs: Blobs) -> None:
        self._reading = reading
        self._blobs = blobs

    async def egress(self, request: Request) -> Answer:
        """`{"items", "next"}`; empty while the run goes on. For the organization whose secrets the run uses.

        Errors: NotFound, for others too.
        """
        record = await self._reading.find(request, summary=True)
        if not sees_logs(request.who, record):
            raise unknown_request()
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
