"""From a caller's request to a call of a workflow: what is meant, who acts, what the workflow is given."""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Protocol

from edge.billing import billed, bound_body, budget_of, check_bound, check_credit
from edge.http import BODILESS, Request, too_large
from edge.inputs import read_inputs
from edge.model import AS_CALLER, FOR_KEYS, SYSTEM, Principal
from edge.receiver import callback_url
from edge.run_model import INLINE_BYTES, MAX_DEPTH, Asker, Headers, Limits, RequestHead, RunSpec, Target, Trigger
from edge.targets import Workflows
from kit.clock import Clock
from kit.errors import Denied, Exhausted, Invalid, NotFound
from kit.names import is_id
from kit.telemetry import current_traceparent

MAX_CORRELATION = 200
MAX_RETRIES = 100
# The lower, the sooner, within one organization.
PRIORITIES = {"high": -1, "normal": 0, "low": 1}
REFERENCE = re.compile(r"[\w.@-]{1,300}")
_CORRELATION = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?")
_KEY = re.compile(r"[\x20-\x7e]{1,255}")
# What a caller says to the platform about the run that it asks for.
DEALINGS = frozenset({
    "x-provisioned-request-id", "run-as-template", "x-on-timeout", "idempotency-key", "x-callback-url", "x-budget",
    "x-retries", "x-priority", "x-record",
})  # fmt: skip
# And who it is, hop-by-hop headers, and what the platform itself tells the workflow.
_OURS = DEALINGS | frozenset({
    "authorization", "x-api-key", "x-goog-api-key", "x-http-code",
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer",
    "transfer-encoding", "upgrade", "expect",
    "x-request-id", "x-correlation-id", "codewords-caller-id", "x-scheduled-request-id", "x-deadline", "traceparent",
    "x-attempt",
})  # fmt: skip


@dataclass(frozen=True)
class Call:
    """A call that may be run. `spec` lacks what the way in decides: run_id, root_id of a root, deadline."""

    spec: RunSpec
    reference: str
    limits: Limits
    asker: Asker
    # Read lazily; raises too_large (413) past the workflow's limit.
    body: AsyncIterator[bytes]
    # Whether the body is announced as a small one, or none is to be expected.
    brief: bool
    host: str
    provisioned_id: str = ""
    idempotency_key: str = ""
    # Gets the record when the run is over; empty: nobody does.
    callback_url: str = ""
    # What it and all below it may cost, in micro-credits; None: no more limits than those of its spec.
    budget: int | None = None
    # What passing the sync limit, or the caller hanging up, does to the run: it goes on, or is killed.
    continues: bool = False
    # Gets the run's id once there may be a run: what ends the call from outside tells it too.
    begun: list[str] = field(default_factory=list)
    # And here when somebody else may wait for that run, too.
    shared: list[str] = field(default_factory=list)

    @property
    def durable(self) -> bool:
        """Whether the run has to be committed before it starts; the direct way is faster."""
        named = self.provisioned_id or self.asker.one_time_key_id or self.idempotency_key or self.callback_url
        return self.continues or bool(named) or self.spec.record or not self.spec.synchronous

    @property
    def timeout(self) -> timedelta:
        """How long the run may take; one that is let go on has the time of an asynchronous one."""
        patient = self.continues or not self.spec.synchronous
        return self.limits.async_timeout if patient else self.limits.sync_timeout


class ServiceRates(Protocol):
    """edge.rates.RateLimits."""

    async def called(self, request: Request, target: Target) -> None:
        """A call of a workflow is about to be made. Errors: Exhausted (rate_limited), Unavailable."""


class Calls:
    """Makes a Call of a request."""

    def __init__(self, workflows: Workflows, rates: ServiceRates, clock: Clock) -> None:
        self._workflows = workflows
        self._rates = rates
        self._clock = clock

    async def read(self, request: Request, *, synchronous: bool, published: bool = False) -> Call:
        """Reads nothing of the body, but where a JSON object is expected: by prompts, and of a call of /api/v1, which
        runs only what is `published`. Errors: Invalid (also too_large), Denied, NotFound, Exhausted (too_many_runs,
        rate_limited, payment_required), Unavailable.
        """
        who, reference = request.who, request.params["service_id"]
        who.check_run(reference)
        provisioned_id = provisioned_id_of(request)
        continues = _continues(request, provisioned=bool(provisioned_id))
        receiver_url, correlation_id = callback_url(request), correlation_id_of(request)
        if not REFERENCE.fullmatch(reference):
            raise NotFound(f"there is no workflow {reference[:100]!r} that this key can see")
        idempotency_key, retries, priority = idempotency_key_of(request), _retries(request), _priority(request)
        budget = budget_of(request)
        target = await self._resolved(who.organization_id, reference, published=published)
        check_bound(who, target, request.params["path"])
        _check_whole(who, target)
        spec = _spec(
            request,
            target,
            created_at=self._clock.now(),
            correlation_id=correlation_id,
            synchronous=synchronous,
            retries=target.limits.retries if retries is None else retries,
            priority=priority,
        )
        spec = under_its_parent(replace(spec, record=_record(request, spec.acting_id)), who)
        # What is called by a run is charged as that run's tree is.
        spec = replace(spec, charged_on_success=published) if who.identity is None else spec
        body = bound_body(who, _body(request, target.limits.request_bytes))
        if published or (target.variables is not None and request.method == "POST"):
            # Before anything is started, or charged.
            raw = await read_inputs(body, target.variables)
            spec, body = _given(spec, raw), _all_of(raw)
        call = Call(
            spec=spec,
            reference=reference,
            limits=self._limits(target.limits, who, published=published),
            asker=asker(who),
            body=body,
            brief=brief(request),
            host=request.header("host"),
            provisioned_id=provisioned_id,
            idempotency_key=idempotency_key,
            callback_url=receiver_url,
            budget=budget,
            continues=continues,
            begun=request.begun,
        )
        if not idempotency_key:  # what was asked for before is answered, whatever is left by now
            check_credit(who, durable=call.durable)
        await self._rates.called(request, target)
        return call

    async def _resolved(self, organization_id: str, reference: str, *, published: bool) -> Target:
        """Errors: NotFound; alike for what isn't `published` and what isn't there."""
        if not published:
            return await self._workflows.resolve(organization_id, reference)
        try:
            target = await self._workflows.resolve(organization_id, reference)
        except NotFound:
            target = None
        if target is None or not target.published:
            raise NotFound("no such workflow: check the id, and that it is published and that this key can see it")
        return target

    def _limits(self, limits: Limits, who: Principal, *, published: bool) -> Limits:
        """A call that a run waits for has no more time than that run has left (SPEC §3)."""
        if published:
            limits = replace(limits, sync_timeout=limits.api_timeout)
        if who.identity is None:
            return limits
        left = max(timedelta(0), who.identity.deadline - self._clock.now())
        return replace(limits, sync_timeout=min(limits.sync_timeout, left))


def asker(who: Principal) -> Asker:
    """How the scheduler knows a principal."""
    return Asker(who.organization_id, who.key_id if who.one_time else "")


def headers_for(headers: list[tuple[str, str]]) -> Headers:
    """What of the caller's headers a workflow is given."""
    return tuple((name, value) for name, value in headers if not _is_ours(name))


def _is_ours(name: str) -> bool:
    return name in _OURS or name.startswith(("x-envoy-", "grpc-", "x-runmesh-")) or name.endswith("-bin")


def _acting_id(request: Request, who: Principal, target: Target) -> str:
    """Whose secrets the run uses: the owner's; the caller's for a template that it asks to run as its own, or a service
    of the library that can.
    """
    asked = request.header("run-as-template").lower()
    if asked not in {"", "yes", "no", "true", "false"}:
        raise Invalid(f"Run-As-Template is {asked[:40]!r}; it must be yes or no")
    can = target.visibility == "template" or (target.owner_id == SYSTEM and target.service_id in AS_CALLER)
    if asked in {"yes", "true"} and can:
        return who.organization_id
    return target.owner_id


def _check_whole(who: Principal, target: Target) -> None:
    """A service that runs whatever it is told to would give a key for one service, or for one run, more than it has.
    Errors: Denied.
    """
    if target.owner_id != SYSTEM or target.service_id not in FOR_KEYS:
        return
    if who.one_time or who.kind == "hook" or "run" not in who.scopes:
        raise Denied(f"{target.service_id} does all that its caller may: it takes a standard key with the scope run")


def under_its_parent(spec: RunSpec, who: Principal) -> RunSpec:
    """A nested call joins its caller's tree. On whose account it goes is said besides."""
    spec, parent = billed(spec, who), who.identity
    if parent is None:
        return spec
    if parent.depth + 1 > MAX_DEPTH:
        raise Exhausted(f"nested calls go at most {MAX_DEPTH} deep", code="too_many_runs")
    return replace(
        spec,
        correlation_id=spec.correlation_id or parent.correlation_id,
        parent_id=parent.run_id,
        root_id=parent.root_id or parent.run_id,
        depth=parent.depth + 1,
        trigger=Trigger.NESTED,
    )


def _spec(request: Request, target: Target, **said: Any) -> RunSpec:
    """`said`: the fields that follow from what the caller says. Errors: as those of _acting_id."""
    who = request.who
    return RunSpec(
        owner_id=target.owner_id,
        caller_id=who.caller_id,
        acting_id=_acting_id(request, who, target),
        requester_id=who.organization_id,
        service_id=target.service_id,
        version_id=target.version_id,
        request=RequestHead(request.method, request.params["path"], request.query, headers_for(request.headers)),
        traceparent=current_traceparent(),
        key_id=who.key_id,
        may_deploy=who.may_deploy and target.owner_id in {who.organization_id, SYSTEM},
        **said,
    )


def provisioned_id_of(request: Request) -> str:
    """Empty: there is none. Errors: NotFound for one that can't be."""
    text = request.header("x-provisioned-request-id")
    if text and not is_id(text, "run"):
        raise unknown_request()
    return text


def unknown_request() -> NotFound:
    """Alike for ids of any shape, unknown, expired and somebody else's."""
    return NotFound("no such request: check the id, and that the key belongs to the organization that made it")


def _continues(request: Request, *, provisioned: bool) -> bool:
    text = request.header("x-on-timeout").lower()
    if text not in {"", "continue", "kill"}:
        raise Invalid(f"X-On-Timeout is {text[:40]!r}; it must be continue or kill")
    return text == "continue" if text else provisioned


def idempotency_key_of(request: Request) -> str:
    """Empty: there is none. One that is there but empty is refused: its sender relies on a promise that nobody made.
    Errors: Invalid.
    """
    # Any other empty header counts as none (a script's variable wasn't set), which shows in what comes of the call.
    # That this one was ignored would show too late, in a run too many.
    text = request.header("idempotency-key")
    sent = any(name == "idempotency-key" for name, _ in request.headers)
    if sent and not _KEY.fullmatch(text):
        raise Invalid("Idempotency-Key must be 1 to 255 printable ASCII characters")
    return text


def _retries(request: Request) -> int | None:
    """None: as the workflow says."""
    text = request.header("x-retries")
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 4 and int(text) <= MAX_RETRIES):
        raise Invalid(f"X-Retries is {text[:40]!r}; it must be 0 to {MAX_RETRIES}")
    return int(text)


def _record(request: Request, acting_id: str) -> bool:
    """Whether the run is to be recorded. Errors: Invalid; Denied where its secrets are another organization's."""
    text = request.header("x-record").lower()
    if text not in {"", "yes", "no", "true", "false"}:
        raise Invalid(f"X-Record is {text[:40]!r}; it must be yes or no")
    if text not in {"yes", "true"}:
        return False
    if acting_id != request.who.organization_id:
        raise Denied("only the organization whose secrets a run uses may record it: leave X-Record out")
    return True


def _priority(request: Request) -> int:
    text = request.header("x-priority").lower() or "normal"
    if text not in PRIORITIES:
        raise Invalid(f"X-Priority is {text[:40]!r}; it must be high, normal or low")
    return PRIORITIES[text]


def correlation_id_of(request: Request) -> str:
    text = request.header("x-correlation-id")
    if text and (len(text) > MAX_CORRELATION or not _CORRELATION.fullmatch(text)):
        raise Invalid(f"X-Correlation-Id must be at most {MAX_CORRELATION} printable ASCII characters")
    return text


def brief(request: Request) -> bool:
    """Whether the body is announced as one of at most INLINE_BYTES, or none is to be expected of the method."""
    length = request.length
    return request.method in BODILESS if length is None else length <= INLINE_BYTES


def _body(request: Request, limit: int) -> AsyncIterator[bytes]:
    """The request's body; a length that is announced is judged at once, before anything is started."""
    if request.length is not None and request.length > limit:
        raise too_large(limit)
    return _bounded(request.body, limit)


def _given(spec: RunSpec, raw: bytes) -> RunSpec:
    """With the length of the body that it is given."""
    head = spec.request
    headers = [(name, value) for name, value in head.headers if name != "content-length"]
    return replace(spec, request=replace(head, headers=(*headers, ("content-length", str(len(raw))))))


async def _all_of(raw: bytes) -> AsyncIterator[bytes]:
    yield raw


async def _bounded(body: AsyncIterator[bytes], limit: int) -> AsyncIterator[bytes]:
    size = 0
    async for chunk in body:
        size += len(chunk)
        if size > limit:
            raise too_large(limit)
        yield chunk
