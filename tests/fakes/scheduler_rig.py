"""All of the scheduler's use cases, over fakes."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from kit.clock import FakeClock
from kit.errors import Invalid, Problem
from scheduler.bill import Bill
from scheduler.bills import Bills
from scheduler.cancel import Cancel
from scheduler.dispatch import Dispatch
from scheduler.estimate import Estimate
from scheduler.fleet import Fleet, Lease
from scheduler.model import Input, Run
from scheduler.reap import Reap
from scheduler.renew import Renew
from scheduler.report import Report
from scheduler.shares import Shares
from scheduler.submit import Submission, Submit
from scheduler.watch import Notices, Watch
from tests.fakes.memory_runs import MemoryStore, MemoryTx
from tests.fakes.scheduling import HOME, INPUT, START, VERSION, WORKFLOW, FakeExecutors


@dataclass
class FakeLedger:
    """`fails`: what Settle raises, once each; `refuses`: the runs whose bills it doesn't take."""

    booked: dict[tuple[str, int, str], Bill] = field(default_factory=dict)
    fails: list[Problem] = field(default_factory=list)
    refuses: set[str] = field(default_factory=set)
    calls: list[int] = field(default_factory=list)

    async def settle(self, bills: Sequence[Bill]) -> None:
        self.calls.append(len(bills))
        if any(bill.run_id in self.refuses for bill in bills):
            raise Invalid("such a bill can't be")
        for bill in bills:
            self.booked.setdefault((bill.run_id, bill.attempt, bill.purse_id), bill)
        if self.fails:
            raise self.fails.pop()


@dataclass
class Scheduler:
    """Wired as in scheduler.main."""

    clock: FakeClock = field(default_factory=lambda: FakeClock(START))
    executors: FakeExecutors = field(default_factory=FakeExecutors)
    ledger: FakeLedger = field(default_factory=FakeLedger)
    notices: Notices = field(default_factory=Notices)
    stopped: list[Run] = field(default_factory=list)
    queue_lengths: list[int] = field(default_factory=list)
    organization_runs: int = 100
    organization_queue: int = 10_000

    def __post_init__(self) -> None:
        self.store = MemoryStore()
        self.shares = Shares(self.organization_runs)
        self.estimate = Estimate(self.store, self.clock)
        self.bills = Bills(self.store, self.ledger, self.clock)
        self.store.listeners += [
            self.notices.changed,
            self.shares.changed,
            self.estimate.changed,
            self.bills.changed,
        ]
        self.store.state.workflows[WORKFLOW.id] = WORKFLOW
        self.store.state.versions[VERSION.id] = VERSION
        self.fleet = Fleet(self.clock)
        self.renew = Renew(self.store, self.fleet, self.clock)
        self.cancel = Cancel(self.store, self.executors, self.notices.forgotten, self.clock)
        stop = self.stopped.append
        self.dispatch = Dispatch(self.store, self.fleet, self.shares, self.executors, stop, self.clock)
        self.fleet.on_room = self.dispatch.wake
        self.submit = Submit(self.store, self.dispatch, self.clock, self.organization_queue)
        self.report = Report(self.store, self.fleet, stop, self.dispatch.waits, self.clock)
        self.watch = Watch(self.store, self.notices, self.clock)
        lengths = self.queue_lengths.append
        holds = self.executors.alive
        self.reap = Reap(self.store, self.fleet, self.shares, self.dispatch, stop, lengths, holds, self.clock)

    async def here(
        self, address: str = HOME, incarnation: str = "inc_1", *, first: bool = True, **changes: Any
    ) -> None:
        """An executor is there, with room for 1000."""
        lease = Lease(address, incarnation, 0, 1000, draining=False, expires_at=START)
        await self.renew(replace(lease, **changes), first=first)

    async def submitted(self, submission: Submission) -> Run:
        """Its run, which is new."""
        run, new = await self.submit(submission)
        assert new
        return run

    async def accepted(self, *runs: Run, given: Input = INPUT) -> None:
        """Into the store, past Submit."""

        async def work(tx: MemoryTx) -> None:
            for run in runs:
                await tx.accept(run, given)

        await self.store.write(work)

    def run(self, run_id: str) -> Run:
        return self.store.state.run_rows[run_id]
