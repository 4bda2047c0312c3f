"""GET /logs: a run's lines, from the archive when it is over, else live until its last line is out."""

import hashlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from datetime import datetime
from typing import Protocol

from edge.calls import provisioned_id_of
from edge.http import Answer, Request
from edge.loglines import Entry, Form, Start, archived, entry, follows, form, start
from edge.model import Principal
from edge.reading import Reading, sees_logs
from edge.run_model import Blobs, LogLine, RunRecord, Status
from kit.clock import Clock
from kit.errors import Conflict, NotFound, Problem
from kit.names import is_id
from kit.telemetry import log

KEEP_ALIVE_SECONDS = 10.0
# What is left on the bus of a run that is over comes at once.
REST_SECONDS = 0.5
# Ends what was said in the log of a provisioned id that has no run yet.
NO_RUN = "no run"
# The digest of a log without a line, which nobody stores.
NOTHING = hashlib.sha256(b"").hexdigest()
PRIVATE = "the lines of this log are for the organization whose secrets the run uses"


class LogBus(Protocol):
    """`log.RUN_ID` on the bus."""

    def tail(self, run_id: str) -> AbstractAsyncContextManager[Callable[[float], Awaitable[LogLine | None]]]:
        """All lines so far, then what comes. Gives `next(seconds)`: None after that long a silence."""

    async def say(self, run_id: str, line: LogLine) -> None: ...


class Logs:
    """Streams logs."""

    def __init__(self, reading: Reading, bus: LogBus, blobs: Blobs, clock: Clock) -> None:
        self._reading = reading
        self._bus = bus
        self._blobs = blobs
        self._clock = clock

    async def logs(self, request: Request) -> Answer:
        """The log, in the form that the caller asks for. Errors: Invalid, NotFound."""
        written, since = form(request), start(request)
        until = None if follows(request) else self._clock.now()
        record = await self._reading.find(request, summary=True)
        entries = self._entries(request.who, record, since, until)
        headers = [("content-type", written.content_type), ("cache-control", "no-store"), ("x-accel-buffering", "no")]
        return Answer(200, headers, _written(entries, written))

    async def refuse(self, who: Principal, provisioned_id: str, problem: Problem) -> None:
        """Ends the log of a provisioned id whose run was refused; who waits for its lines would wait for ever. An id
        that isn't theirs, or has had its run, is left alone.
        """
        if not is_id(provisioned_id, "run"):
            return
        try:
            record = await self._reading.again(who, provisioned_id)
            if record.status is not Status.PROVISIONED:
                return
            line = LogLine(
                self._clock.now(),
                level="error",
                message=f"the run was refused: {problem.message}",
                data=json.dumps({"code": problem.code}),
            )
            await self._bus.say(provisioned_id, line)
            await self._end(provisioned_id)
        except Problem as failed:
            _not_ended(provisioned_id, failed)

    @asynccontextmanager
    async def steps(self, request: Request) -> AsyncIterator[str]:
        """The provisioned id that a request names for what isn't a run: its log tells what is done, and ends with the
        block. Empty where it names none. Errors: NotFound, Conflict.
        """
        provisioned_id = provisioned_id_of(request)
        if not provisioned_id:
            yield ""
            return
        record = await self._reading.again(request.who, provisioned_id)
        if record.status is not Status.PROVISIONED:
            raise Conflict(f"{provisioned_id} is a run's already: provision another id")
        try:
            yield provisioned_id
        finally:
            try:
                await self._end(provisioned_id)
            except Problem as failed:  # what was done is done, and has its answer
                _not_ended(provisioned_id, failed)

    async def _end(self, provisioned_id: str) -> None:
        """Of a log without a run. Errors: Unavailable."""
        await self._bus.say(provisioned_id, LogLine(self._clock.now(), message=NO_RUN, end=True))

    async def _entries(
        self, who: Principal, record: RunRecord, since: Start, until: datetime | None
    ) -> AsyncGenerator[Entry | None, None]:
        """None stands for a silence. `until`: of a run that goes on only what was said by then."""
        if record.status is not Status.PROVISIONED and not sees_logs(who, record):
            yield self._private()
        elif record.status.over and record.log_digest:
            async for each in self._archived(record, since):
                yield each
        else:
            async with aclosing(self._live(who, record, since, until)) as entries:
                async for found in entries:
                    yield found

    async def _live(
        self, who: Principal, record: RunRecord, since: Start, until: datetime | None
    ) -> AsyncGenerator[Entry | None, None]:
        async with aclosing(self._lines(who, record, REST_SECONDS if until else KEEP_ALIVE_SECONDS)) as lines:
            async for line, known in lines:
                if known.status is not Status.PROVISIONED and not sees_logs(who, known):
                    yield self._private()
                    return
                if line is not None:
                    found = entry(line)
                    if until and found.created_at > until:
                        return
                    if since.wants(found):
                        since = Start(found.created_at, since.seq)
                        yield found
                elif known.status.over:
                    # It died without a word of its end, and maybe without all of its lines on the bus.
                    async for each in self._archived(known, since):
                        yield each
                elif until:
                    return
                else:
                    yield None

    async def _lines(
        self, who: Principal, record: RunRecord, silence: float
    ) -> AsyncGenerator[tuple[LogLine | None, RunRecord], None]:
        """Each line, or None for a `silence` (seconds), with the record as it is known by then. Ends with the end's
        marker, or with None and a record that is over.
        """
        async with self._bus.tail(record.id) as following:
            while True:
                line = await following(REST_SECONDS if record.status.over else silence)
                if line is None and record.status.over:
                    yield None, record
                    return
                if line is None or record.status is Status.PROVISIONED:
                    try:
                        record = await self._reading.again(who, record.id)
                    except NotFound:  # a provisioned id that has expired or was cancelled
                        return
                if line is None:
                    if not record.status.over:
                        yield None, record
                elif not _stale(line, record):
                    if line.end:
                        return
                    yield line, record

    async def _archived(self, record: RunRecord, since: Start) -> AsyncIterator[Entry]:
        """The lines of all attempts, one after the other."""
        for digest in (*record.earlier_logs, record.log_digest):
            async for each in self._archive(digest, since):
                yield each

    async def _archive(self, digest: str, since: Start) -> AsyncIterator[Entry]:
        if digest in {"", NOTHING}:
            return
        rest = b""
        async with aclosing(self._blobs.get(digest)) as chunks:
            async for chunk in chunks:
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    found = archived(line)
                    if found and since.wants(found):
                        yield found
        found = archived(rest)
        if found and since.wants(found):
            yield found

    def _private(self) -> Entry:
        return entry(LogLine(self._clock.now(), seq=1, message=PRIVATE))


def _not_ended(provisioned_id: str, failed: Problem) -> None:
    log().warning("log.end_failed", request_id=provisioned_id, reason=failed.message)


def _stale(line: LogLine, record: RunRecord) -> bool:
    """Said of an id before its run, which has started since: words (number 0), and their end."""
    before = line.message == NO_RUN if line.end else line.seq == 0
    return before and record.status is not Status.PROVISIONED


async def _written(entries: AsyncGenerator[Entry | None, None], form: Form) -> AsyncGenerator[bytes, None]:
    async with aclosing(entries):
        async for each in entries:
            yield form.keep_alive if each is None else form.line(each)
    if form.end:
        yield form.end
