"""The durable way in: the run is committed, then placed; whoever wants its answer attaches to the executor."""

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from datetime import timedelta
from typing import Protocol

from edge.answers import LOST, Frame, first, relay
from edge.billing import limited
from edge.calls import Call
from edge.direct import framed, refused
from edge.http import Answer
from edge.patience import Errands, within
from edge.run_model import (
    INLINE_BYTES,
    AnswerHead,
    Asker,
    Blobs,
    KeptAnswer,
    RunEvent,
    RunRecord,
    Status,
    Submission,
)
from kit.clock import Clock
from kit.errors import NotFound, Precondition, Problem, Unavailable
from kit.names import new_id
from kit.telemetry import log

# How long after its deadline a run may still be reported.
GRACE = timedelta(seconds=60)
UNSURE = (
    "the runtime broke off while it accepted the run, which may be done or not: GET /requests tells; with an "
    "Idempotency-Key it can be asked for again"
)


class Runs(Protocol):
    """The scheduler, as who submits sees it."""

    async def submit(self, submission: Submission) -> tuple[str, bool]:
        """(the run's id, once it is committed; whether it was asked for before, by the same Idempotency-Key).

        Errors: NotFound, Unauthenticated, Conflict, Exhausted, Unavailable.
        """

    async def cancel(self, organization_id: str, request_id: str, status: Status, detail: str) -> None:
        """Idempotent. Errors: NotFound, Unavailable."""


class Watching(Protocol):
    """edge.reading.Reading."""

    def watch(self, asker: Asker, request_id: str, *, exact: bool = False) -> AsyncGenerator[RunRecord, None]: ...


class Executor(Protocol):
    """Whichever executor runs it."""

    def attach(self, address: str, run_id: str, timeout: timedelta) -> AsyncGenerator[RunEvent, None]:
        """The answer from its first byte, live; closing it leaves the run alone. Errors: NotFound, Unavailable."""


class Durable:
    """Accepts calls, and waits for the answers of those who want them at once."""

    def __init__(
        self,
        runs: Runs,
        watching: Watching,
        executor: Executor,
        blobs: Blobs,
        clock: Clock,
        errands: Errands,
        public_url: str,
    ) -> None:
        self._runs = runs
        self._watching = watching
        self._executor = executor
        self._blobs = blobs
        self._clock = clock
        self._errands = errands
        self._public_url = public_url

    async def submit(self, call: Call) -> str:
        """The run's id: from then on it is ours to finish. A caller that hangs up just then is told of nobody, so the
        run is cancelled unless it may go on, or was somebody's before. Errors: those of the scheduler; Invalid
        (too_large); Precondition (runtime_error) when nobody knows whether it is accepted.
        """
        submission = await self._submission(call)
        submitting = asyncio.create_task(self._runs.submit(submission))
        try:
            run_id, known = await asyncio.shield(submitting)
        except asyncio.CancelledError:
            if not call.continues:
                self._errands.send(self._abandon(call, submitting))
            raise
        except Unavailable as problem:
            if refused(problem):
                raise
            log().warning("run.submit_unsure", reason=problem.message)
            raise Precondition(UNSURE, code="runtime_error") from problem
        call.begun.append(run_id)
        if known:
            call.shared.append(run_id)
        return run_id

    async def answer(self, call: Call, run_id: str) -> Answer:
        """The answer of a submitted run; 504 after the sync limit, with which the run is killed or goes on."""
        frame = framed(call, run_id, self._public_url)
        limit = call.limits.sync_timeout
        try:
            return await within(self._clock, limit, self._attached(call, frame))
        except TimeoutError:
            if call.continues:
                fate = f"it goes on: wait with GET /result/{run_id}?timeout=110, or use /run_async"
            else:
                fate = f"it was stopped; {frame.patience()}"
                self._cancel_later(call, run_id, Status.TIMED_OUT, "the run passed its time limit")
            return frame.failure("timeout", f"the run took longer than {limit.total_seconds():g} s; {fate}")
        except asyncio.CancelledError:
            self._hung_up(call, run_id)
            raise

    async def _submission(self, call: Call) -> Submission:
        """With the body in it, or in the filestore. Its own budget has a name of ours: the run has none yet."""
        plain = Submission(
            limited(call.spec, call.budget, new_id("bud")),
            call.timeout,
            provisioned_id=call.provisioned_id,
            one_time_key_id=call.asker.one_time_key_id,
            idempotency_key=call.idempotency_key,
            callback_url=call.callback_url,
        )
        start = bytearray()
        async for chunk in call.body:
            start += chunk
            if len(start) > INLINE_BYTES:
                digest = await self._blobs.put(_rest(bytes(start), call.body))
                return replace(plain, body_digest=digest, fingerprint=_fingerprint(call, digest))
        digest = hashlib.sha256(start).hexdigest()
        return replace(plain, body=bytes(start), fingerprint=_fingerprint(call, digest))

    async def _attached(self, call: Call, frame: Frame) -> Answer:
        async with aclosing(self._watching.watch(call.asker, frame.run_id, exact=True)) as records:
            async for record in records:
                if record.executor and not (record.status.over and _is_kept(record)):
                    answer = await self._live(call, frame, record)
                    if answer is not None:
                        return answer
                if record.status.over:
                    return self._kept(frame, record)
        raise Unavailable("the scheduler stopped telling of the run; ask for its result later")

    async def _live(self, call: Call, frame: Frame, record: RunRecord) -> Answer | None:
        """The answer from the executor; None when it can't tell any more: the record will."""
        events = self._executor.attach(record.executor, frame.run_id, call.timeout + GRACE)
        given = False  # until then `answer` itself sees a caller that hangs up

        def leave(events: AsyncGenerator[RunEvent, None], complete: bool) -> None:
            self._errands.send(events.aclose())
            if given and not complete:
                self._hung_up(call, frame.run_id)

        try:
            head = await first(events)
        except (NotFound, Unavailable) as problem:
            log().warning("run.attach_failed", run_id=frame.run_id, reason=problem.message)
            return None
        if head is LOST:
            return None
        if isinstance(head, AnswerHead):
            answer = await relay(frame, head, events, leave)
            given = True
            return answer
        await events.aclose()
        return frame.failed(head)

    def _kept(self, frame: Frame, record: RunRecord) -> Answer:
        """The answer of a run that is over, from its record."""
        kept = record.answer
        if kept is None:
            return frame.failed(record.outcome)
        if not kept.whole:
            return frame.failure("runtime_error", "the workflow streamed its answer, and nobody was there to take it")
        return Answer(kept.head.status, frame.headers(kept.head), self._content(kept))

    def _content(self, kept: KeptAnswer) -> bytes | AsyncIterator[bytes]:
        return self._blobs.get(kept.digest) if kept.digest else kept.content

    def _hung_up(self, call: Call, run_id: str) -> None:
        if not call.continues and run_id not in call.shared:
            self._cancel_later(call, run_id, Status.CANCELLED, "the caller hung up, or the runtime was stopped")

    def _cancel_later(self, call: Call, run_id: str, status: Status, detail: str) -> None:
        self._errands.send(self._cancel(call, run_id, status, detail))

    async def _cancel(self, call: Call, run_id: str, status: Status, detail: str) -> None:
        try:
            await self._runs.cancel(call.asker.organization_id, run_id, status, detail)
        except Problem as problem:
            # Its deadline ends it all the same.
            log().warning("run.cancel_failed", run_id=run_id, reason=problem.message)

    async def _abandon(self, call: Call, submitting: "asyncio.Task[tuple[str, bool]]") -> None:
        try:
            run_id, known = await submitting
        except Problem:
            return  # refused: there is no run
        if not known:
            await self._cancel(call, run_id, Status.CANCELLED, "the caller hung up, or the runtime was stopped")


def _fingerprint(call: Call, digest: str) -> str:
    """Of all that makes two calls with one Idempotency-Key equal; `digest` is the body's."""
    spec = call.spec
    head = spec.request
    told = (spec.owner_id, spec.service_id, spec.acting_id, head.method, head.path, head.query, spec.synchronous)
    published = ["/api/v1"] if spec.charged_on_success else []
    return hashlib.sha256(json.dumps([*told, digest, *published]).encode()).hexdigest()


def _is_kept(record: RunRecord) -> bool:
    """Whether the record of a run that is over holds all that it answered."""
    return record.answer is None or record.answer.whole


async def _rest(start: bytes, body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield start
    async for chunk in body:
        yield chunk
