"""The direct way in: one rpc from the edge to an executor. The run lives as long as its caller waits.

A small request goes in one message, and a small answer comes back in one: each message more costs as much as the rest
(docs/decisions/0007). A longer body is streamed, a longer answer attached to.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from dataclasses import replace
from datetime import timedelta
from typing import Protocol

from edge.answers import LOST, Frame, first, relay
from edge.billing import limited
from edge.calls import Call
from edge.http import Answer
from edge.patience import Errands
from edge.run_model import INLINE_BYTES, AnswerHead, Outcome, RunEvent, RunSpec, Status, WholeAnswer
from kit.clock import Clock
from kit.errors import Problem, Unavailable
from kit.names import new_id
from kit.telemetry import log

NO_BODY = Outcome(Status.TIMED_OUT, "timeout", "the request's body did not come in time")
# The executor enforces the deadline; this long afterwards we no longer believe that it will.
GRACE = timedelta(seconds=15)


class Executor(Protocol):
    """A host's sandboxes."""

    async def call(self, spec: RunSpec, body: bytes, timeout: timedelta) -> WholeAnswer | Outcome | None:
        """Runs it: a small answer, or the end without one. None: the answer is long or a stream, to be held at once.
        Cancelling kills the run. Errors: Unavailable.
        """
        ...

    def hold(self, run_id: str, timeout: timedelta) -> AsyncGenerator[RunEvent, None]:
        """All of the answer, live; closing the generator kills the run. Errors: Unavailable."""

    def run(self, spec: RunSpec, body: AsyncIterator[bytes], timeout: timedelta) -> AsyncGenerator[RunEvent, None]:
        """Runs it; closing the generator kills the run. Errors: Unavailable; whatever `body` raises."""


class Direct:
    """Runs calls whose caller holds the line."""

    def __init__(self, executor: Executor, clock: Clock, errands: Errands, public_url: str) -> None:
        self._executor = executor
        self._clock = clock
        self._errands = errands
        self._public_url = public_url

    async def run(self, call: Call) -> Answer:
        """The answer. Errors: Unavailable when nothing was started; whatever the call's body raises."""
        run_id = new_id("run")
        spec = replace(
            call.spec,
            run_id=run_id,
            root_id=call.spec.root_id or run_id,
            correlation_id=call.spec.correlation_id or run_id,
            deadline=call.spec.created_at + call.timeout,
        )
        spec = limited(spec, call.budget, run_id)
        frame = framed(call, spec.run_id, self._public_url)
        try:
            async with asyncio.timeout(call.timeout.total_seconds()):
                body = await _gathered(call)
        except TimeoutError:
            return frame.failed(NO_BODY)
        call.begun.append(run_id)
        try:
            if isinstance(body, bytes):
                found = await self._called(spec, body, call.timeout + GRACE)
                if isinstance(found, WholeAnswer):
                    return Answer(found.head.status, frame.headers(found.head), found.body)
                if found is not None:
                    return frame.failed(found)
                events = self._executor.hold(run_id, call.timeout + GRACE)
            else:
                events = self._executor.run(spec, body, call.timeout + GRACE)
            head = await first(events)
        except Unavailable as problem:
            if refused(problem):
                raise
            late = self._clock.now() >= call.spec.created_at + call.timeout
            return frame.failed(Outcome(Status.TIMED_OUT, "timeout") if late else LOST)
        if isinstance(head, AnswerHead):
            return await relay(frame, head, events, self._leave)
        await events.aclose()
        return frame.failed(head)

    async def _called(self, spec: RunSpec, body: bytes, timeout: timedelta) -> WholeAnswer | Outcome | None:
        try:
            return await self._executor.call(spec, body, timeout)
        except asyncio.CancelledError:
            self._errands.send(self._release(spec.run_id))
            raise

    async def _release(self, run_id: str) -> None:
        """The caller hung up. If the executor had just said that the answer is to be held, it would wait for us."""
        with suppress(Problem):
            async with aclosing(self._executor.hold(run_id, GRACE)) as events:
                await anext(events, None)

    def _leave(self, events: AsyncGenerator[RunEvent, None], complete: bool) -> None:
        """The rpc stays open while the workflow's background tasks go on: ending it would kill them."""
        self._errands.send(_outlive(events) if complete else events.aclose())


async def _gathered(call: Call) -> bytes | AsyncIterator[bytes]:
    """A small body, whole: a caller that sends it slowly keeps no sandbox busy. Any other, to be read."""
    if not call.brief:
        return call.body
    parts: list[bytes] = []
    size = 0
    async for chunk in call.body:
        parts.append(chunk)
        size += len(chunk)
        if size > INLINE_BYTES:
            return _rejoined(parts, call.body)
    return b"".join(parts)


async def _rejoined(parts: list[bytes], rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    for part in parts:
        yield part
    async for part in rest:
        yield part


def framed(call: Call, run_id: str, public_url: str) -> Frame:
    """The frame of a call's answer."""
    spec = call.spec
    return Frame(
        run_id=run_id,
        correlation_id=spec.correlation_id or run_id,
        reference=call.reference,
        path=spec.request.path,
        host=call.host,
        public_url=public_url,
        sees_logs=spec.acting_id == spec.requester_id,
    )


def refused(problem: Unavailable) -> bool:
    """Whether the executor took nothing on: it said when to come back, or couldn't be reached at all. Anything else
    may have happened in the middle of a run, which the caller must not repeat blindly.
    """
    return problem.retry_after is not None or problem.message.startswith("failed to connect")


async def _outlive(events: AsyncGenerator[RunEvent, None]) -> None:
    try:
        async with aclosing(events):
            async for _ in events:
                pass
    except Problem as problem:
        log().warning("run.end_unseen", reason=problem.message)
