"""A mesh in miniature: the scheduler's real use cases over a store in memory, executors with real leases, on a clock
that is moved by hand; between them a network that breaks as it is told.
"""

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from executor.lease import Beat
from executor.lease import Lease as Held
from kit.errors import Conflict, Unavailable
from scheduler.fleet import Lease
from scheduler.model import Outcome, Queued, Run, Status
from scheduler.report import Batch, Ended, Started, take
from tests.fakes.scheduler_rig import Scheduler
from tests.fakes.scheduling import settled

STEP_SECONDS = 0.5
START_SECONDS, SLOW_SECONDS = 10.0, 1.0
SOON = timedelta(seconds=1)
AWAY = Unavailable("failed to connect to all addresses")
LOST_ANSWER = Unavailable("Socket closed")
DONE = Outcome(Status.SUCCEEDED)


@dataclass
class Attempt:
    """What an executor has in hand. It does its work once, when it is told to."""

    run_id: str
    attempt: int
    epoch: int
    worked: bool = False


@dataclass
class Executor:
    """One host: executor.runs.Runs in a few lines, around a real lease. `stopped`: SIGSTOP; `cut`: nobody reaches it,
    nor does it reach anybody; `mute`: what it answers is lost; `slow`: what it answers comes late; `keeping`: the
    filestore takes its time with what is kept of attempts that have ended.
    """

    address: str
    mesh: "Miniature"
    stopped: bool = False
    cut: bool = False
    mute: bool = False
    slow: bool = False
    keeping: bool = False
    live: dict[str, Attempt] = field(default_factory=dict)
    # Attempts of which it is decided how they ended, but that aren't concluded yet.
    concluding: dict[str, Ended] = field(default_factory=dict)
    started: set[tuple[str, int]] = field(default_factory=set)
    refused: set[tuple[str, int]] = field(default_factory=set)
    # Reports that aren't taken yet, and Starts that lie in its socket while it is stopped.
    facts: list[Started | Ended] = field(default_factory=list)
    buffered: list[tuple[str, Queued]] = field(default_factory=list)

    def __post_init__(self) -> None:
        clock = self.mesh.scheduler.clock
        began = clock.now()

        def monotonic() -> float:
            return (clock.now() - began).total_seconds()

        self.lease = Held(self, self._beat, clock, monotonic)
        self.lease._on_lost = self._lose

    def _beat(self, incarnation: str, first: bool) -> Beat:
        return Beat(incarnation, first, len(self.live), 100, draining=False)

    def _lose(self) -> None:
        """Its sandboxes die with its lease."""
        for attempt in list(self.live.values()):
            self.end(attempt, Outcome(Status.FAILED, "runtime_error", "the executor lost touch with the scheduler"))

    async def renew(self, beat: Beat) -> timedelta:
        """executor.lease.Scheduler."""
        if self.cut:
            raise AWAY
        said = Lease(self.address, beat.incarnation, beat.running, beat.capacity, beat.draining, self.mesh.now)
        length = await self.mesh.scheduler.renew(said, first=beat.first)
        if self.mute:
            raise LOST_ANSWER
        return length

    def take_on(self, incarnation: str, queued: Queued) -> None:
        """Errors: Unavailable, Conflict."""
        run = queued.run
        key = (run.id, run.epoch)
        if incarnation != self.lease.incarnation:
            raise Unavailable("another life of this executor was given the run")
        if key in self.refused:
            raise Unavailable("it was refused before", retry_after=SOON)
        if key in self.started:
            raise Conflict("started already")
        if run.id in self.live or run.id in self.concluding or not self.lease.held:
            self.refused.add(key)
            raise Unavailable("no lease, or an earlier attempt has to end first", retry_after=SOON)
        self.started.add(key)
        self.live[run.id] = Attempt(run.id, run.attempt, run.epoch)
        self.facts.append(Started(run.id, self.mesh.now, run.attempt, run.epoch))

    def work(self, run_id: str) -> None:
        """User code does what it is there for, once."""
        attempt = self.live[run_id]
        if not attempt.worked:
            attempt.worked = True
            self.mesh.effects[attempt.run_id, attempt.attempt] += 1

    def end(self, attempt: Attempt, outcome: Outcome) -> None:
        """Its sandbox is gone, and nothing changes its outcome any more."""
        del self.live[attempt.run_id]
        ended = Ended(attempt.run_id, attempt.attempt, attempt.epoch, outcome, self.mesh.now)
        self.concluding[attempt.run_id] = ended

    def conclude(self) -> None:
        """What is to be kept of the ended attempts is kept."""
        if not self.keeping:
            self.facts += self.concluding.values()
            self.concluding.clear()

    async def report(self) -> None:
        """One fact after the other, each again and again until it has heard that it was taken."""
        while self.facts and not self.stopped and not self.cut:
            await self.mesh.scheduler.report(self.batch())
            if self.mute:
                return
            del self.facts[0]

    def batch(self) -> Batch:
        """What it would say now."""
        started = [fact for fact in self.facts[:1] if isinstance(fact, Started)]
        ended = [fact for fact in self.facts[:1] if isinstance(fact, Ended)]
        return Batch(self.address, self.lease.incarnation, started, ended)

    async def wake(self, *, lease_first: bool) -> None:
        """SIGCONT: whatever of it runs first."""
        self.stopped = False
        if lease_first:
            await self.lease.once()
        for incarnation, queued in self.buffered:
            try:
                self.take_on(incarnation, queued)
            except (Unavailable, Conflict):
                continue
        self.buffered.clear()
        await self.lease.once()


class Miniature:
    """`effects`: how often an attempt of a run did its work."""

    def __init__(self) -> None:
        self.scheduler = Scheduler()
        self.effects: Counter[tuple[str, int]] = Counter()
        self.executors = {address: Executor(address, self) for address in ("unix:a", "unix:b")}
        self._wire()

    def _wire(self) -> None:
        scheduler = self.scheduler
        scheduler.dispatch._executors = scheduler.cancel._executors = self
        scheduler.reap._holds = self.alive
        scheduler.dispatch._stop = scheduler.report._stop = scheduler.reap._stop = scheduler.cancel.sweep_up

    @property
    def now(self) -> datetime:
        """Of everybody."""
        return self.scheduler.clock.now()

    @property
    def runs(self) -> dict[str, Run]:
        """As the rows say."""
        return self.scheduler.store.state.run_rows

    async def start(self, address: str, queued: Queued) -> None:
        """scheduler.dispatch.Starter."""
        executor = self.executors[address]
        if executor.cut:
            raise AWAY
        if executor.stopped:
            executor.buffered.append((queued.run.incarnation, queued))
            await self.scheduler.clock.sleep(START_SECONDS)
            raise Unavailable("Deadline Exceeded")
        executor.take_on(queued.run.incarnation, queued)
        if executor.slow:
            await self.scheduler.clock.sleep(SLOW_SECONDS)
        if executor.mute:
            raise LOST_ANSWER

    async def alive(self, address: str) -> bool:
        """Whether it says that it relies on its lease."""
        executor = self.executors[address]
        return not executor.cut and not executor.stopped and executor.lease.held

    async def stop(self, address: str, run_id: str, outcome: Outcome) -> None:
        """scheduler.cancel.Stopper."""
        executor = self.executors[address]
        if executor.cut or executor.stopped:
            raise AWAY
        if run_id in executor.live:
            executor.end(executor.live[run_id], outcome)

    async def pass_time(self, seconds: float) -> None:
        """Everybody does what they do all the time."""
        for _ in range(round(seconds / STEP_SECONDS)):
            await self.scheduler.clock.advance(STEP_SECONDS)
            for executor in self.executors.values():
                if not executor.stopped:
                    await executor.lease.once()
                    executor.conclude()
                    await executor.report()
            await self.scheduler.reap.once()
            await self.scheduler.dispatch.once()
            await settled(20)

    def crash(self, address: str) -> None:
        """kill -9, and started again: it knows nothing."""
        self.executors[address] = Executor(address, self, cut=self.executors[address].cut)

    def restart_scheduler(self) -> None:
        """Another one over the same rows: what was under way in the old one never comes to an end."""
        old = self.scheduler
        for task in (*old.dispatch._starting.values(), *old.cancel._tasks):
            task.cancel()
        store = old.store
        store.listeners.clear()
        self.scheduler = Scheduler(clock=old.clock)
        new = self.scheduler.store
        store.listeners += new.listeners
        new.state, new.listeners = store.state, store.listeners
        self._wire()

    def whose_word_counts(self, run: Run) -> int:
        """How many attempts that are in somebody's hands could end this run."""
        count = 0
        for executor in self.executors.values():
            attempt = executor.live.get(run.id)
            if attempt is not None:
                ended = Ended(run.id, attempt.attempt, attempt.epoch, DONE, self.now)
                batch = Batch(executor.address, executor.lease.incarnation, ended=[ended])
                count += not take(batch, {run.id: run}, self.now).ignored
        return count


async def quiet(mesh: Miniature) -> None:
    """Ends what still waits in the background."""
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
