"""What executors say about runs: started, ended. Batches, repeated until taken, so that each one may come twice."""

from collections import ChainMap
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import MappingProxyType
from typing import Protocol, TypeVar

from kit.clock import Clock
from kit.lifecycle import failpoint
from scheduler.bill import Bill
from scheduler.charge import charged
from scheduler.fleet import Fleet
from scheduler.model import Event, Input, Outcome, Run, RunEnded, Runs, Status
from scheduler.result import NOTHING, Result

T = TypeVar("T")


class Reporting(Protocol):
    """The part of a write transaction that takes reports."""

    async def runs(self, ids: Collection[str]) -> Runs: ...

    async def standing(self, ids: Collection[str]) -> Runs:
        """As they are now; they may be another's to change."""
        ...

    async def insert(self, these: Sequence[Run]) -> None: ...

    async def keep_inputs(self, given: Mapping[str, Input]) -> None: ...

    async def save(self, these: Sequence[Run]) -> None: ...

    async def keep_bills(self, these: Sequence[Bill]) -> None:
        """Those that aren't kept yet."""
        ...

    async def charge_above(self, run: Run, amount: int) -> None:
        """Adds what it was charged to what those above it cost with all below them."""
        ...

    async def tell(self, events: Iterable[Event]) -> None: ...


class Journal(Protocol):
    """`work` runs inside a write transaction."""

    async def write(self, work: Callable[[Reporting], Awaitable[T]]) -> T: ...


@dataclass(frozen=True)
class Started:
    """A run is under way. `run` is the whole of it, still queued, for one of the direct way; else None. `given`: its
    input, where that is to be kept.
    """

    run_id: str
    at: datetime | None
    attempt: int
    epoch: int
    run: Run | None = None
    given: Input | None = None


@dataclass(frozen=True)
class Ended:
    """An attempt is over. `handed_back`: since its executor stops."""

    run_id: str
    attempt: int
    epoch: int
    outcome: Outcome
    at: datetime | None = None
    result: Result = NOTHING
    handed_back: bool = False
    bill: Bill | None = None


@dataclass(frozen=True)
class Batch:
    """One report of one life of an executor."""

    executor: str
    incarnation: str
    started: Sequence[Started] = ()
    ended: Sequence[Ended] = ()


@dataclass
class Taken:
    """What came of a batch."""

    born: dict[str, Run] = field(default_factory=dict)
    given: dict[str, Input] = field(default_factory=dict)
    moved: dict[str, Run] = field(default_factory=dict)
    over: list[Run] = field(default_factory=list)
    # Queued for another attempt.
    again: list[Run] = field(default_factory=list)
    # Under way on an executor that shouldn't have them.
    astray: list[Run] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    bills: list[Bill] = field(default_factory=list)
    charges: list[tuple[Run, int]] = field(default_factory=list)


class Report:
    """`stop` is told of runs that go on although they are over, `waits` of those that are to be tried again."""

    def __init__(
        self,
        journal: Journal,
        fleet: Fleet,
        stop: Callable[[Run], None],
        waits: Callable[[Run], None],
        clock: Clock,
    ) -> None:
        self._journal = journal
        self._fleet = fleet
        self._stop = stop
        self._waits = waits
        self._clock = clock

    async def __call__(self, batch: Batch) -> list[str]:
        """Ids of runs about which the batch says what is unknown, outdated or known already."""
        ids = {started.run_id for started in batch.started} | {ended.run_id for ended in batch.ended}
        now = self._clock.now()

        async def work(tx: Reporting) -> Taken:
            known = await tx.runs(ids)
            taken = take(batch, known, now, await tx.standing(_roots(batch, known)))
            await tx.insert(list(taken.born.values()))
            await tx.keep_inputs(taken.given)
            await tx.save(list(taken.moved.values()))
            await tx.keep_bills(taken.bills)
            for run, amount in taken.charges:
                await tx.charge_above(run, amount)
            await tx.tell(RunEnded(run) for run in taken.over)
            return taken

        taken = await self._journal.write(work)
        if batch.ended:
            failpoint("reported")
        if taken.bills:
            failpoint("bill kept")
        ended = len(taken.over) + len(taken.again)
        self._fleet.reported(batch.executor, started=len(taken.born), ended=ended)
        for run in taken.astray:
            self._stop(run)
        for run in taken.again:
            self._waits(run)
        return taken.ignored


def take(batch: Batch, known: Runs, now: datetime, roots: Runs = MappingProxyType({})) -> Taken:
    """Pure: what a batch changes about the runs that are `known`. `roots`: those of its runs that aren't among them."""
    taken = Taken()
    ending = {item.run_id for item in batch.ended}
    for started in batch.started:
        run = known.get(started.run_id)
        if run is None and started.run is not None:
            run = started.run
            taken.born[run.id] = _under_way(run, batch, started.at or now)
            if started.given is not None:
                taken.given[run.id] = started.given
        elif run is None:
            taken.ignored.append(started.run_id)
        elif run.status.over or _outdated(run, started, batch):
            # Where a later attempt of it is by now this one has ended already, and Stop would mean the later one.
            if run.id not in ending and not (run.placed and run.executor == batch.executor):
                taken.astray.append(_astray(run, batch))
        elif (after := _under_way(run, batch, started.at or now)) is not run:
            taken.moved[run.id] = after
    found = ChainMap(taken.born, taken.moved, dict(known), dict(roots))
    for ended in batch.ended:
        _end(taken, ended, batch, found, now)
    return taken


def _end(taken: Taken, ended: Ended, batch: Batch, found: Runs, now: datetime) -> None:
    """`found`: all that is known of runs, with what is taken so far."""
    before = found.get(ended.run_id)
    if before is None or before.status.over or _outdated(before, ended, batch):
        taken.ignored.append(ended.run_id)
        if ended.bill:  # what had been taken for it goes back
            taken.bills.append(replace(ended.bill.free(), created_at=now))
        return
    at = ended.at or now
    under_way = _under_way(before, batch, at)
    after = under_way.attempted(ended.outcome, at=at, result=ended.result, handed_back=ended.handed_back)
    if ended.bill:
        root = found.get(after.root_id)
        after, bill = charged(after, ended.bill, ended.outcome, root, at, handed_back=ended.handed_back)
        taken.bills.append(replace(bill, created_at=now))
        if bill.charge and after.billing.above:
            taken.charges.append((after, bill.charge))
    (taken.born if ended.run_id in taken.born else taken.moved)[ended.run_id] = after
    (taken.over if after.status.over else taken.again).append(after)


def _roots(batch: Batch, known: Runs) -> set[str]:
    """Roots of which it has to be known how they ended."""
    theirs = [*known.values(), *(started.run for started in batch.started if started.run is not None)]
    return {run.root_id for run in theirs if run.billing.charged_on_success and not run.decides} - set(known)


def _under_way(run: Run, batch: Batch, at: datetime) -> Run:
    return run.started(executor=batch.executor, incarnation=batch.incarnation, at=at)


def _outdated(run: Run, said: Started | Ended, batch: Batch) -> bool:
    """Said about an attempt that was given away, or by an executor that doesn't have it."""
    return (said.epoch, said.attempt) < (run.epoch, run.attempt) or run.elsewhere(batch.executor, batch.incarnation)


def _astray(run: Run, batch: Batch) -> Run:
    """With the executor that must stop it; over, whatever the row says."""
    fate = run if run.status.over else replace(run, status=Status.CANCELLED, code="cancelled")
    return replace(fate, executor=batch.executor)
