"""Schedules that are due, each fired once by whichever scheduler comes first.

The run, its event and the schedule's next time are one transaction. It begins with the next time's conditional update,
so that of several schedulers one wins; a row for each (schedule, time) stands behind that.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol, TypeVar

from kit.clock import Clock
from kit.errors import Invalid, NotFound, Problem, Unavailable
from kit.names import is_id
from kit.telemetry import current_traceparent, log, span, trace_id
from scheduler.cron import Cron
from scheduler.model import Input, Run, Trigger
from scheduler.plan import Directory
from scheduler.schedule import SHORTEST, Schedule
from scheduler.submit import DEFAULT_TIMEOUT, Accepting, Submission, Submit
from scheduler.wake import woken

BATCH = 100
# The longest sleep: others make schedules too, and clocks are set.
LOOK_SECONDS = 5.0
LEAST_SECONDS = 0.01
# Another scheduler is at it, or the database is away.
PATIENCE_SECONDS = 0.5
# That long it is remembered what was fired when: not longer, as it goes with its schedule, in one statement.
MEMORY = timedelta(hours=2)
T = TypeVar("T")


class Firing(Accepting, Protocol):
    """The part of a write transaction that fires."""

    async def claim(self, schedule_id: str, due: datetime, following: datetime | None) -> bool:
        """Moves `next_fire_at` on from `due`; False when somebody else did, or has deleted the schedule."""
        ...

    async def was_fired(self, schedule_id: str, at: datetime) -> bool: ...

    async def add_fire(self, schedule_id: str, at: datetime, run_id: str) -> None: ...

    async def forget_fires(self, schedule_id: str, before: datetime) -> None: ...

    async def save_schedule(self, schedule: Schedule) -> None: ...


class Due(Protocol):
    """The stored schedules."""

    async def due(self, now: datetime, limit: int) -> list[Schedule]:
        """Longest due first."""
        ...

    async def next_fire(self) -> datetime | None:
        """When the first one is due."""
        ...

    async def write(self, work: Callable[[Firing], Awaitable[T]]) -> T: ...


@dataclass(frozen=True)
class _Turn:
    """What is to become of a schedule that is due: a run for `at`, or none, or a refusal; then `following`."""

    due: datetime
    at: datetime | None
    following: datetime | None
    submission: Submission | None = None
    problem: Problem | None = None


@dataclass(frozen=True)
class _Done:
    """What became of it (fired, skipped, refused, or repeated: fired before), and the schedule afterwards."""

    what: str
    schedule: Schedule
    run: Run | None = None


class Fire:
    """`late`: up to that much time late a run is still started, once; `head` makes the request of a schedule's run;
    `told` hears what became of each.
    """

    def __init__(
        self,
        store: Due,
        directory: Directory,
        submit: Submit,
        head: Callable[[str], bytes],
        told: Callable[[str], None],
        clock: Clock,
        *,
        late: timedelta,
    ) -> None:
        self._store = store
        self._directory = directory
        self._submit = submit
        self._head = head
        self._told = told
        self._clock = clock
        self._late = late
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """There may be an earlier time to fire at."""
        self._wake.set()

    async def run(self) -> None:
        """For ever."""
        while True:
            self._wake.clear()
            try:
                seconds = await self.once()
            except Unavailable as problem:
                log().warning("schedules.waiting", reason=problem.message)
                seconds = PATIENCE_SECONDS
            await woken(self._wake, self._clock, seconds)

    async def once(self) -> float:
        """Fires what is due; the seconds to wait before the next look. Errors: Unavailable."""
        while due := await self._store.due(self._clock.now(), BATCH):
            results = await asyncio.gather(*map(self._fire, due), return_exceptions=True)
            for result in results:
                if isinstance(result, BaseException):
                    raise result
            if not any(results):
                return PATIENCE_SECONDS
        following = await self._store.next_fire()
        if following is None:
            return LOOK_SECONDS
        return min(LOOK_SECONDS, max(LEAST_SECONDS, (following - self._clock.now()).total_seconds()))

    async def _fire(self, schedule: Schedule) -> bool:
        """Whether it was ours to fire. Errors: Unavailable."""
        with span("schedule.fire", parent="", schedule_id=schedule.id):
            turn = await self._turn(schedule)

            async def work(tx: Firing) -> _Done | None:
                return await self._commit(tx, schedule, turn)

            done = await self._store.write(work)
            if done is None:
                return False
            if done.run is not None:
                self._submit.started(done.run)
            else:
                reason = done.schedule.last_error if done.what == "refused" else ""
                log().warning(f"schedule.{done.what}", schedule_id=schedule.id, due=turn.due.isoformat(), reason=reason)
        self._told(done.what)
        return True

    async def _turn(self, schedule: Schedule) -> _Turn:
        now, due = self._clock.now(), schedule.next_fire_at
        assert due is not None
        try:
            cron = Cron(schedule.cron_expression, schedule.timezone)
        except Invalid as problem:  # with other rules or zones than when it was made
            return _Turn(due, None, None, problem=problem)
        following = cron.after(max(now, due))
        at: datetime | None = due
        if now - due >= SHORTEST:
            at = cron.latest(max(due - timedelta(seconds=1), now - self._late), now)
        if at is None:
            return _Turn(due, None, following)
        try:
            submission = await self._submission(schedule)
        except NotFound as problem:
            return _Turn(due, at, following, problem=problem)
        return _Turn(due, at, following, submission)

    async def _submission(self, schedule: Schedule) -> Submission:
        """Of what the name serves now. Errors: NotFound; Unavailable."""
        workflow, version = await self._directory.resolve(schedule.organization_id, schedule.reference)
        traceparent = current_traceparent()
        return Submission(
            owner_id=workflow.organization_id,
            caller_id=schedule.organization_id,
            acting_id=workflow.organization_id,
            requester_id=schedule.organization_id,
            service_id=workflow.service_id,
            version_id=version.id,
            input=Input(self._head(schedule.id), schedule.input),
            timeout=timedelta(milliseconds=version.limits.async_timeout_ms) or DEFAULT_TIMEOUT,
            trigger=Trigger.SCHEDULE,
            retries=version.limits.retries,
            traceparent=traceparent,
            trace_id=trace_id(traceparent),
            key_id=schedule.created_by if is_id(schedule.created_by, "key") else "",
            billing=schedule.billing,
        )

    async def _commit(self, tx: Firing, schedule: Schedule, turn: _Turn) -> _Done | None:
        """None when it wasn't ours."""
        fired_before = turn.at is not None and await tx.was_fired(schedule.id, turn.at)
        if not await tx.claim(schedule.id, turn.due, turn.following):
            return None
        await tx.forget_fires(schedule.id, self._clock.now() - MEMORY)
        if fired_before:
            return _Done("repeated", schedule)
        done = await self._decide(tx, schedule, turn)
        await tx.save_schedule(done.schedule)
        return done

    async def _decide(self, tx: Firing, schedule: Schedule, turn: _Turn) -> _Done:
        skipped = schedule.skipped(turn.following)
        if turn.problem is not None:
            return _Done("refused", skipped.refused(turn.problem))
        if turn.at is None or turn.submission is None:
            return _Done("skipped", skipped)
        try:
            run = await self._submit.accept(tx, turn.submission)
        except Problem as problem:  # before it wrote anything
            return _Done("refused", skipped.refused(problem))
        await tx.add_fire(schedule.id, turn.at, run.id)
        before = schedule if turn.at == turn.due else skipped
        return _Done("fired", before.fired(run.id, turn.at, turn.following), run)
