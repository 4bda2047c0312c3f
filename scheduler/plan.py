"""Schedules made, listed and deleted. They fire in `fire.py`."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from kit.clock import Clock
from kit.errors import Exhausted, Invalid
from kit.names import new_id
from scheduler.billing import UNBILLED, Billing
from scheduler.cron import Cron
from scheduler.schedule import MOST_INPUT_BYTES, Schedule, unknown_schedule
from scheduler.workflow import Version, Workflow, unknown_workflow

# Of the inputs in one page: lists travel as one message.
MOST_PAGE_BYTES = 4 * 1024 * 1024
CHUNK = 50
T = TypeVar("T")


class Planning(Protocol):
    """The part of a write transaction that makes and deletes schedules."""

    async def workflow(self, organization_id: str, service_id: str) -> Workflow | None: ...

    async def count_schedules(self, organization_id: str) -> int: ...

    async def insert_schedule(self, schedule: Schedule) -> None: ...

    async def delete_schedule(self, organization_id: str, schedule_id: str) -> bool:
        """Whether it was there."""
        ...


class Plans(Protocol):
    """The stored schedules."""

    async def list_schedules(self, organization_id: str, *, limit: int, after: str) -> list[Schedule]: ...

    async def write(self, work: Callable[[Planning], Awaitable[T]]) -> T: ...


class Directory(Protocol):
    """What names stand for."""

    async def resolve(self, organization_id: str, text: str) -> tuple[Workflow, Version]:
        """Errors: NotFound."""
        ...


@dataclass(frozen=True)
class Wish:
    """A schedule as it is asked for. An empty `timezone` is UTC; `input` is JSON."""

    organization_id: str
    reference: str
    cron_expression: str
    timezone: str
    input: bytes
    created_by: str = ""
    billing: Billing = UNBILLED


class Plan:
    """`changed` is called when there is another next time to fire at; `most`: schedules of one organization."""

    def __init__(
        self, plans: Plans, directory: Directory, changed: Callable[[], None], clock: Clock, *, most: int
    ) -> None:
        self._plans = plans
        self._directory = directory
        self._changed = changed
        self._clock = clock
        self._most = most

    async def create(self, wish: Wish) -> Schedule:
        """Errors: Invalid (also too_large); NotFound for a workflow that the organization can't call; Exhausted."""
        if not wish.organization_id:
            raise Invalid("a schedule belongs to an organization")
        cron = Cron(wish.cron_expression, wish.timezone)
        if (size := len(wish.input)) > MOST_INPUT_BYTES:
            how = "upload large data with POST /file and pass its download_uri"
            raise Invalid(f"input_data has {size} bytes; at most {MOST_INPUT_BYTES}: {how}", code="too_large")
        now = self._clock.now()
        first = cron.after(now)
        if first is None:
            raise Invalid(f"cron_expression {cron.expression!r} never comes true")
        workflow, _ = await self._directory.resolve(wish.organization_id, wish.reference)
        schedule = Schedule(
            id=new_id("sch"),
            organization_id=wish.organization_id,
            reference=wish.reference,
            workflow_id=workflow.id,
            cron_expression=cron.expression,
            timezone=cron.timezone,
            input=wish.input,
            created_at=now,
            created_by=wish.created_by,
            next_fire_at=first,
            billing=wish.billing,
        )

        async def work(tx: Planning) -> None:
            served = await tx.workflow(workflow.organization_id, workflow.service_id)
            if served is None or served.id != workflow.id:  # deleted meanwhile, and its schedules with it
                raise unknown_workflow()
            if await tx.count_schedules(wish.organization_id) >= self._most:
                raise Exhausted(f"an organization has at most {self._most} schedules; delete one first")
            await tx.insert_schedule(schedule)

        await self._plans.write(work)
        self._changed()
        return schedule

    async def page(self, organization_id: str, *, limit: int, after: str) -> tuple[list[Schedule], str]:
        """(in the order of their making, where to go on: empty on the last page). Large inputs make a page shorter."""
        found: list[Schedule] = []
        size = 0
        while True:
            wanted = min(CHUNK, limit + 1 - len(found))
            part = await self._plans.list_schedules(organization_id, limit=wanted, after=after)
            for schedule in part:
                size += len(schedule.input)
                if len(found) == limit or (found and size > MOST_PAGE_BYTES):
                    return found, found[-1].id
                found.append(schedule)
            if len(part) < wanted:
                return found, ""
            after = found[-1].id

    async def delete(self, organization_id: str, schedule_id: str) -> None:
        """What it has started goes on. Errors: NotFound."""
        if not await self._plans.write(lambda tx: tx.delete_schedule(organization_id, schedule_id)):
            raise unknown_schedule()
