"""All of the scheduler's use cases, over fakes."""

from dataclasses import dataclass, field

from kit.clock import FakeClock
from scheduler.cancel import Cancel
from scheduler.dispatch import Dispatch
from scheduler.fleet import Fleet
from scheduler.model import Input, Run
from scheduler.reap import Reap
from scheduler.report import Report
from scheduler.submit import Submit
from scheduler.watch import Notices, Watch
from tests.fakes.memory_runs import MemoryStore, MemoryTx
from tests.fakes.scheduling import HOME, INPUT, START, VERSION, WORKFLOW, FakeExecutors


@dataclass
class Scheduler:
    """Wired as in scheduler.main."""

    clock: FakeClock = field(default_factory=lambda: FakeClock(START))
    executors: FakeExecutors = field(default_factory=FakeExecutors)
    notices: Notices = field(default_factory=Notices)
    stopped: list[Run] = field(default_factory=list)
    queue_lengths: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.store = MemoryStore(self.notices.changed)
        self.store.state.workflows[WORKFLOW.id] = WORKFLOW
        self.store.state.versions[VERSION.id] = VERSION
        self.fleet = Fleet(HOME, self.clock)
        self.cancel = Cancel(self.store, self.executors, self.notices.forgotten, self.clock)
        self.dispatch = Dispatch(self.store, self.fleet, self.executors, self.stopped.append, self.clock)
        self.fleet.on_room = self.dispatch.wake
        self.submit = Submit(self.store, self.dispatch.offer, self.clock)
        self.report = Report(self.store, self.fleet, self.stopped.append, self.clock)
        self.watch = Watch(self.store, self.notices, self.clock)
        self.reap = Reap(
            self.store, self.fleet, self.executors, self.stopped.append, self.queue_lengths.append, self.clock
        )

    async def accepted(self, *runs: Run, given: Input = INPUT) -> None:
        """Into the store, past Submit."""

        async def work(tx: MemoryTx) -> None:
            for run in runs:
                await tx.accept(run, given)

        await self.store.write(work)

    def run(self, run_id: str) -> Run:
        return self.store.state.run_rows[run_id]
