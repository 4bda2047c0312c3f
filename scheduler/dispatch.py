"""From queued to started: nested runs first, then oldest first, onto executors with room.

What Submit has just accepted is offered here and starts without a look into the store, as long as nothing else waits.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from dataclasses import replace
from typing import Protocol, TypeVar

from kit.clock import Clock
from kit.errors import Conflict, Problem, Unavailable
from kit.telemetry import tried_again
from scheduler.fleet import Fleet
from scheduler.model import STARVED, Outcome, Queued, Run, Status
from scheduler.place import STARTS_AT_ONCE, Executor
from scheduler.settle import Settling, settle

TICK_SECONDS = 0.5
MOST_FRESH = 100
T = TypeVar("T")


class Queue(Protocol):
    """The runs that wait, and the transactions that move them on."""

    async def queued(self, *, nested_only: bool, without: Collection[str], limit: int) -> list[Queued]: ...

    async def write(self, work: Callable[[Settling], Awaitable[T]]) -> T: ...


class Starter(Protocol):
    """An executor's side of it."""

    async def start(self, address: str, queued: Queued) -> None:
        """Errors: Unavailable when it has no room; Conflict when it has this run already; others end the run."""
        ...


class Dispatch:
    """`stop` is told of runs that were over before they had started, so that their sandboxes are killed."""

    def __init__(
        self, queue: Queue, fleet: Fleet, executors: Starter, stop: Callable[[Run], None], clock: Clock
    ) -> None:
        self._queue = queue
        self._fleet = fleet
        self._executors = executors
        self._stop = stop
        self._clock = clock
        self._wake = asyncio.Event()
        self._fresh: deque[Queued] = deque()
        # Whether runs may wait in the store that aren't in `_fresh`.
        self._behind = True
        self._starting: dict[str, asyncio.Task[None]] = {}
        self._failure: BaseException | None = None

    def offer(self, queued: Queued) -> None:
        """A run that has just been committed."""
        if len(self._fresh) < MOST_FRESH:
            self._fresh.append(queued)
        else:
            self._behind = True
        self._wake.set()

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
                await self._woken()
        finally:
            tasks = list(self._starting.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _woken(self) -> None:
        waits = [asyncio.ensure_future(self._wake.wait()), asyncio.ensure_future(self._clock.sleep(TICK_SECONDS))]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def once(self) -> None:
        """One pass: starts what can start; returns before the Start calls do."""
        if self._failure is not None:
            raise self._failure
        if not self._behind:
            self._start_fresh()
        while self._behind and await self._start_stored():
            pass

    def _start_fresh(self) -> None:
        while self._fresh:
            executor = self._fleet.choose(nested=self._fresh[0].run.depth > 0)
            if executor is None:
                self._behind = True
                return
            self._begin(self._fresh.popleft(), executor)

    async def _start_stored(self) -> bool:
        """A batch from the store; True when it should be asked again at once."""
        self._behind = False
        self._fresh.clear()  # the store has these too
        room = self._fleet.room()
        limit = max(room, STARTS_AT_ONCE)
        try:
            batch = await self._queue.queued(nested_only=room == 0, without=tuple(self._starting), limit=limit)
        except Unavailable:
            self._behind = True
            raise
        if self._fresh:  # offered while we read: these may be in the batch as well
            self._fresh.clear()
            self._behind = True
        for count, queued in enumerate(batch):
            executor = self._fleet.choose(nested=queued.run.depth > 0)
            if executor is None:
                self._behind = True
                return count > 0
            self._begin(queued, executor)
        if room == 0 or len(batch) == limit:
            self._behind = True
        return bool(batch)

    def _begin(self, queued: Queued, executor: Executor) -> None:
        executor.starting += 1
        task = asyncio.create_task(self._start(queued, executor))
        self._starting[queued.run.id] = task
        task.add_done_callback(lambda done: self._begun(queued.run.id, executor, done))

    def _begun(self, run_id: str, executor: Executor, task: "asyncio.Task[None]") -> None:
        executor.starting -= 1
        del self._starting[run_id]
        if not task.cancelled() and task.exception() is not None:
            self._failure = task.exception()
        if self._behind or self._failure:
            self._wake.set()

    async def _start(self, queued: Queued, executor: Executor) -> None:
        run, nested = queued.run, queued.run.depth > 0
        incarnation = executor.incarnation if executor.fresh(self._clock.now()) else ""
        if run.deadline <= self._clock.now():
            await self._end(run, STARVED)
            return
        try:
            with suppress(Conflict):  # it took the run on before, and its answer was lost
                await self._executors.start(executor.address, queued)
        except Unavailable:
            self._fleet.refused(executor, nested=nested)
            self._behind = True
        except Problem as problem:
            await self._end(run, Outcome(Status.FAILED, problem.code, problem.message))
        else:
            executor.running += 1
            await self._mark(run, executor.address, incarnation)

    async def _mark(self, run: Run, address: str, incarnation: str) -> None:
        """Its report may have been faster, and so may a cancel."""

        async def work(tx: Settling) -> Run | None:
            before = (await tx.runs([run.id])).get(run.id)
            if before is None:
                return None
            after = before.started(executor=address, incarnation=incarnation, at=self._clock.now())
            if before.status is Status.QUEUED:
                await tx.save([after])
            return before

        before = await self._written(work)
        if before is not None and before.status.over and not before.executor:
            self._stop(replace(before, executor=address))

    async def _end(self, run: Run, outcome: Outcome) -> None:
        await self._written(lambda tx: settle(tx, [run.id], outcome, self._clock.now()))

    async def _written(self, work: Callable[[Settling], Awaitable[T]]) -> T:
        """What has happened is written, however long the store is away; until then the run isn't started once more."""
        while True:
            try:
                return await self._queue.write(work)
            except Unavailable:
                await self._clock.sleep(TICK_SECONDS)
