"""Stopping runs: what waits is over at once, what runs is killed by its executor, which then reports the end.

With a run everything falls that it has called: what it waits for dies with its sandbox, the rest is cancelled here.
That a run which is under way shall be over is written down before its executor is asked, so that no other attempt
follows, whoever is lost meanwhile; an end that isn't reported is written here, or by the reaper after a restart.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from kit.clock import Clock
from kit.errors import Problem, Unavailable
from scheduler.model import CANCELLED, Asker, Event, Outcome, Provision, Run, RunEnded, Runs, Status, unknown_run
from scheduler.settle import settle

# An executor that took a Stop reports the end by then; else the end is written here.
PATIENCE_SECONDS = 10.0
BELOW = replace(CANCELLED, detail="the run that it was called from was cancelled")
T = TypeVar("T")


class Cancelling(Protocol):
    """The part of a write transaction that cancels."""

    async def runs(self, ids: Collection[str]) -> Runs: ...

    async def save(self, these: Sequence[Run]) -> None: ...

    async def tell(self, events: Iterable[Event]) -> None: ...

    async def tree(self, root_id: str) -> list[Run]: ...

    async def provision(self, provision_id: str) -> Provision | None: ...

    async def save_provision(self, provision: Provision) -> None: ...


class Journal(Protocol):
    """`work` runs inside a write transaction; it checks before it writes."""

    async def write(self, work: Callable[[Cancelling], Awaitable[T]]) -> T: ...


class Stopper(Protocol):
    """An executor's side of it."""

    async def stop(self, address: str, run_id: str, outcome: Outcome) -> None:
        """Idempotent; nothing happens where the run isn't under way. Errors: Unavailable."""
        ...


class Cancel:
    """Cancels at a caller's wish, and sweeps up sandboxes whose run is over. `forgotten(id)` is called when a
    provisioned id is cancelled before its run.
    """

    def __init__(self, journal: Journal, executors: Stopper, forgotten: Callable[[str], None], clock: Clock) -> None:
        self._journal = journal
        self._executors = executors
        self._forgotten = forgotten
        self._clock = clock
        self._tasks: set[asyncio.Task[None]] = set()

    async def __call__(self, asker: Asker, request_id: str, outcome: Outcome) -> None:
        """Idempotent; what is over stays as it is, but what it has called and still goes on is cancelled with it.
        Errors: NotFound.
        """

        async def work(tx: Cancelling) -> tuple[Run | None, list[Run]]:
            run = (await tx.runs([request_id])).get(request_id)
            if run is None:
                run = await self._cancel_provision(tx, asker, request_id)
            if run is None:
                return None, []
            if not asker.sees(run):
                raise unknown_run()
            await self._wish(tx, [run.id], outcome)
            return run, await self._fell(tx, run, outcome)

        run, below = await self._journal.write(work)
        if run is None:
            self._forgotten(request_id)
            return
        if run.placed:
            await self._kill(run, outcome)
        await asyncio.gather(*(self._kill(one, BELOW) for one in below if one.placed))

    async def _fell(self, tx: Cancelling, run: Run, outcome: Outcome) -> list[Run]:
        """What was called below `run`, as it stood; what waits is over. A run that has only timed out leaves its
        asynchronous calls alone, and the others die with its sandbox.
        """
        if outcome.status is not Status.CANCELLED:
            return []
        live = await tx.tree(run.root_id)
        below = live if run.id == run.root_id else await _below(tx, run, live)
        return await self._wish(tx, [one.id for one in below if one.id != run.id], BELOW)

    async def _wish(self, tx: Cancelling, ids: Collection[str], outcome: Outcome) -> list[Run]:
        """The runs as they stood; from now on they are over, or shall be."""
        now = self._clock.now()
        before = list((await tx.runs(ids)).values())
        changed = [after for run in before if (after := run.cancelled(outcome, at=now)) is not run]
        await tx.save(changed)
        await tx.tell(RunEnded(run) for run in changed if run.status.over)
        return before

    async def _cancel_provision(self, tx: Cancelling, asker: Asker, provision_id: str) -> Run | None:
        """The run that has come of it meanwhile, whose acceptance was waited for; then nothing has happened yet."""
        now = self._clock.now()
        provision = await tx.provision(provision_id)
        if provision is not None and provision.used_at is not None:
            run = (await tx.runs([provision_id])).get(provision_id)
            if run is not None:
                return run
        if provision is None or not asker.sees_provision(replace(provision, cancelled_at=None), now):
            raise unknown_run()
        if provision.cancelled_at is None:
            await tx.save_provision(replace(provision, cancelled_at=now))
        return None

    async def _kill(self, run: Run, outcome: Outcome) -> None:
        try:
            await self._executors.stop(run.executor, run.id, outcome)
        except Problem:  # it can't be reached: the run is over all the same, and is killed when it shows up again
            await self._end(run, outcome)
            if run.status is Status.QUEUED:  # it was over before, but may have been about to start
                self.sweep_up(replace(run, status=outcome.status, code=outcome.code, detail=outcome.detail))
        else:
            self._spawn(self._end_late(run, outcome))

    async def _end_late(self, run: Run, outcome: Outcome) -> None:
        await self._clock.sleep(PATIENCE_SECONDS)
        while True:
            try:
                return await self._end(run, outcome)
            except Unavailable:
                await self._clock.sleep(1.0)

    async def _end(self, run: Run, outcome: Outcome) -> None:
        """And once more what is below: it may have called somebody just before it died."""

        async def work(tx: Cancelling) -> tuple[list[Run], list[Run]]:
            return await settle(tx, [run.id], outcome, self._clock.now()), await self._fell(tx, run, outcome)

        ended, below = await self._journal.write(work)
        fallen = [
            replace(one, status=BELOW.status, code=BELOW.code, detail=BELOW.detail) for one in below if one.placed
        ]
        for one in (*(one for one in ended if one.executor), *fallen):
            self.sweep_up(one)

    def sweep_up(self, run: Run) -> None:
        """A run that is over still has a sandbox on `run.executor`: it is killed, in the background."""
        self._spawn(self._sweep_up(run))

    async def _sweep_up(self, run: Run) -> None:
        for seconds in (0.0, 1.0, 4.0, 16.0):
            if seconds:
                await self._clock.sleep(seconds)
            try:
                await self._executors.stop(run.executor, run.id, Outcome(run.status, run.code, run.detail))
            except Problem:
                continue
            return

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @asynccontextmanager
    async def lingering(self) -> AsyncIterator[None]:
        """Ends what still goes on in the background."""
        try:
            yield
        finally:
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _below(tx: Cancelling, run: Run, live: list[Run]) -> list[Run]:
    """Those of a tree's runs that come from `run`, through whatever is over."""
    parents = {one.id: one.parent_id for one in live}
    missing = set(parents.values()) - set(parents) - {""}
    while missing:  # as many rounds as the tree is deep, at most
        found = await tx.runs(missing)
        parents |= {one: found[one].parent_id if one in found else "" for one in missing}
        missing = set(parents.values()) - set(parents) - {""}

    def comes_from(one: str) -> bool:
        while one and one != run.id:
            one = parents[one]
        return bool(one)

    return [one for one in live if comes_from(one.id)]
