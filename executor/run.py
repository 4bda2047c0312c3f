"""One attempt from start to end: sandbox, request, answer, outcome; and what is kept and reported of it."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing
from typing import Any, cast

from executor import disk, published
from executor.answer import Answer
from executor.capacity import Place
from executor.cgroups import Bounds, Usage
from executor.egress.egress import Egress
from executor.egress.fixed import FixedGate
from executor.egress.gate import Gate
from executor.egress.intercept import Interception
from executor.egress.log import EgressLog
from executor.egress.rules import parse as parse_rules
from executor.failure import outcome_of
from executor.host import Host, RunOf, bounds_of
from executor.keep import keep_answer, keep_egress, keep_log, keep_recording
from executor.model import (
    FINAL,
    HUNG_UP,
    OURS,
    TIMED_OUT,
    TIMED_OUT_ASYNC,
    KeptAnswer,
    Outcome,
    Spec,
    Status,
    Version,
)
from executor.model import Usage as RunUsage
from executor.model_calls import ModelCalls
from executor.output import Output
from executor.receive import Receiver
from executor.recording import Recording, recording_for
from executor.redact import Redaction
from executor.report import Ended, Started
from executor.request import Digest, head_for, unfinished
from executor.sandbox import (
    DEFAULT_BOUNDS,
    AnswerEnd,
    Crashed,
    Event,
    Finished,
    Head,
    Process,
    Sandbox,
    StartFailed,
)
from executor.tab import Tab
from executor.variables import Given
from executor.wayout import WayOut
from kit.lifecycle import failpoint
from kit.telemetry import current_traceparent, log, span

# More lines than any log can have (SPEC §3: 10 MiB).
LINES_AN_ATTEMPT = 1_000_000_000
ELSEWHERE = "the operator's settings lead this service to its provider only"
SANDBOX_LOST = Outcome.failed("runtime_error", "the executor lost its sandboxes")


class Run:
    """`execute` once; meanwhile `stop`, and `answer.read()` by whoever wants the answer. It closes its `tab`."""

    def __init__(
        self, host: Host, spec: Spec, body: AsyncIterator[bytes], place: Place, tab: Tab, *, known: bool
    ) -> None:
        self.spec = spec
        self.known = known
        self.tab = tab
        self.answer = Answer(host.spool)
        self._host = host
        self._body = body
        self._place = place
        self._limits = host.limits
        self._output: Output | None = None
        self._receiver: Receiver | None = None
        self._given: Digest | None = None
        self._contacts = EgressLog()
        self._redact = Redaction()
        self._began = host.clock.now()
        self._recording: Recording | None = None
        self._bounds = DEFAULT_BOUNDS
        self._sandbox: Sandbox | None = None
        self._calls = ModelCalls(tab, spec.library)
        self._used = Usage()
        self._wall_seconds = 0.0
        self._traceparent = ""
        self._stopped: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._handed_back = False

    def stop(self, outcome: Outcome) -> None:
        """Kills the run; this is its outcome. The first one counts, and none after the end."""
        if not self._stopped.done():
            self._stopped.set_result(outcome)

    def hand_back(self, outcome: Outcome) -> None:
        """As `stop`, since this executor stops: somebody else may do it, unless it has just ended by itself."""
        if not self._stopped.done():
            self._handed_back = True
            self.stop(outcome)

    def hang_up(self) -> None:
        """The caller of the direct way is gone: a run that still owes the answer is killed."""
        if not self.answer.complete:
            self.stop(HUNG_UP)

    async def execute(self) -> None:
        """Everything, to the report. Never raises but CancelledError, which leaves nothing behind either."""
        host, spec = self._host, self.spec
        host.reporter.tell(Started(spec, host.clock.now(), self.known))
        with span("executor.run", parent=spec.traceparent, run_id=spec.run_id, service_id=spec.service_id):
            try:
                outcome = await self._outcome()
            except BaseException:
                self.tab.abandon()
                raise
            finally:
                self._place.give_back()
            # It may quote the workflow.
            outcome = outcome.shown_as(self._redact(outcome.detail))
            self.stop(outcome)  # from here on it is too late for another
            self._handed_back &= self._stopped.result() is outcome
            try:
                await self._conclude(outcome)
            except asyncio.CancelledError:  # the executor stops, and the filestore takes its time
                self._tell(outcome)
                raise
            except Exception:  # noqa: BLE001  # whatever it was: the run has to end for those who wait for it
                log().exception("run.not_concluded", run_id=spec.run_id)
                outcome = Outcome.failed("runtime_error", "internal error")
                self.answer.end(outcome)
                self._tell(outcome)
            finally:
                if self._recording:
                    self._recording.close()

    async def _outcome(self) -> Outcome:
        """The attempt's own outcome, or that of whatever ends it before: a stop, the deadline."""
        clock, timed_out = self._host.clock, TIMED_OUT if self.spec.synchronous else TIMED_OUT_ASYNC
        left = (self.spec.deadline - clock.now()).total_seconds()
        if left <= 0:
            return timed_out
        work = asyncio.create_task(self._attempt())
        timer = asyncio.create_task(clock.sleep(left))
        ends: set[asyncio.Future[Any]] = {work, timer, self._stopped}
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return work.result()
            return self._stopped.result() if self._stopped.done() else timed_out
        finally:
            timer.cancel()
            work.cancel()  # leaving `_attempt` closes the sandbox
            await asyncio.gather(work, timer, return_exceptions=True)

    async def _attempt(self) -> Outcome:
        try:
            async with AsyncExitStack() as stack:
                stack.enter_context(self._host.metering.watching(self.tab, self._live, self.stop))
                return await self._served(await self._ready(stack))
        except Exception as error:  # noqa: BLE001  # hostile code and a whole mesh are behind it: any becomes an outcome
            if isinstance(error, Crashed) and self.answer.complete:
                # The caller has a whole answer; what the app did after it is lost.
                log().info("run.ended_early", run_id=self.spec.run_id, reason=self._redact(str(error)))
                return Outcome.answered(self._status)
            if self._host.driver.lost and isinstance(error, Crashed | StartFailed):
                return SANDBOX_LOST
            if isinstance(error, Crashed | StartFailed) and self._used.oom_kills:
                return Outcome.failed("out_of_memory", _out_of_memory(self._bounds))
            return outcome_of(error)

    async def _ready(self, stack: AsyncExitStack) -> Sandbox:
        """A sandbox in which the workflow waits for its request; `stack` ends it."""
        host, spec = self._host, self.spec
        version = await host.versions.version(spec.version_id)
        self._limits = limits = version.limits.over(host.limits)
        self._bounds = bounds_of(limits)
        await self.tab.open(limits)
        turn = host.capacity.turn(version.workflow_id, version.concurrency, self._place, wait=not spec.synchronous)
        await stack.enter_async_context(turn)
        self._output = self._log()
        intercepted = spec.record or bool(spec.offline_digest)
        given = await host.variables.of(version, spec.acting_id, intercepted=intercepted, library=spec.library)
        self._recording = recording = await recording_for(spec, version, given, host.authority, host.clock, host.blobs)
        self._contacts.hide(given.hidden)
        self._redact = Redaction(given.hidden)
        self._output.hide(self._redact)
        launch = await host.launch(
            RunOf(spec.run_id, spec.acting_id, spec.owner_id), version, given, limits, self._contacts
        )
        launch = recording.launch(launch) if recording else launch
        async with host.capacity.starting():
            with span("sandbox.start"):
                self._traceparent = current_traceparent()
                self._began = host.clock.now()
                self._sandbox = sandbox = await host.driver.start(launch)
                stack.push_async_callback(self._close, sandbox)
                process = sandbox.process
                self._output.follow(process.stdout, process.stderr)
                nested = recording.nested if recording else None
                way_out = WayOut(process.way_out, host.nested, host.nested_tls, self._identity, nested)
                await stack.enter_async_context(way_out)
                await stack.enter_async_context(self._egress(process, version, given))
                await stack.enter_async_context(disk.watched(process.places, limits.disk_bytes, self._fill))
                await sandbox.ready(host.start_timeout)
        return sandbox

    def _egress(self, process: Process, version: Version, given: Given) -> Egress:
        host, rules, recording = self._host, parse_rules(version.egress), self._recording
        interception = Interception(host.authority, given.fill_ins) if given.fill_ins else None
        gate: Gate | None = FixedGate(host.internet, given.reach, ELSEWHERE) if given.reach else None
        offline = None
        if recording:
            interception, gate, offline = recording.interception(), recording.gate(host.internet), recording.offline
        way = (process.egress, process.names, host.internet, rules, self._contacts, host.clock)
        return Egress(*way, interception, gate, offline)

    def _fill(self, told: str) -> None:
        self.stop(Outcome.failed("disk_full", f"{told}: raise `disk` in [tool.runmesh], or need less"))

    async def _close(self, sandbox: Sandbox) -> None:
        self._sandbox, self._used = None, (await sandbox.close()).used
        self._wall_seconds = (self._host.clock.now() - self._began).total_seconds()

    def _live(self) -> RunUsage | None:
        """What it has used so far, or could have where nobody can tell; None without a sandbox."""
        if self._sandbox is None:
            return None
        wall, used = (self._host.clock.now() - self._began).total_seconds(), self._sandbox.usage()
        if used == Usage():
            used = Usage(self._bounds.cpu * wall, self._bounds.memory)
        return RunUsage(used.cpu_seconds, wall, used.memory_peak, self._contacts.bytes_carried)

    async def _served(self, sandbox: Sandbox) -> Outcome:
        """The request goes in, the answer comes out; the outcome once the app has finished."""
        with span("workflow.request"):
            self._traceparent = current_traceparent()
            request = head_for(self.spec, self._traceparent)
            self._receiver = Receiver(self.answer, self._limits, request.method)
            self._given = Digest()
            body = self._given.of(unfinished(self._body, self._limits.request_bytes, self.stop))
            if self._recording:
                request, body = self._recording.begin(request), self._recording.heard(body)
            events = cast(AsyncGenerator[Event, None], sandbox.serve(request, body))
            parts = self._calls.heard(events, sandbox)
            async with aclosing(parts):
                async for event in parts:
                    if isinstance(event, Finished):
                        return self._finished(event)
                    self._take(event)
            raise Crashed("the workflow's process ended")

    def _take(self, event: Head | bytes | AnswerEnd) -> None:
        assert self._receiver is not None
        if isinstance(event, Head):
            self._receiver.head(event)
        elif isinstance(event, bytes):
            self._receiver.body(event)
        else:
            self._receiver.end(event)

    def _finished(self, event: Finished) -> Outcome:
        if self.answer.complete:
            return Outcome.answered(self._status)
        reason = event.error or "the app returned"
        return Outcome.failed("workflow_crashed", f"the workflow ended before its answer was complete: {reason}")

    def _log(self) -> Output:
        """Numbers of lines rise from one attempt to the next."""
        host, spec = self._host, self.spec
        before = max(0, spec.attempt - 1) * LINES_AN_ATTEMPT
        return Output(spec.run_id, host.lines, host.clock, self._limits.log_bytes, host.spool, before=before)

    async def _conclude(self, outcome: Outcome) -> None:
        """Ends log and answer, keeps what is to be kept, reports."""
        host = self._host
        output, estimates = self._output or self._log(), await self._calls.close()
        await output.drain()
        for estimate in estimates:
            log().warning("run.tokens_estimated", run_id=self.spec.run_id, reason=estimate)
            await output.system(estimate, "warning")
        for refusal in self._contacts.refusals:
            await output.system(refusal, "warning")
        outcome = outcome.with_tail(output.tail)
        if outcome.code:
            await output.system(outcome.detail or outcome.code, "error")
        if not self._goes_on(outcome):
            await output.end()
        self.answer.end(outcome)
        refused = await self._refused()
        streamed = self._receiver is not None and self._receiver.streamed
        kept = await keep_answer(self.answer, host.blobs, host.clock, streamed=streamed)
        if self.known and kept is not None and kept.digest:
            self.answer.forget()  # the filestore has it: no file need stay open for who comes late
        digest = await keep_log(output.archive, host.blobs, host.clock)
        output.archive.close()
        contacts = await keep_egress(self._contacts.lines(), host.blobs, host.clock)
        recorded = ""
        if self._recording:
            document = await asyncio.to_thread(self._recording.document, self._contacts)
            recorded = await keep_recording(document, host.blobs, host.clock)
        self._tell(outcome, kept, digest, contacts, recorded, refused=refused)

    async def _refused(self) -> bool:
        """Whether nobody pays, since the whole answer is none to those who decide so."""
        head, body = self.answer.head, self.answer.body
        if not self.spec.decides or head is None or not self.answer.complete:
            return False
        return await asyncio.to_thread(published.refused, head, body)

    def _goes_on(self, outcome: Outcome) -> bool:
        """Whether another attempt may follow, so that its log doesn't end here. If none does, who reads it finds out by
        the record.
        """
        if self.spec.synchronous or outcome.status is not Status.FAILED:
            return False
        return outcome.code in OURS or (self.spec.retries > 0 and outcome.code not in FINAL)

    def _tell(
        self,
        outcome: Outcome,
        kept: KeptAnswer | None = None,
        log_digest: str = "",
        egress_digest: str = "",
        recording_digest: str = "",
        *,
        refused: bool = False,
    ) -> None:
        spec = self.spec
        failpoint("ended")
        now = self._host.clock.now()
        carried = self._contacts.bytes_carried
        seconds, peak = (self._used.cpu_seconds, self._wall_seconds), self._used.memory_peak
        used = RunUsage(*seconds, peak, carried, *self.tab.tokens)
        bill = self.tab.close(used)
        failpoint("billed")
        ended = Ended(
            spec.run_id,
            spec.attempt,
            spec.epoch,
            outcome,
            kept,
            log_digest,
            now,
            used,
            egress_digest,
            handed_back=self._handed_back,
            recording_digest=recording_digest,
            input_sha256=self._given.hex if self._given else "",
            output_sha256=self._receiver.sha256 if self._receiver else "",
            refused=refused,
            bill=bill,
        )
        self._host.reporter.tell(ended)

    @property
    def _status(self) -> int:
        return self.answer.head.status if self.answer.head else 0

    def _identity(self) -> bytes:
        return self._host.identity(self.spec, self._traceparent)


def _out_of_memory(bounds: Bounds) -> str:
    limit = f"its limit of {bounds.memory >> 20} MiB" if bounds.memory else "what this host has"
    remedy = "raise `memory` in [tool.runmesh] (or `memory_bytes`, if PATCH has set it), or need less"
    return f"the workflow needed more memory than {limit}: {remedy}"
