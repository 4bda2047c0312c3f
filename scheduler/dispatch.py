"""From queued to started. A run is given to an executor by a commit before the executor hears of it, so that no two
schedulers start it; what Submit accepts while nobody waits is given away in the very commit that accepts it.

Runs that a run waits for go first. Then every organization gets its share, and within one the order is priority, then
age.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import cycle, islice
from typing import Protocol, TypeVar

from kit.clock import Clock
from kit.errors import Conflict, Problem, Unavailable
from kit.lifecycle import failpoint
from kit.telemetry import log, tried_again
from scheduler.fleet import Fleet
from scheduler.model import STARVED, Outcome, Queued, Run, RunEnded, Status
from scheduler.place import Executor
from scheduler.settle import Settling
from scheduler.shares import Shares
from scheduler.wake import woken

TICK_SECONDS = 0.5
# Organizations that are looked at in one pass, and runs given away in one commit.
MOST_CALLERS = 256
MOST_AT_ONCE = 64
# What an executor says of a Start that is meant for a life of it that is over (executor/runs.py).
OTHER_LIFE = "another life of this executor"
T = TypeVar("T")


class Claiming(Settling, Protocol):
    """The part of a write transaction that gives runs to executors."""

    async def heads(self, lane: int, caller_id: str, now: datetime, limit: int) -> list[Queued]: ...


class Queue(Protocol):
    """The runs that wait, and the transactions that move them on."""

    async def callers_waiting(self, lane: int, after: str, limit: int) -> list[str]: ...

    async def write(self, work: Callable[[Claiming], Awaitable[T]]) -> T: ...


class Starter(Protocol):
    """An executor's side of it."""

    async def start(self, address: str, queued: Queued) -> None:
        """Errors: Unavailable when it has no room, isn't that incarnation any more, or can't be reached; Conflict when
        it has this attempt already; others end the run.
        """
        ...


@dataclass(frozen=True)
class Seat:
    """A Start call that may be made, kept for a run of that organization."""

    executor: Executor
    caller_id: str
    urgent: bool


class Dispatch:
    """`stop` is told of runs that were over before they had started, so that their sandboxes are killed."""

    def __init__(
        self,
        queue: Queue,
        fleet: Fleet,
        shares: Shares,
        executors: Starter,
        stop: Callable[[Run], None],
        clock: Clock,
    ) -> None:
        self._queue = queue
        self._fleet = fleet
        self._shares = shares
        self._executors = executors
        self._stop = stop
        self._clock = clock
        self._wake = asyncio.Event()
        # Organizations with runs in the queue; `_new` of them came during the present pass.
        self._waiting: set[str] = set()
        self._new: set[str] = set()
        # Some runs may be left in the queue, of either lane.
        self._left = True
        # Some of them could have started, had there been room.
        self._short = True
        self._after = ""
        # Of the organizations with urgent runs, so that each is the first one at times.
        self._turn = 0
        self._starting: dict[str, asyncio.Task[None]] = {}
        self._failure: BaseException | None = None

    def reserve(self, caller_id: str, *, urgent: bool) -> Seat | None:
        """A seat for a run that is about to be accepted, if it may start at once without overtaking anybody."""
        if not urgent and (self._short or caller_id in self._waiting or not self._shares.room(caller_id)):
            return None
        executor = self._fleet.choose(urgent=urgent)
        if executor is None:
            return None
        executor.begins(urgent=urgent)
        if not urgent:
            self._shares.promise(caller_id)
        return Seat(executor, caller_id, urgent)

    def has_room(self, caller_id: str) -> bool:
        """Whether an organization may have more runs under way, though there may be no executor for them."""
        return self._shares.room(caller_id) > 0

    def leave(self, seat: Seat) -> None:
        """It isn't needed."""
        seat.executor.has_begun(urgent=seat.urgent)
        self._settle(seat)

    def begin(self, queued: Queued, seat: Seat) -> None:
        """Starts a run that was committed as given to the seat's executor."""
        self._settle(seat)
        self._begin(queued, seat.executor)

    def _settle(self, seat: Seat) -> None:
        if not seat.urgent:
            self._shares.settle(seat.caller_id)

    def waits(self, run: Run) -> None:
        """A run was committed as queued."""
        self._waiting.add(run.caller_id)
        self._new.add(run.caller_id)
        if run.urgent or not self._short:  # where there is no room, whoever makes some wakes us
            self._wake.set()

    def resume(self, queued: Queued) -> None:
        """A run that was given away, but nobody knows whether its executor heard of it: that one is told again."""
        for executor in self._fleet:
            there = (executor.address, executor.incarnation) == (queued.run.executor, queued.run.incarnation)
            if there and queued.run.id not in self._starting:
                executor.begins(urgent=queued.run.urgent)
                self._begin(queued, executor, again=True)

    def wake(self) -> None:
        """Somebody may have room."""
        self._wake.set()

    async def run(self) -> None:
        """For ever: a pass after each wake, and every half second."""
        try:
            while True:
                self._wake.clear()
                with tried_again("dispatch"):
                    await self.once()
                await woken(self._wake, self._clock, TICK_SECONDS)
        finally:
            tasks = list(self._starting.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def once(self) -> None:
        """Gives away what can start, of both lanes by turns; returns before the Start calls do."""
        # Who had less to start than it might have (what waits may be in its pause): others get the rest.
        idle: tuple[set[str], set[str]] = (set(), set())
        self._left = going = True
        while going:
            if self._failure is not None:
                raise self._failure
            self._new.clear()
            urgent, going = await self._lane(0, idle[0])
            self._short = False
            waiting, more = await self._lane(1, idle[1])
            self._waiting = waiting | self._new
            self._left, going = bool(urgent or self._waiting), going or more

    async def _lane(self, lane: int, idle: set[str]) -> tuple[set[str], bool]:
        """(the organizations that wait in it, whether that is worth another look)."""
        while True:
            callers = await self._queue.callers_waiting(lane, self._after if lane else "", MOST_CALLERS)
            if not callers and lane and self._after:
                self._after = ""
                continue
            able = [one for one in callers if one not in idle and (not lane or self._shares.room(one))]
            seats = self._seats(urgent=not lane) if able else []
            if able and not seats and lane:
                self._short = True
            if not seats:
                return self._turned(callers, lane), False
            self._turn += not lane and not idle
            idle |= await self._claim(lane, able, seats)
            return set(callers), True

    def _turned(self, callers: Sequence[str], lane: int) -> set[str]:
        """The next pass looks at others, where there are too many for one."""
        if lane:
            self._after = callers[-1] if len(callers) == MOST_CALLERS else ""
        return set(callers)

    def _seats(self, *, urgent: bool) -> list[Executor]:
        seats: list[Executor] = []
        while len(seats) < MOST_AT_ONCE and (executor := self._fleet.choose(urgent=urgent)):
            executor.begins(urgent=urgent)
            seats.append(executor)
        return seats

    def _in_turn(self, callers: Collection[str], seats: int) -> Counter[str]:
        """So many seats, to one after the other, whoever has more under way: urgent runs count in no share."""
        first = self._turn % len(callers)
        return Counter(islice(cycle(sorted(callers)), first, first + seats))

    async def _claim(self, lane: int, callers: Collection[str], seats: list[Executor]) -> set[str]:
        """Gives runs to the seats; the callers that had fewer than their share."""
        shares = (self._shares.share_out if lane else self._in_turn)(callers, len(seats))
        now = self._clock.now()

        async def work(tx: Claiming) -> list[Queued]:
            claimed: list[Queued] = []
            for caller, share in shares.items():
                for queued in await tx.heads(lane, caller, now, share):
                    seat = seats[len(claimed)]
                    run = queued.run.claimed(seat.address, seat.incarnation, now)
                    claimed.append(replace(queued, run=run))
            await tx.save([queued.run for queued in claimed])
            return claimed

        claimed: list[Queued] = []
        try:
            claimed = await self._queue.write(work)
        finally:
            for seat in seats[len(claimed) :]:
                seat.has_begun(urgent=not lane)
        for queued, seat in zip(claimed, seats, strict=False):
            self._begin(queued, seat)
        had = Counter(queued.run.caller_id for queued in claimed)
        return {caller for caller, share in shares.items() if had[caller] < share}

    def _begin(self, queued: Queued, executor: Executor, *, again: bool = False) -> None:
        task = asyncio.create_task(self._start(queued, executor, again=again))
        self._starting[queued.run.id] = task
        task.add_done_callback(lambda done: self._begun(queued.run.id, executor, done, urgent=queued.run.urgent))

    def _begun(self, run_id: str, executor: Executor, task: "asyncio.Task[None]", *, urgent: bool) -> None:
        executor.has_begun(urgent=urgent)
        if self._starting.get(run_id) is task:  # it may be the next attempt's by now
            del self._starting[run_id]
        if not task.cancelled() and task.exception() is not None:
            self._failure = task.exception()
        if self._left or self._failure:
            self._wake.set()

    async def _start(self, queued: Queued, executor: Executor, *, again: bool) -> None:
        run = queued.run
        failpoint("claimed")
        if run.deadline <= self._clock.now():
            await self._end(run, STARVED)
            return
        try:
            with suppress(Conflict):  # it took the run on before, and its answer was lost
                await self._executors.start(executor.address, queued)
        except Unavailable as problem:
            self._fleet.refused(executor, urgent=run.urgent, away=problem.retry_after is None)
            if _refused(problem, again=again):
                await self._release(run)
            else:  # it may have taken it on: it is asked again later (`resume`)
                log().warning("start.unsure", run_id=run.id, executor=executor.address, reason=problem.message)
        except Problem as problem:
            await self._end(run, Outcome(Status.FAILED, problem.code, problem.message))
        else:
            executor.running += 1
            await self._mark(run)

    async def _release(self, run: Run) -> None:
        """It waits again, unless it has gone on without our knowing."""

        async def work(tx: Claiming) -> Run | None:
            before = (await tx.runs([run.id])).get(run.id)
            if before is None or before.epoch != run.epoch or (after := before.released()) is before:
                return None
            await tx.save([after])
            return after

        released = await self._written(work)
        if released is not None:
            self.waits(released)

    async def _mark(self, run: Run) -> None:
        """Its report may have been faster, and so may a cancel."""

        async def work(tx: Claiming) -> Run | None:
            before = (await tx.runs([run.id])).get(run.id)
            if before is None or (before.epoch, before.attempt) != (run.epoch, run.attempt):
                return None
            after = before.started(executor=run.executor, incarnation=run.incarnation, at=self._clock.now())
            if after is not before:
                await tx.save([after])
            return before

        before = await self._written(work)
        if before is not None and before.status.over and before.started_at is None:
            self._stop(replace(before, executor=run.executor))

    async def _end(self, run: Run, outcome: Outcome) -> None:
        """So this attempt ends, unless it has gone on without our knowing; a failure of ours is followed by another."""

        async def work(tx: Claiming) -> Run | None:
            before = (await tx.runs([run.id])).get(run.id)
            if before is None or (before.epoch, before.attempt) != (run.epoch, run.attempt):
                return None
            after = before.attempted(outcome, at=self._clock.now())
            if after is before:
                return None
            await tx.save([after])
            await tx.tell([RunEnded(after)] if after.status.over else [])
            return after

        after = await self._written(work)
        if after is not None and not after.status.over:
            self.waits(after)

    async def _written(self, work: Callable[[Claiming], Awaitable[T]]) -> T:
        """What has happened is written, however long the store is away; until then the run isn't started once more."""
        while True:
            try:
                return await self._queue.write(work)
            except Unavailable:
                await self._clock.sleep(TICK_SECONDS)


def _refused(problem: Unavailable, *, again: bool) -> bool:
    """Whether the executor surely hasn't taken it on: it has looked, and said when to come back. One that couldn't be
    reached, or whose life was over, didn't get it either; but of a Start that is said `again` it may have the first.
    """
    if problem.retry_after is not None:
        return True
    return not again and problem.message.startswith(("failed to connect", OTHER_LIFE))
