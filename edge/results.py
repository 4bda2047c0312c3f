"""GET /result and GET /request: a run's record with its answer, at once or when it is there."""

import math
from datetime import timedelta

from edge.http import Answer, Request
from edge.model import Principal
from edge.patience import within
from edge.problems import failure
from edge.reading import Reading, request_id, sees_logs
from edge.run_model import Blobs, RunRecord
from edge.telling import Telling
from kit.clock import Clock
from kit.errors import Invalid, Unavailable

LONGEST = timedelta(minutes=30)
LAST_LOOK = timedelta(seconds=1)
# A caller is told to ask again at least so often, in seconds, however long the queue is.
LONGEST_RETRY = 30.0


class Results:
    """Tells how runs went."""

    def __init__(self, reading: Reading, blobs: Blobs, clock: Clock) -> None:
        self._reading = reading
        self._telling = Telling(blobs)
        self._clock = clock

    async def request(self, request: Request) -> Answer:
        """The record as it stands. Errors: NotFound."""
        return await self._told(request.who, await self._reading.find(request), result_shape=False)

    async def result(self, request: Request) -> Answer:
        """The result of a run that is over: 408 or 504 before. Errors: Invalid, NotFound."""
        limit = _patience(request)
        record = await (self._waited_for(request, limit) if limit else self._reading.find(request))
        if record is None or not record.status.over:
            return _late(request) if record is None or limit is not None else pending(request, record)
        return await self._told(request.who, record, result_shape=True)

    async def _waited_for(self, request: Request, limit: timedelta) -> RunRecord | None:
        """None: it can't be told how the run stands. Errors: NotFound."""
        try:
            return await within(self._clock, limit, self._reading.ended(request))
        except TimeoutError:
            pass
        try:  # the time may have been too short for a single look
            return await within(self._clock, LAST_LOOK, self._reading.find(request))
        except (TimeoutError, Unavailable):
            return None

    async def _told(self, who: Principal, record: RunRecord, *, result_shape: bool) -> Answer:
        body = await self._telling(record, sees_logs=sees_logs(who, record), result_shape=result_shape)
        return Answer(200, [("content-type", "application/json"), ("cache-control", "no-store")], body)


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
    remedy = f"ask again, or wait for it with GET /result/{request_id(request)}?timeout=SECONDS"
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
