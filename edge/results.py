"""GET /result and GET /request: a run's record with its answer, at once or when it is there."""

import asyncio
import math
from contextlib import aclosing
from datetime import timedelta
from typing import Any

from edge.http import Answer, Request
from edge.model import Principal
from edge.patience import within
from edge.problems import failure
from edge.reading import Reading, request_id, sees_logs
from edge.record import NO_CONTENT, Content, content, render, result, whole
from edge.run_model import INLINE_BYTES, Blobs, RunRecord
from kit.clock import Clock
from kit.errors import Invalid, NotFound

LONGEST = timedelta(minutes=30)
# A caller is told to ask again at least so often, in seconds, however long the queue is.
LONGEST_RETRY = 30.0
# A record with a larger answer is told without it: the text would be held in memory several times over.
MAX_CONTENT_BYTES = 16 * 1024 * 1024


class Results:
    """Tells how runs went."""

    def __init__(self, reading: Reading, blobs: Blobs, clock: Clock) -> None:
        self._reading = reading
        self._blobs = blobs
        self._clock = clock

    async def request(self, request: Request) -> Answer:
        """The record as it stands. Errors: NotFound."""
        return await self._told(request.who, await self._reading.find(request), result_shape=False)

    async def result(self, request: Request) -> Answer:
        """The result of a run that is over: 408 or 504 before. Errors: Invalid, NotFound."""
        limit = _patience(request)
        if limit:
            try:
                record = await within(self._clock, limit, self._reading.ended(request))
            except TimeoutError:
                return _late(request)
        else:
            record = await self._reading.find(request)
            if not record.status.over:
                return _late(request) if limit is not None else pending(request, record)
        return await self._told(request.who, record, result_shape=True)

    async def _told(self, who: Principal, record: RunRecord, *, result_shape: bool) -> Answer:
        raw = await self._raw(record)
        if len(raw or b"") <= INLINE_BYTES:
            body = _rendered(record, raw, result_shape, sees_logs(who, record))
        else:
            body = await asyncio.to_thread(_rendered, record, raw, result_shape, sees_logs(who, record))
        return Answer(200, [("content-type", "application/json"), ("cache-control", "no-store")], body)

    async def _raw(self, record: RunRecord) -> bytes | None:
        """The answer's bytes; None where they weren't kept, or are kept no longer."""
        kept = record.answer
        if kept is None or not kept.whole or kept.size > MAX_CONTENT_BYTES:
            return None
        if not kept.digest:
            return kept.content
        try:
            async with aclosing(self._blobs.get(kept.digest)) as chunks:
                return b"".join([chunk async for chunk in chunks])
        except NotFound:
            return None


def _rendered(record: RunRecord, raw: bytes | None, result_shape: bool, logs: bool) -> bytes:
    shape = result if result_shape else whole
    answered = content(record.answer.head, raw) if record.answer and raw is not None else NO_CONTENT
    fields: dict[str, Any] = shape(record, answered, sees_logs=logs)
    try:
        return render(fields)
    except (ValueError, RecursionError):
        return render(shape(record, Content(answered.text), sees_logs=logs))


def _patience(request: Request) -> timedelta | None:
    """How long the caller wants to wait: seconds, but milliseconds over 1800 or from axios. None: not at all."""
    text = request.parameter("timeout")
    if text is None:
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if len(text) > 40 or not math.isfinite(number) or number < 0:
        raise Invalid(f"timeout is {text[:40]!r}; it must be a number of seconds, such as 110")
    milliseconds = number > 1800 or request.header("user-agent").lower().startswith("axios")
    return min(timedelta(seconds=min(number, 1e9) / (1000 if milliseconds else 1)), LONGEST)


def pending(request: Request, record: RunRecord) -> Answer:
    """408 for a run that goes on; of a queued one its place, and when it may start."""
    remedy = "ask again, or wait for it with ?timeout=SECONDS"
    if not record.position:
        detail = f"the run hasn't finished; {remedy}"
        return failure("pending", detail, request_id=request_id(request), retry_after=1)
    wait = record.wait.total_seconds() if record.wait is not None else None
    estimate = "when it starts can't be told yet" if wait is None else f"it may start in {wait:.0f} s"
    queue = {"position": record.position, "wait_seconds": None if wait is None else round(wait, 1)}
    return failure(
        "pending",
        f"the run is number {record.position} of your organization's queue, and {estimate}; {remedy}",
        request_id=request_id(request),
        retry_after=min(LONGEST_RETRY, wait or 1),
        more={"queue": queue},
    )


def _late(request: Request) -> Answer:
    detail = "the run hasn't finished within the time that you wanted to wait; it goes on: ask again"
    return failure("timeout", detail, request_id=request_id(request))
