"""The durable way in: provision an id, accept a run. What is accepted is committed before the caller hears of it."""

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol, TypeVar

from kit.clock import Clock
from kit.errors import Invalid, NotFound, Unauthenticated
from kit.names import new_id
from scheduler.model import Event, Input, Provision, Queued, Run, RunQueued, Status, Trigger

DEFAULT_TIMEOUT = timedelta(minutes=30)
LONGEST_TIMEOUT = timedelta(hours=24)
T = TypeVar("T")


class Accepting(Protocol):
    """The part of a write transaction that accepts runs."""

    async def provision(self, provision_id: str) -> Provision | None: ...

    async def add_provision(self, provision: Provision) -> None: ...

    async def save_provision(self, provision: Provision) -> None: ...

    async def one_time_used(self, key_id: str) -> bool: ...

    async def version_exists(self, version_id: str) -> bool: ...

    async def runs(self, ids: Collection[str]) -> Mapping[str, Run]: ...

    async def accept(self, run: Run, given: Input) -> None: ...

    async def tell(self, events: Iterable[Event]) -> None: ...


class Journal(Protocol):
    """`work` runs inside a write transaction; it checks before it writes."""

    async def write(self, work: Callable[[Accepting], Awaitable[T]]) -> T: ...


@dataclass(frozen=True)
class Submission:
    """A run as it is asked for. `provisioned_id` and `one_time_key_id` are empty where there is none."""

    owner_id: str
    caller_id: str
    acting_id: str
    requester_id: str
    service_id: str
    version_id: str
    input: Input
    timeout: timedelta = DEFAULT_TIMEOUT
    trigger: Trigger = Trigger.API
    correlation_id: str = ""
    parent_id: str = ""
    root_id: str = ""
    depth: int = 0
    traceparent: str = ""
    trace_id: str = ""
    key_id: str = ""
    synchronous: bool = False
    provisioned_id: str = ""
    one_time_key_id: str = ""
    callback_url: str = ""


class Submit:
    """Provisions ids and accepts runs; hands what is accepted to `offer`, so that it starts at once."""

    def __init__(self, journal: Journal, offer: Callable[[Queued], None], clock: Clock) -> None:
        self._journal = journal
        self._offer = offer
        self._clock = clock

    async def provision(self, organization_id: str, key_id: str) -> Provision:
        """A new id, good for an hour. Errors: Invalid; Unauthenticated for a one-time key that has started its run."""
        if not organization_id:
            raise Invalid("an id is provisioned for an organization")

        async def work(tx: Accepting) -> Provision:
            await _check_unused(tx, key_id)
            provision = Provision(new_id("run"), organization_id, key_id, self._clock.now())
            await tx.add_provision(provision)
            return provision

        return await self._journal.write(work)

    async def __call__(self, submission: Submission) -> Run:
        """Errors: NotFound for a provisioned id that is unknown, expired, cancelled or another organization's;
        Unauthenticated for a one-time key that has started its run; Invalid.
        """
        if not timedelta(0) <= submission.timeout <= LONGEST_TIMEOUT:
            raise Invalid("a run's time limit is at most 24 hours")

        async def work(tx: Accepting) -> Run:
            return await self._accept(tx, submission)

        run = await self._journal.write(work)
        self._offer(Queued(run, submission.input))
        return run

    async def _accept(self, tx: Accepting, submission: Submission) -> Run:
        """All checks stand before the first write: a refused submission leaves nothing, its one-time key unspent."""
        now = self._clock.now()
        run_id, provision = new_id("run"), None
        if submission.provisioned_id:
            provision = await self._provision(tx, submission, now)
            if provision is not None:
                run_id, provision = provision.use(run_id, now)
        await _check_unused(tx, submission.one_time_key_id)
        if not await tx.version_exists(submission.version_id):
            raise NotFound("no such version of the workflow")
        run = _run(submission, run_id, now, provision)
        if provision is not None:
            await tx.save_provision(provision)
        await tx.accept(run, submission.input)
        await tx.tell([RunQueued(run.id)])
        return run

    async def _provision(self, tx: Accepting, submission: Submission, now: datetime) -> Provision | None:
        """The provision that was named. None when it is a run's own id instead: the npm client keeps sending the id
        of its last `/run_async`, and a later run gets an id of its own.
        """
        wanted = submission.provisioned_id
        askers = frozenset({submission.requester_id, submission.caller_id})
        provision = await tx.provision(wanted)
        if provision is not None and provision.usable_by(askers, now):
            return provision
        earlier = (await tx.runs([wanted])).get(wanted) if provision is None else None
        if earlier is None or not askers & {earlier.requester_id, earlier.caller_id, earlier.acting_id}:
            raise NotFound("no such provisioned request: it is unknown or expired; provision another one")
        return None


async def _check_unused(tx: Accepting, key_id: str) -> None:
    """Of any key, or none: standard ones are never used up."""
    if key_id and await tx.one_time_used(key_id):
        raise Unauthenticated("this one-time key has already started its run")


def _run(submission: Submission, run_id: str, now: datetime, provision: Provision | None) -> Run:
    return Run(
        id=run_id,
        owner_id=submission.owner_id,
        caller_id=submission.caller_id,
        acting_id=submission.acting_id,
        requester_id=submission.requester_id,
        service_id=submission.service_id,
        version_id=submission.version_id,
        status=Status.QUEUED,
        created_at=now,
        deadline=now + (submission.timeout or DEFAULT_TIMEOUT),
        trigger=submission.trigger,
        correlation_id=submission.correlation_id or run_id,
        parent_id=submission.parent_id,
        root_id=submission.root_id or run_id,
        depth=submission.depth,
        traceparent=submission.traceparent,
        trace_id=submission.trace_id,
        key_id=submission.key_id,
        synchronous=submission.synchronous,
        provision_id=provision.id if provision else "",
        one_time_key_id=submission.one_time_key_id,
        callback_url=submission.callback_url,
    )
