"""The runs of this host: taken on, attached to, stopped, remembered for a while, drained."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from datetime import datetime, timedelta

from executor.answer import WholeAnswer
from executor.capacity import RETRY_AFTER
from executor.host import Host
from executor.model import AnswerEvent, Limits, Outcome, Spec
from executor.run import Run
from executor.tab import Tab
from kit.errors import Conflict, Exhausted, Invalid, NotFound, Problem, Unavailable
from kit.lifecycle import failpoint
from kit.names import is_id
from kit.telemetry import log

# How long a started run's answer can be attached to after its end, and how many are held at most.
LINGER = timedelta(seconds=60)
REMEMBERED = 512
# How long a run whose answer has to be attached to waits for that.
HOLD_SECONDS = 10.0
SWEEP_SECONDS = 5.0
# What killing all sandboxes, keeping and reporting may take when the executor stops.
CONCLUDE_SECONDS = 10.0
SHUT_DOWN = Outcome.failed("runtime_error", "the executor was shut down before the run had finished")
SUPERSEDED = Outcome.failed("runtime_error", "the run was given to another attempt")
LEASE_LOST = Outcome.failed("runtime_error", "the executor lost touch with the scheduler")
# Attempts that were started here, so that none is started twice however late its Start is repeated, and that were
# refused: their runs are given away under another epoch then.
MOST_STARTED = 20_000


class Runs:
    """Runs by id: those under way, and the ended ones that were started (not called directly)."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._live: dict[str, Run] = {}
        self._ended: OrderedDict[str, tuple[datetime, Run]] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()
        # Runs whose caller asked and may have to attach yet, and what kills those that it has to.
        self._unheld: dict[str, asyncio.Task[None] | None] = {}
        self._started: OrderedDict[tuple[str, int], None] = OrderedDict()
        self._refused: OrderedDict[tuple[str, int], None] = OrderedDict()

    async def ask(self, spec: Spec, body: AsyncIterator[bytes]) -> WholeAnswer | Outcome | None:
        """Direct way: a small answer when it is whole, or the outcome of a run without one. None: its answer is long or
        a stream, to be attached to and held within HOLD_SECONDS. Leaving before kills the run.

        Errors: Invalid, Conflict, Exhausted, Unavailable.
        """
        run = await self._call(spec, body)
        self._unheld[spec.run_id] = None
        try:
            found = await run.answer.at_once()
            if found is None:
                self._unheld[spec.run_id] = asyncio.create_task(self._abandoned(run))
            return found
        finally:
            if self._unheld[spec.run_id] is None:
                self._let_go(run)

    async def call(self, spec: Spec, body: AsyncIterator[bytes]) -> AsyncGenerator[AnswerEvent, None]:
        """Direct way: the answer as it comes. Leaving before it is complete kills the run.

        Errors: Invalid, Conflict, Exhausted, Unavailable.
        """
        run = await self._call(spec, body)
        try:
            async with aclosing(run.answer.read()) as events:
                async for event in events:
                    yield event
        finally:
            run.hang_up()

    def start(self, spec: Spec, body: AsyncIterator[bytes], incarnation: str) -> None:
        """Durable way. `incarnation`: to which life of this executor the run was given.

        Errors: Invalid; Conflict when this attempt was started here already; Unavailable.
        """
        attempt = (spec.run_id, spec.epoch)
        if incarnation != self._host.lease.incarnation:
            # That one may have begun it: no `retry_after`, which says that nobody has.
            raise Unavailable("another life of this executor was given the run")
        if attempt in self._started:
            raise Conflict(f"{spec.run_id} was started already")
        if attempt in self._refused:  # a Start that came late: the run has been given to somebody else meanwhile
            raise Unavailable(f"{spec.run_id} was refused already", retry_after=RETRY_AFTER)
        answers = self._refused
        try:
            self._start(spec, body)
            answers = self._started
        finally:
            answers[attempt] = None
            while len(answers) > MOST_STARTED:
                answers.popitem(last=False)
        failpoint("taken")

    def _start(self, spec: Spec, body: AsyncIterator[bytes]) -> None:
        if spec.run_id in self._live:  # an attempt before this one, which is about to be told that it is over
            self._live[spec.run_id].stop(SUPERSEDED)
            raise Unavailable("an earlier attempt has to end first", retry_after=RETRY_AFTER)
        if self._host.metering.away:  # it would lose an attempt, and in the end all of them
            raise Unavailable("the ledger doesn't answer", retry_after=RETRY_AFTER)
        try:
            self._take_on(spec, body, self._host.metering.tab(spec), known=True)
        except Exhausted as full:  # it can wait
            raise Unavailable(full.message, retry_after=full.retry_after) from full

    async def attach(self, run_id: str, *, hold: bool = False) -> AsyncGenerator[AnswerEvent, None]:
        """The answer from its first byte, live. Leaving changes nothing, but with `hold` it kills a run whose answer
        isn't complete. Errors: NotFound.
        """
        run = self._find(run_id)
        if run is None or run.answer.forgotten:
            raise NotFound("no such run here")
        if hold and (abandoning := self._unheld.pop(run_id, None)):
            abandoning.cancel()
        try:
            async with aclosing(run.answer.read()) as events:
                async for event in events:
                    yield event
        finally:
            if hold:
                self._let_go(run)

    def stop(self, run_id: str, outcome: Outcome) -> None:
        """Kills a run with this outcome; nothing happens when it isn't under way."""
        if run_id in self._live:
            self._live[run_id].stop(outcome)

    def lose(self) -> None:
        """The lease is lost: everything ends."""
        for run in self._live.values():
            run.stop(LEASE_LOST)

    async def forget_old(self) -> None:
        """For ever: lets go of ended runs when their time is over."""
        while True:
            await self._host.clock.sleep(SWEEP_SECONDS)
            horizon = self._host.clock.now() - LINGER
            while self._ended and next(iter(self._ended.values()))[0] < horizon:
                self._forget_oldest()

    async def drain(self, grace: float) -> None:
        """Takes nothing new, lets runs end within `grace` seconds, hands back the rest; all are reported."""
        self._host.capacity.drain()
        await self._host.lease.renew()  # no run should be placed here any more
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace)
        for run in self._live.values():
            run.hand_back(SHUT_DOWN)
        for abandoning in self._unheld.values():
            if abandoning:
                abandoning.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CONCLUDE_SECONDS)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        while self._ended:
            self._forget_oldest()

    async def _call(self, spec: Spec, body: AsyncIterator[bytes]) -> Run:
        """What can't be paid isn't taken on, so that there is no record of it."""
        self._check(spec)
        self._check_new(spec)
        tab = self._host.metering.tab(spec)
        try:
            await tab.open(await self._limits(spec))
            self._check_new(spec)
            return self._take_on(spec, body, tab, known=False)
        except BaseException:
            tab.abandon()
            raise

    def _check_new(self, spec: Spec) -> None:
        if self._find(spec.run_id):
            raise Conflict(f"{spec.run_id} has run already")

    async def _limits(self, spec: Spec) -> Limits:
        """A version that can't be had is the run's own problem."""
        with suppress(Problem):
            return (await self._host.versions.version(spec.version_id)).limits.over(self._host.limits)
        return self._host.limits

    async def _abandoned(self, run: Run) -> None:
        await self._host.clock.sleep(HOLD_SECONDS)
        self._let_go(run)

    def _let_go(self, run: Run) -> None:
        """The caller of the direct way is gone, or has all of the answer."""
        run.hang_up()
        self._unheld.pop(run.spec.run_id, None)
        if not run.known and run.spec.run_id in self._ended:
            del self._ended[run.spec.run_id]
            run.answer.forget()

    def _check(self, spec: Spec) -> None:
        """Errors: Invalid; Unavailable while nothing is taken on here."""
        if not is_id(spec.run_id, "run"):
            raise Invalid("a run needs an id")
        if not self._host.lease.held:
            raise Unavailable("this executor has no lease from the scheduler at present", retry_after=RETRY_AFTER)
        if self._host.driver.lost:
            raise Unavailable("this executor can have no sandboxes any more", retry_after=RETRY_AFTER)
        if self._host.reporter.overdue:
            raise Unavailable("the scheduler hasn't taken this executor's reports for a while", retry_after=RETRY_AFTER)

    def _take_on(self, spec: Spec, body: AsyncIterator[bytes], tab: Tab, *, known: bool) -> Run:
        self._check(spec)
        place = self._host.capacity.take(spec.caller_id, nested=spec.depth > 0 and spec.synchronous)
        run = self._live[spec.run_id] = Run(self._host, spec, body, place, tab, known=known)
        task = asyncio.create_task(self._follow(run))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return run

    async def _follow(self, run: Run) -> None:
        try:
            await run.execute()
        except Exception:  # noqa: BLE001  # nobody awaits this task
            log().exception("run.broke", run_id=run.spec.run_id)
        finally:
            del self._live[run.spec.run_id]
            if run.known or run.spec.run_id in self._unheld:
                self._ended[run.spec.run_id] = (self._host.clock.now(), run)
                while len(self._ended) > REMEMBERED:
                    self._forget_oldest()
            else:
                run.answer.forget()

    def _find(self, run_id: str) -> Run | None:
        if run_id in self._live:
            return self._live[run_id]
        ended = self._ended.get(run_id)
        return ended[1] if ended else None

    def _forget_oldest(self) -> None:
        _, (_, run) = self._ended.popitem(last=False)
        run.answer.forget()
