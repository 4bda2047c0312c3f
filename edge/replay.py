"""POST /request/{id}/replay: the input of a run again, as a new run. The input is its caller's, and so is the cost."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Protocol

from edge.billing import budget_of, check_credit
from edge.calls import Call, ServiceRates, asker, correlation_id_of, under_its_parent, unknown_request
from edge.fields import Fields
from edge.http import Answer, Request, json_answer
from edge.model import Principal
from edge.reading import Reading
from edge.run_model import Blobs, Given, RunRecord, RunSpec, Status, Target, Trigger, VersionOf
from edge.targets import Workflows
from kit.clock import Clock
from kit.errors import Conflict, Invalid, NotFound
from kit.telemetry import current_traceparent

MODES = ("live", "offline")
MOST_VERSION = 999_999_999


class Inputs(Protocol):
    """The scheduler's memory of what runs were given."""

    async def given(self, organization_id: str, run_id: str) -> Given:
        """Errors: NotFound, also where it is somebody else's; Conflict when it wasn't kept."""
        ...


class Versions(Protocol):
    """The scheduler's directory of versions."""

    async def version(self, version_id: str) -> VersionOf:
        """Errors: NotFound."""
        ...


class Submitting(Protocol):
    """edge.durable.Durable."""

    async def submit(self, call: Call) -> str: ...


@dataclass(frozen=True)
class Wish:
    """What is asked for. `version` 0: that of then."""

    version: int
    offline: bool


class Replays:
    """Starts runs anew."""

    def __init__(
        self,
        reading: Reading,
        inputs: Inputs,
        workflows: Workflows,
        rates: ServiceRates,
        versions: Versions,
        durable: Submitting,
        blobs: Blobs,
        clock: Clock,
    ) -> None:
        self._reading = reading
        self._inputs = inputs
        self._workflows = workflows
        self._rates = rates
        self._versions = versions
        self._durable = durable
        self._blobs = blobs
        self._clock = clock

    async def replay(self, request: Request) -> Answer:
        """`{"request_id"}` of a new asynchronous run, once it is durably accepted. Errors: Invalid; NotFound for a run,
        an input or a workflow that isn't the caller's to use; Conflict when there is no input, or no recording;
        Exhausted (payment_required).
        """
        who, wish, budget = request.who, await _wish(request), budget_of(request)
        record = await self._reading.find(request, summary=True)
        if record.status is Status.PROVISIONED:
            raise Conflict("nothing has run under this id yet: there is no input to replay")
        if record.acting_id not in {record.owner_id, who.organization_id}:
            raise unknown_request()
        given = await self._inputs.given(who.organization_id, record.id)
        if wish.offline:
            _check_recording(who, record)
        reference, target = await self._target(who, record, wish)
        await self._rates.called(request, target)
        spec = self._spec(request, record, wish, given, target)
        check_credit(who, durable=True)
        call = Call(
            spec=spec,
            reference=reference,
            limits=target.limits,
            asker=asker(who),
            body=self._body(given),
            brief=not given.body_digest,
            host=request.header("host"),
            budget=budget,
            begun=request.begun,
        )
        run_id = await self._durable.submit(call)
        ids = [("x-request-id", run_id), ("x-correlation-id", spec.correlation_id or run_id)]
        return json_answer({"request_id": run_id}, headers=ids)

    async def _target(self, who: Principal, record: RunRecord, wish: Wish) -> tuple[str, Target]:
        """The reference and what it stands for: a version of the workflow that ran, as the caller may call it today.
        Errors: NotFound.
        """
        then = await self._versions.version(record.version_id)
        reference = f"{record.owner_id}.{record.service_id}@{wish.version or then.number}"
        target = await self._workflows.resolve(who.organization_id, reference)
        if target.workflow_id != then.workflow_id:
            raise NotFound("the workflow that ran was deleted; what has its name now is another one")
        if record.acting_id != target.owner_id and target.visibility != "template":
            raise NotFound("the workflow is no template any more")
        return reference, target

    def _spec(self, request: Request, record: RunRecord, wish: Wish, given: Given, target: Target) -> RunSpec:
        who = request.who
        spec = RunSpec(
            owner_id=target.owner_id,
            caller_id=who.caller_id,
            acting_id=record.acting_id,
            requester_id=who.organization_id,
            service_id=target.service_id,
            version_id=target.version_id,
            request=given.request,
            created_at=self._clock.now(),
            correlation_id=correlation_id_of(request),
            traceparent=current_traceparent(),
            key_id=who.key_id,
            retries=0 if wish.offline else target.limits.retries,
        )
        # A recorded run's replay is recorded, too: else nobody could tell what it asked for otherwise.
        recorded = bool(record.recording_digest) and record.acting_id == who.organization_id
        return _replayed(under_its_parent(spec, who), record, offline=wish.offline, recorded=recorded)

    async def _body(self, given: Given) -> AsyncIterator[bytes]:
        """Errors: Conflict when it is kept no longer."""
        if not given.body_digest:
            yield given.body
            return
        try:
            async with aclosing(self._blobs.get(given.body_digest)) as chunks:
                async for chunk in chunks:
                    yield chunk
        except NotFound:
            raise Conflict("the input of this run is kept no longer") from None


def _replayed(spec: RunSpec, record: RunRecord, *, offline: bool, recorded: bool) -> RunSpec:
    digest = record.recording_digest if offline else ""
    return replace(spec, trigger=Trigger.REPLAY, replay_of=record.id, offline_digest=digest, record=recorded)


def _check_recording(who: Principal, record: RunRecord) -> None:
    """Errors: NotFound for those whose secrets the run doesn't use; Conflict."""
    if record.acting_id != who.organization_id:
        raise unknown_request()
    if not record.status.over:
        raise Conflict("the run goes on: its recording is there when it is over")
    if not record.recording_digest:
        raise Conflict("this run wasn't recorded: call it with X-Record: yes, and replay that call offline")


async def _wish(request: Request) -> Wish:
    """From the JSON body, else from the query. Errors: Invalid."""
    fields = Fields(await request.json())
    version = fields.integer("version", lowest=1, highest=MOST_VERSION)
    mode = fields.text("mode") or request.parameter("mode") or MODES[0]
    fields.done(known=("version", "mode"))
    text = request.parameter("version")
    if version is None and text is not None:
        if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text)):
            raise Invalid(f"version is {text[:40]!r}; it must be the number of a version")
        version = int(text)
    if mode not in MODES:
        raise Invalid(f"mode is {mode[:40]!r}; it must be live or offline")
    return Wish(version or 0, mode == "offline")
