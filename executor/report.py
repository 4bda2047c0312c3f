"""Tells the scheduler what started and what ended, in batches, until it has taken them."""

import asyncio
from collections import deque
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from executor.bill import Bill
from executor.model import KeptAnswer, Outcome, Spec, Usage
from kit.clock import Clock
from kit.errors import Problem, Unavailable
from kit.telemetry import log

GATHER_SECONDS = 0.01
# Between two batches: a report costs the scheduler as much as the many facts that may be in it. The end of a run that
# it knows, which somebody may be waiting for, isn't held up. Whoever asks for one that it doesn't know yet waits at the
# edge (edge/reading.py).
DISTANCE_SECONDS = 0.2
# A run of the direct way is told of when it has gone on for so long: most are over before, and told of as a whole.
YOUNG = timedelta(seconds=0.25)
FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 1.0
# Inputs and kept answers ride along, at most 64 KiB each and the heads: a batch stays far below a message's 16 MiB.
BATCH, BATCH_BYTES = 128, 8 << 20
# More than that means that the scheduler has been away for long: new runs are refused then.
BACKLOG, BACKLOG_BYTES = 2000, 128 << 20
ATTEMPTS_ALONE = 5


@dataclass(frozen=True)
class Started:
    """An attempt began. `known`: the scheduler submitted it, so that it needs no spec."""

    spec: Spec
    at: datetime
    known: bool

    @property
    def size(self) -> int:
        """About how many bytes it has to carry."""
        return 0 if self.known else len(self.spec.whole) + len(self.spec.given or b"")


@dataclass(frozen=True)
class Ended:
    """An attempt is over."""

    run_id: str
    attempt: int
    epoch: int
    outcome: Outcome
    answer: KeptAnswer | None
    log_digest: str
    at: datetime
    usage: Usage = Usage()
    # Of what it contacted, in the filestore; empty when it was nothing.
    egress_digest: str = ""
    # This executor is stopping: somebody else may do it.
    handed_back: bool = False
    # Of what was recorded of it, in the filestore; empty when nothing was.
    recording_digest: str = ""
    # SHA-256 (hex) of the bodies that went in and came out; empty where there was none.
    input_sha256: str = ""
    output_sha256: str = ""
    # Under /api/v1 its answer is a failure.
    refused: bool = False
    # What it cost; None where nothing was taken for it.
    bill: Bill | None = None

    @property
    def size(self) -> int:
        """About how many bytes it has to carry."""
        return len(self.answer.content) if self.answer else 0


Fact = Started | Ended


class Scheduler(Protocol):
    """Who wants to know."""

    async def report(self, facts: list[Fact]) -> None:
        """All of them or none. Errors: Unavailable when it should be sent again; any other means it never will be."""


class Reporter:
    """Facts about one run arrive in the order in which they were told. `run` is its loop."""

    def __init__(self, scheduler: Scheduler, clock: Clock) -> None:
        self._scheduler = scheduler
        self._clock = clock
        self._waiting: deque[Fact] = deque()
        self._bytes = 0
        self._young: dict[str, Started] = {}
        # Under way, and the scheduler knows it.
        self._begun: set[str] = set()
        self._some = asyncio.Event()
        self._none = asyncio.Event()
        self._none.set()
        self._hurry = asyncio.Event()

    @property
    def overdue(self) -> bool:
        """So much waits for the scheduler that nothing should be added."""
        return len(self._waiting) >= BACKLOG or self._bytes >= BACKLOG_BYTES

    def tell(self, fact: Fact) -> None:
        """Doesn't wait."""
        if isinstance(fact, Started):
            self._started(fact)
        else:
            if young := self._young.pop(fact.run_id, None):
                self._add(young)
            self._add(fact)
            if fact.run_id in self._begun:
                self._begun.discard(fact.run_id)
                self._hurry.set()
        self._none.clear()
        self._some.set()

    def _started(self, fact: Started) -> None:
        if fact.known:
            self._add(fact)
            self._begun.add(fact.spec.run_id)
        else:
            self._young[fact.spec.run_id] = fact

    def _add(self, fact: Fact) -> None:
        self._waiting.append(fact)
        self._bytes += fact.size

    async def run(self) -> None:
        """For ever."""
        while True:
            await self._some.wait()
            await self._clock.sleep(GATHER_SECONDS)
            self._grow_up()
            while self._waiting:
                await self._send_some()
            if not self._young:
                self._some.clear()
                self._none.set()
            await self._keep_distance()

    def _grow_up(self) -> None:
        horizon = self._clock.now() - YOUNG
        for run_id in [run_id for run_id, fact in self._young.items() if fact.at <= horizon]:
            self._add(self._young.pop(run_id))
            self._begun.add(run_id)

    async def _keep_distance(self) -> None:
        self._hurry.clear()  # whoever was in one has just been told of
        waits = [asyncio.ensure_future(wait) for wait in (self._clock.sleep(DISTANCE_SECONDS), self._hurry.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def flush(self, patience: float) -> None:
        """Returns when everything is told, or after `patience` seconds. `run` must be running."""
        try:
            async with asyncio.timeout(patience):
                await self._none.wait()
        except TimeoutError:
            log().error("report.lost", facts=len(self._waiting))

    async def _send_some(self) -> None:
        batch = self._batch()
        if not await self._taken(batch):
            for fact in batch:  # one of them is refused: find out which, so that the others get through
                await self._send_alone(fact)
        for _ in batch:
            self._bytes -= self._waiting.popleft().size

    def _batch(self) -> list[Fact]:
        batch: list[Fact] = []
        size = 0
        for fact in self._waiting:
            size += fact.size
            if len(batch) == BATCH or (batch and size > BATCH_BYTES):
                break
            batch.append(fact)
        return batch

    async def _taken(self, batch: list[Fact]) -> bool:
        """Sends until the scheduler answers; False when it refuses."""
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                await self._scheduler.report(batch)
                return True
            except Unavailable as problem:
                log().warning("report.waiting", reason=problem.message, facts=len(self._waiting))
                await self._clock.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            except Problem as problem:
                log().error("report.refused", reason=problem.message, facts=len(batch))
                return False
            except Exception:  # noqa: BLE001  # a bug over there: the loop has to go on for the others
                log().exception("report.failed", facts=len(batch))
                return False

    async def _send_alone(self, fact: Fact) -> None:
        for _ in range(ATTEMPTS_ALONE):
            if await self._taken([fact]):
                return
            await self._clock.sleep(FIRST_PAUSE_SECONDS)
        log().error("report.dropped", run_id=fact.spec.run_id if isinstance(fact, Started) else fact.run_id)
