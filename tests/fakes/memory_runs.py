"""The scheduler's store in memory: the port of scheduler.store.database.Store (tests/contract/test_run_store.py)."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TypeVar

from kit.errors import Unavailable
from scheduler import delivery
from scheduler.bill import Bill
from scheduler.delivery import Delivery
from scheduler.fleet import Lease
from scheduler.model import Asker, Event, History, Idempotent, Input, Provision, Queued, Run, RunEnded, Runs, Status
from scheduler.result import Answer
from scheduler.schedule import Schedule
from scheduler.workflow import Version, Visibility, Workflow

T = TypeVar("T")


@dataclass
class MemoryTx:
    """All state; a write transaction works on a copy of it."""

    run_rows: dict[str, Run] = field(default_factory=dict)
    inputs: dict[str, Input] = field(default_factory=dict)
    provisions: dict[str, Provision] = field(default_factory=dict)
    workflows: dict[str, Workflow] = field(default_factory=dict)
    versions: dict[str, Version] = field(default_factory=dict)
    keys: dict[tuple[str, str], Idempotent] = field(default_factory=dict)
    held: dict[str, Lease] = field(default_factory=dict)
    schedules: dict[str, Schedule] = field(default_factory=dict)
    fires: dict[tuple[str, datetime], str] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    changed: list[Run] = field(default_factory=list)
    delivery_rows: dict[str, Delivery] = field(default_factory=dict)
    bills: dict[tuple[str, int, str], Bill] = field(default_factory=dict)
    # (root, amount) by run.
    nested_costs: dict[str, tuple[str, int]] = field(default_factory=dict)

    def copy(self) -> "MemoryTx":
        return MemoryTx(
            dict(self.run_rows),
            dict(self.inputs),
            dict(self.provisions),
            dict(self.workflows),
            dict(self.versions),
            dict(self.keys),
            dict(self.held),
            dict(self.schedules),
            dict(self.fires),
            list(self.events),
            delivery_rows=dict(self.delivery_rows),
            bills=dict(self.bills),
            nested_costs=dict(self.nested_costs),
        )

    async def provision(self, provision_id: str) -> Provision | None:
        return self.provisions.get(provision_id)

    async def add_provision(self, provision: Provision) -> None:
        assert provision.id not in self.provisions
        self.provisions[provision.id] = provision

    async def save_provision(self, provision: Provision) -> None:
        self.provisions[provision.id] = provision

    async def one_time_used(self, key_id: str) -> bool:
        return any(run.one_time_key_id == key_id for run in self.run_rows.values())

    async def version_exists(self, version_id: str) -> bool:
        return version_id in self.versions

    async def runs(self, ids: Collection[str]) -> Runs:
        return {key: replace(self.run_rows[key], answer=None) for key in ids if key in self.run_rows}

    async def standing(self, ids: Collection[str]) -> Runs:
        return await self.runs(ids)

    async def keep_bills(self, these: Sequence[Bill]) -> None:
        for bill in these:
            self.bills.setdefault((bill.run_id, bill.attempt, bill.purse_id), bill)

    async def charge_above(self, run: Run, amount: int) -> None:
        for above in run.billing.above:
            root_id, before = self.nested_costs.get(above, (run.root_id, 0))
            self.nested_costs[above] = (root_id, before + amount)

    async def let_go(self, root_id: str, *, charged: bool) -> None:
        for key, bill in self.bills.items():
            if bill.held and bill.root_id == root_id:
                self.bills[key] = replace(bill, held=False) if charged else bill.free()
                run = self.run_rows.get(bill.run_id)
                if run is not None and not charged:
                    self.run_rows[run.id] = replace(run, cost_own=0)
        if not charged:
            self.nested_costs |= {key: (root, 0) for key, (root, _) in self.nested_costs.items() if root == root_id}

    async def idempotent(self, organization_id: str, key: str) -> Idempotent | None:
        return self.keys.get((organization_id, key))

    async def keep_idempotent(self, this: Idempotent) -> None:
        self.keys[this.organization_id, this.key] = this

    async def delete_idempotent(self, created_before: datetime, limit: int) -> int:
        old = [key for key, one in self.keys.items() if one.created_at < created_before][:limit]
        for key in old:
            del self.keys[key]
        return len(old)

    async def heads(self, lane: int, caller_id: str, now: datetime, limit: int) -> list[Queued]:
        rows = [run for run in self.waiting(lane) if run.caller_id == caller_id and due(run) <= now]
        return [Queued(run, self.inputs[run.id]) for run in rows[:limit]]

    def waiting(self, lane: int) -> list[Run]:
        """Not given to anybody, in their order."""
        rows = [run for run in self.run_rows.values() if run.status is Status.QUEUED and run.claimed_at is None]
        return sorted((run for run in rows if run.urgent == (lane == 0)), key=order)

    async def placed_on(self, executor: str, incarnation: str, limit: int) -> list[Run]:
        there = (executor, incarnation)
        return [run for run in self.run_rows.values() if run.placed and (run.executor, run.incarnation) == there][
            :limit
        ]

    async def lease(self, address: str) -> Lease | None:
        return self.held.get(address)

    async def save_lease(self, lease: Lease, *, new: bool) -> None:
        assert new == (lease.address not in self.held)
        self.held[lease.address] = lease

    async def delete_leases(self, expired_before: datetime) -> None:
        for lease in list(self.held.values()):
            if lease.expires_at < expired_before:
                del self.held[lease.address]

    async def tree(self, root_id: str) -> list[Run]:
        return [run for run in self.run_rows.values() if run.root_id == root_id and not run.status.over]

    async def accept(self, run: Run, given: Input) -> None:
        await self.insert([run])
        self.inputs[run.id] = given

    async def keep_inputs(self, given: Mapping[str, Input]) -> None:
        assert set(given) <= set(self.run_rows)
        self.inputs.update(given)

    async def insert(self, these: Sequence[Run]) -> None:
        for run in these:
            if run.one_time_key_id and await self.one_time_used(run.one_time_key_id):
                raise ValueError("a one-time key twice")
            assert run.id not in self.run_rows
            self.run_rows[run.id] = run
        self.changed.extend(these)

    async def save(self, these: Sequence[Run]) -> None:
        for run in these:
            self.run_rows[run.id] = run
        self.changed.extend(these)

    async def tell(self, events: Iterable[Event]) -> None:
        told = list(events)
        self.events.extend(told)
        begun = [found for event in told if isinstance(event, RunEnded) and (found := delivery.due(event.run))]
        self.delivery_rows.update({each.id: each for each in begun})
        for event in told:
            if isinstance(event, RunEnded) and event.run.decides:
                await self.let_go(event.run.id, charged=event.run.pays)

    async def deliveries(self, ids: Collection[str]) -> list[Delivery]:
        return [self.delivery_rows[each] for each in sorted(ids) if each in self.delivery_rows]

    async def save_deliveries(self, these: Sequence[Delivery]) -> None:
        self.delivery_rows.update({each.id: each for each in these})

    async def delete_runs(self, completed_before: datetime, limit: int) -> int:
        ended = [(run.completed_at, run.id) for run in self.run_rows.values() if run.completed_at]
        old = [run_id for at, run_id in sorted(ended) if at < completed_before][:limit]
        for run_id in old:
            del self.run_rows[run_id]
            self.inputs.pop(run_id, None)
            self.nested_costs.pop(run_id, None)
        self.delivery_rows = {key: each for key, each in self.delivery_rows.items() if each.run_id not in old}
        return len(old)

    async def delete_provisions(self, unused_before: datetime, used_before: datetime, limit: int) -> int:
        def old(one: Provision) -> bool:
            return one.used_at < used_before if one.used_at else one.created_at < unused_before

        ids = [one.id for one in self.provisions.values() if old(one)][:limit]
        for provision_id in ids:
            del self.provisions[provision_id]
        return len(ids)

    async def workflow(self, organization_id: str, service_id: str) -> Workflow | None:
        name = (organization_id, service_id, None)
        found = (
            one for one in self.workflows.values() if (one.organization_id, one.service_id, one.deleted_at) == name
        )
        return next(found, None)

    async def insert_workflow(self, workflow: Workflow) -> None:
        assert await self.workflow(workflow.organization_id, workflow.service_id) is None
        self.workflows[workflow.id] = workflow

    async def save_workflow(self, workflow: Workflow) -> None:
        self.workflows[workflow.id] = workflow

    async def last_version(self, workflow_id: str) -> int:
        return max((one.number for one in self.versions.values() if one.workflow_id == workflow_id), default=0)

    async def version_numbers(self, workflow_id: str, numbers: Collection[int]) -> set[int]:
        return {one.number for one in self.versions.values() if one.workflow_id == workflow_id} & set(numbers)

    async def insert_version(self, version: Version) -> None:
        self.versions[version.id] = version

    async def count_schedules(self, organization_id: str) -> int:
        return sum(one.organization_id == organization_id for one in self.schedules.values())

    async def insert_schedule(self, schedule: Schedule) -> None:
        assert schedule.id not in self.schedules
        assert schedule.workflow_id in self.workflows
        self.schedules[schedule.id] = schedule

    async def delete_schedule(self, organization_id: str, schedule_id: str) -> bool:
        found = self.schedules.get(schedule_id)
        if found is None or found.organization_id != organization_id:
            return False
        del self.schedules[schedule_id]
        self.fires = {key: run_id for key, run_id in self.fires.items() if key[0] != schedule_id}
        return True

    async def delete_schedules(self, organization_id: str, workflow_id: str) -> None:
        for one in [one for one in self.schedules.values() if one.workflow_id == workflow_id]:
            await self.delete_schedule(organization_id, one.id)

    async def claim(self, schedule_id: str, due: datetime, following: datetime | None) -> bool:
        found = self.schedules.get(schedule_id)
        if found is None or found.next_fire_at != due:
            return False
        self.schedules[schedule_id] = replace(found, next_fire_at=following)
        return True

    async def save_schedule(self, schedule: Schedule) -> None:
        if schedule.id in self.schedules:
            self.schedules[schedule.id] = schedule

    async def was_fired(self, schedule_id: str, at: datetime) -> bool:
        return (schedule_id, at) in self.fires

    async def add_fire(self, schedule_id: str, at: datetime, run_id: str) -> None:
        if (schedule_id, at) in self.fires:
            raise ValueError("fired twice")
        self.fires[schedule_id, at] = run_id

    async def forget_fires(self, schedule_id: str, before: datetime) -> None:
        for key in [key for key in self.fires if key[0] == schedule_id and key[1] < before]:
            del self.fires[key]


class MemoryStore:
    """`listeners` as in the real one. `state.events`: what was told. `away`: the database is."""

    away = False

    def __init__(self) -> None:
        self.state = MemoryTx()
        self.listeners: list[Callable[[Run], None]] = []
        self._one_writer = asyncio.Lock()

    async def write(self, work: Callable[[MemoryTx], Awaitable[T]]) -> T:
        self._check()
        async with self._one_writer:
            tx = self.state.copy()
            result = await work(tx)
            self.state = tx
        for run in tx.changed:
            for changed in self.listeners:
                changed(run)
        return result

    def _check(self) -> None:
        if self.away:
            raise Unavailable("the database is away")

    def _runs(self, status: Status) -> list[Run]:
        self._check()
        rows = [run for run in self.state.run_rows.values() if run.status is status]
        return sorted(rows, key=lambda run: (run.depth == 0, run.created_at, run.id))

    async def due_deliveries(
        self, now: datetime, *, without_hosts: Collection[str], without_organizations: Collection[str], limit: int
    ) -> list[str]:
        def wanted(one: Delivery) -> bool:
            return one.host not in without_hosts and one.organization_id not in without_organizations

        rows = [one for one in self.state.delivery_rows.values() if one.is_due(now)]
        due = sorted(rows, key=lambda one: (one.next_attempt_at, one.id))
        turns = list(dict.fromkeys(one.organization_id for one in due))
        return [one.id for one in sorted(filter(wanted, due), key=lambda one: turns.index(one.organization_id))][:limit]

    async def deliveries_of(self, run_id: str) -> list[Delivery]:
        found = [one for one in self.state.delivery_rows.values() if one.run_id == run_id]
        return sorted(found, key=lambda one: one.id)

    @asynccontextmanager
    async def due_bills(self, limit: int) -> AsyncIterator[list[Bill]]:
        due = sorted((bill for bill in self.state.bills.values() if not bill.held), key=lambda bill: bill.created_at)
        yield due[:limit]
        for bill in due[:limit]:
            del self.state.bills[bill.run_id, bill.attempt, bill.purse_id]

    async def over_roots(self, limit: int) -> list[str]:
        rows = self.state.run_rows
        held = {bill.root_id for bill in self.state.bills.values() if bill.held}
        return [root_id for root_id in held if root_id in rows and rows[root_id].status.over][:limit]

    async def lost_roots(self, before: datetime, limit: int) -> list[str]:
        old = {bill.root_id for bill in self.state.bills.values() if bill.held and bill.created_at < before}
        return [root_id for root_id in old if root_id not in self.state.run_rows][:limit]

    async def costs_below(self, ids: Collection[str]) -> Mapping[str, int]:
        return {run_id: self.state.nested_costs[run_id][1] for run_id in ids if run_id in self.state.nested_costs}

    async def holds(self, root_id: str) -> bool:
        return any(bill.held and bill.root_id == root_id for bill in self.state.bills.values())

    async def goes_on(self, root_id: str, depth: int) -> bool:
        runs = self.state.run_rows.values()
        return any(run.root_id == root_id and run.depth > depth and not run.status.over for run in runs)

    async def find_provision(self, provision_id: str) -> Provision | None:
        return self.state.provisions.get(provision_id)

    async def find_run(self, asker: Asker, request_id: str, *, content: bool = True) -> Run | None:
        def wanted(run: Run) -> bool:
            named = run.id == request_id or (not asker.exact and run.provision_id == request_id)
            return named and (not asker.one_time_key_id or run.one_time_key_id == asker.one_time_key_id)

        found = [run for run in self.state.run_rows.values() if wanted(run)]
        newest = max(found, key=lambda run: (run.created_at, run.id), default=None)
        return newest if newest is None or content else _summary(newest)

    async def find_input(self, run_id: str) -> Input | None:
        return self.state.inputs.get(run_id)

    async def history(self, asked: History) -> list[Run]:
        def mine(run: Run) -> bool:
            return (
                asked.organization_id in {run.caller_id, run.acting_id}
                and asked.service_id in {"", run.service_id}
                and asked.status in {None, run.status}
                and asked.trace_id in {"", run.trace_id}
            )

        rows = sorted(self.state.run_rows.values(), key=lambda run: (run.created_at, run.id), reverse=True)
        if asked.after:
            ids = [run.id for run in rows]
            rows = rows[ids.index(asked.after) + 1 :] if asked.after in ids else []
        return [_summary(run) for run in rows if mine(run)][: asked.limit]

    async def callers_waiting(self, lane: int, after: str, limit: int) -> list[str]:
        return sorted({run.caller_id for run in self.state.waiting(lane) if run.caller_id > after})[:limit]

    async def count_queued(self) -> int:
        return len(self._runs(Status.QUEUED))

    async def waiting_of(self, caller_id: str, limit: int) -> int:
        return len([run for run in self.state.waiting(1) if run.caller_id == caller_id][:limit])

    async def position(self, run: Run, limit: int) -> int:
        mine = [one for one in self.state.waiting(0 if run.urgent else 1) if one.caller_id == run.caller_id]
        return 1 + len([one for one in mine if order(one) < order(run)][:limit])

    async def claimed(self, before: datetime, limit: int) -> list[Queued]:
        rows = [run for run in self._runs(Status.QUEUED) if run.claimed_at is not None and run.claimed_at < before]
        return [Queued(run, self.state.inputs[run.id]) for run in rows[:limit]]

    async def busy(self) -> list[tuple[str, str]]:
        return [(run.id, run.caller_id) for run in self.state.run_rows.values() if run.placed and not run.urgent]

    async def placements(self) -> set[tuple[str, str]]:
        return {(run.executor, run.incarnation) for run in self.state.run_rows.values() if run.placed}

    async def leases(self) -> list[Lease]:
        return list(self.state.held.values())

    async def overdue(self, status: Status, deadline_before: datetime, limit: int) -> list[Run]:
        return [run for run in self._runs(status) if run.deadline < deadline_before][:limit]

    async def cancelled(self, before: datetime, limit: int) -> list[Run]:
        late = [(run.cancelled_at, run) for run in self._runs(Status.RUNNING) if run.cancelled_at is not None]
        return [run for at, run in sorted(late, key=lambda pair: pair[0]) if at < before][:limit]

    async def find_workflow(self, organization_id: str, service_id: str) -> Workflow | None:
        return await self.state.workflow(organization_id, service_id)

    async def find_version(self, workflow_id: str, number: int) -> Version | None:
        named = (workflow_id, number)
        rows = (one for one in self.state.versions.values() if (one.workflow_id, one.number) == named)
        return self._effective(next(rows, None))

    async def list_versions(self, workflow_id: str, *, below: int, limit: int) -> list[Version]:
        rows = [one for one in self.state.versions.values() if one.workflow_id == workflow_id and one.number < below]
        newest = sorted(rows, key=lambda one: -one.number)[:limit]
        return [one for row in newest if (one := self._effective(row))]

    async def version_by_id(self, version_id: str) -> Version | None:
        return self._effective(self.state.versions.get(version_id))

    def _effective(self, version: Version | None) -> Version | None:
        if version is None:
            return None
        return replace(version, limits=version.limits.overlaid(self.state.workflows[version.workflow_id].limits))

    async def list_own(
        self, organization_id: str, visibility: Visibility | None, *, limit: int, after: str
    ) -> list[Workflow]:
        rows = [one for one in self._live(after) if one.organization_id == organization_id]
        return [one for one in rows if visibility in {None, one.visibility}][:limit]

    async def list_visible(self, visibility: Visibility, *, limit: int, after: str) -> list[Workflow]:
        return [one for one in self._live(after) if one.visibility is visibility and one.version][:limit]

    async def list_schedules(self, organization_id: str, *, limit: int, after: str) -> list[Schedule]:
        rows = [one for one in self.state.schedules.values() if one.organization_id == organization_id]
        return sorted((one for one in rows if one.id > after), key=lambda one: one.id)[:limit]

    async def due(self, now: datetime, limit: int) -> list[Schedule]:
        rows = [(one.next_fire_at, one) for one in self.state.schedules.values() if one.next_fire_at]
        return [one for at, one in sorted(rows, key=lambda row: row[0]) if at <= now][:limit]

    async def next_fire(self) -> datetime | None:
        return min((one.next_fire_at for one in self.state.schedules.values() if one.next_fire_at), default=None)

    def _live(self, after: str) -> list[Workflow]:
        rows = [one for one in self.state.workflows.values() if one.deleted_at is None and one.id > after]
        return sorted(rows, key=lambda one: one.id)


def _summary(run: Run) -> Run:
    answer = run.answer
    return run if answer is None else replace(run, answer=Answer(answer.head, b"", answer.digest, answer.size))


def due(run: Run) -> datetime:
    return run.due_at or run.created_at


def order(run: Run) -> tuple[int, datetime, str]:
    """Of a caller's queue."""
    return run.priority, due(run), run.id
