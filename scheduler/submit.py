"""The durable way in: provision an id, accept a run. What is accepted is committed before the caller hears of it."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol, TypeVar

from kit.clock import Clock
from kit.errors import Conflict, Exhausted, Invalid, NotFound, Unauthenticated
from kit.lifecycle import failpoint
from kit.names import new_id
from scheduler.billing import UNBILLED, Billing
from scheduler.dispatch import Seat
from scheduler.model import (
    IDEMPOTENCY_LIFE,
    Event,
    Idempotent,
    Input,
    Provision,
    Queued,
    Run,
    RunQueued,
    Status,
    Trigger,
)

DEFAULT_TIMEOUT = timedelta(minutes=30)
LONGEST_TIMEOUT = timedelta(hours=24)
FULL = timedelta(seconds=10)
BUSY = timedelta(seconds=1)
COUNTED = timedelta(seconds=1)
MOST_COUNTED = 10_000
# Behind all that anybody can ask for.
LAST = 2**31 - 1
T = TypeVar("T")


class Accepting(Protocol):
    """The part of a write transaction that accepts runs."""

    async def provision(self, provision_id: str) -> Provision | None: ...

    async def add_provision(self, provision: Provision) -> None: ...

    async def save_provision(self, provision: Provision) -> None: ...

    async def one_time_used(self, key_id: str) -> bool: ...

    async def version_exists(self, version_id: str) -> bool: ...

    async def runs(self, ids: Collection[str]) -> Mapping[str, Run]: ...

    async def idempotent(self, organization_id: str, key: str) -> Idempotent | None: ...

    async def keep_idempotent(self, this: Idempotent) -> None: ...

    async def accept(self, run: Run, given: Input) -> None: ...

    async def tell(self, events: Iterable[Event]) -> None: ...


class Journal(Protocol):
    """`work` runs inside a write transaction; it checks before it writes."""

    async def write(self, work: Callable[[Accepting], Awaitable[T]]) -> T: ...

    async def waiting_of(self, caller_id: str, limit: int) -> int: ...

    async def position(self, run: Run, limit: int) -> int: ...


class Starting(Protocol):
    """Who starts what is accepted (scheduler.dispatch)."""

    def reserve(self, caller_id: str, *, urgent: bool) -> Seat | None: ...

    def has_room(self, caller_id: str) -> bool: ...

    def leave(self, seat: Seat) -> None: ...

    def begin(self, queued: Queued, seat: Seat) -> None: ...

    def waits(self, run: Run) -> None: ...


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
    retries: int = 0
    priority: int = 0
    idempotency_key: str = ""
    fingerprint: str = ""
    may_deploy: bool = False
    callback_url: str = ""
    replay_of: str = ""
    offline_digest: str = ""
    record: bool = False
    billing: Billing = UNBILLED

    @property
    def urgent(self) -> bool:
        """A run waits for it."""
        return self.depth > 0 and self.synchronous


class Submit:
    """Provisions ids and accepts runs. What may start at once is given to an executor in the commit that accepts it.
    `deep`: how many of an organization's runs may wait.
    """

    def __init__(self, journal: Journal, dispatch: Starting, clock: Clock, deep: int = 10_000) -> None:
        self._journal = journal
        self._dispatch = dispatch
        self._clock = clock
        self._deep = deep
        self._tasks: set[asyncio.Task[tuple[Run, bool]]] = set()
        # By organization, urgent ones apart: how many of its runs may wait, and until when that is good enough.
        self._waiting: OrderedDict[tuple[str, bool], tuple[datetime, int]] = OrderedDict()

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

    async def __call__(self, submission: Submission) -> tuple[Run, bool]:
        """(the run, whether it is new); of an Idempotency-Key that was used before, the one of then.

        Errors: NotFound for a provisioned id that is unknown, expired, cancelled or another organization's;
        Unauthenticated for a one-time key that has started its run; Conflict for an Idempotency-Key that came with
        another request, and for a call nested in a run that was cancelled; Exhausted (too_many_runs) when too many of
        the organization's runs wait, and for a synchronous call while it has its share under way; Invalid.
        """
        if not timedelta(0) <= submission.timeout <= LONGEST_TIMEOUT:
            raise Invalid("a run's time limit is at most 24 hours")
        accepting = asyncio.create_task(self._accepted(submission))
        self._tasks.add(accepting)
        accepting.add_done_callback(self._tasks.discard)
        return await asyncio.shield(accepting)  # what is committed has to be started, though the caller is gone

    async def _accepted(self, submission: Submission) -> tuple[Run, bool]:
        seat = self._dispatch.reserve(submission.caller_id, urgent=submission.urgent)
        full = await self._full(submission) if seat is None else None
        if full is not None and not submission.idempotency_key:
            raise full  # a refusal costs no transaction, unless its run may be there already
        try:
            run, new = await self._journal.write(lambda tx: self._accept(tx, submission, seat, full))
        except BaseException:
            if seat is not None:
                self._dispatch.leave(seat)
            raise
        failpoint("accepted")
        if seat is not None and new:
            self._dispatch.begin(Queued(run, submission.input), seat)
        elif seat is not None:
            self._dispatch.leave(seat)
        elif new:
            self._dispatch.waits(run)
        return run, new

    async def _full(self, submission: Submission) -> Exhausted | None:
        """Why a run that can't start at once may not wait either, if so."""
        if submission.synchronous and not submission.urgent and not self._dispatch.has_room(submission.caller_id):
            return Exhausted(
                "your organization has as many runs under way as it may at once; try again when one has ended, or use "
                "/run_async, which queues",
                code="too_many_runs",
                retry_after=BUSY,
            )
        if await self._count(submission) >= self._deep:
            return Exhausted(
                f"{self._deep} of this organization's runs wait already; let some finish, or cancel some",
                code="too_many_runs",
                retry_after=FULL,
            )
        return None

    async def _count(self, submission: Submission) -> int:
        """How many wait with it. Looked up once a second at most: a submission mustn't cost as much as the queue is
        long.
        """
        now, which = self._clock.now(), (submission.caller_id, submission.urgent)
        until, count = self._waiting.pop(which, (now, 0))
        if until <= now or count >= self._deep:
            until, count = now + COUNTED, await self._ahead(submission, now)
        self._waiting[which] = (until, count + 1)
        while len(self._waiting) > MOST_COUNTED:
            self._waiting.popitem(last=False)
        return count

    async def _ahead(self, submission: Submission, now: datetime) -> int:
        if not submission.urgent:
            return await self._journal.waiting_of(submission.caller_id, self._deep)
        last = replace(_run(submission, "", now, None), priority=LAST)
        return await self._journal.position(last, self._deep) - 1

    async def accept(self, tx: Accepting, submission: Submission) -> Run:
        """In the caller's transaction, queued; before its first write. Errors: as above."""
        run, _ = await self._accept(tx, submission, None, await self._full(submission))
        return run

    def started(self, run: Run) -> None:
        """To be told of what `accept` took, once it is committed."""
        self._dispatch.waits(run)

    async def _accept(
        self, tx: Accepting, submission: Submission, seat: Seat | None, full: Exhausted | None
    ) -> tuple[Run, bool]:
        """(the run, whether it is new). All checks stand before the first write: a refused submission leaves nothing,
        its one-time key unspent. `full`: why no new one is accepted.
        """
        now = self._clock.now()
        before = await self._asked_before(tx, submission, now)
        if before is not None:
            return before, False
        if full is not None:
            raise full
        await _check_parents(tx, submission)
        run_id, provision = new_id("run"), None
        if submission.provisioned_id:
            provision = await self._provision(tx, submission, now)
            if provision is not None:
                run_id, provision = provision.use(run_id, now)
        await _check_unused(tx, submission.one_time_key_id)
        if not await tx.version_exists(submission.version_id):
            raise NotFound("no such version of the workflow")
        run = _run(submission, run_id, now, provision)
        if seat is not None:
            run = run.claimed(seat.executor.address, seat.executor.incarnation, now)
        if provision is not None:
            await tx.save_provision(provision)
        if submission.idempotency_key:
            key, fingerprint = submission.idempotency_key, submission.fingerprint
            await tx.keep_idempotent(Idempotent(submission.requester_id, key, fingerprint, run.id, now))
        await tx.accept(run, submission.input)
        await tx.tell([RunQueued(run.id)])
        return run, True

    async def _asked_before(self, tx: Accepting, submission: Submission, now: datetime) -> Run | None:
        """The run of the same Idempotency-Key. Errors: Conflict."""
        if not submission.idempotency_key:
            return None
        found = await tx.idempotent(submission.requester_id, submission.idempotency_key)
        if found is None or now >= found.created_at + IDEMPOTENCY_LIFE:
            return None
        if found.fingerprint != submission.fingerprint:
            raise Conflict("this Idempotency-Key came with another request in the last 24 hours; use a new one")
        before = (await tx.runs([found.run_id])).get(found.run_id)
        return None if before is not None and _never_began(before) else before

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


async def _check_parents(tx: Accepting, submission: Submission) -> None:
    """Nothing starts below what was cancelled, or is about to be. Errors: Conflict."""
    above = {submission.parent_id, submission.root_id} - {""}
    if above and any(_cancelled(run) for run in (await tx.runs(above)).values()):
        raise Conflict("the run that this call came from was cancelled", code="cancelled")


def _never_began(run: Run) -> bool:
    """It couldn't be paid, and nothing of it ran: the same call may be tried again."""
    ran = run.cost_own or (run.usage is not None and run.usage.wall_seconds)
    return run.code == "payment_required" and run.status.over and not ran


def _cancelled(run: Run) -> bool:
    wish = run.cancelled_as
    return run.status is Status.CANCELLED or (wish is not None and wish.status is Status.CANCELLED)


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
        retries=0 if submission.synchronous else submission.retries,
        priority=submission.priority,
        due_at=now,
        may_deploy=submission.may_deploy,
        callback_url=submission.callback_url,
        replay_of=submission.replay_of,
        offline_digest=submission.offline_digest,
        record=submission.record,
        billing=submission.billing,
    )
