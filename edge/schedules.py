"""/schedules: runs that start by the clock."""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from edge.fields import Fields
from edge.http import Answer, Request, json_answer
from edge.model import Principal, iso
from kit.errors import Invalid

# What nests deeper than Python's own JSON can take inside of a list's answer would make the list unreadable.
MOST_DEEP = 100


@dataclass(frozen=True)
class Schedule:
    """A schedule as its organization sees it. `input` is JSON; empty ids and errors where there are none."""

    id: str
    service_id: str
    cron_expression: str
    timezone: str
    input: bytes
    created_at: datetime
    next_fire_at: datetime | None = None
    last_fired_at: datetime | None = None
    last_request_id: str = ""
    last_skipped_at: datetime | None = None
    last_error: str = ""
    created_by: str = ""


class Schedules(Protocol):
    """The scheduler's."""

    async def create(
        self,
        service_id: str,
        cron_expression: str,
        timezone: str,
        given: bytes,
        maker: Principal,
    ) -> Schedule:
        """Errors: Invalid (also too_large), NotFound, Exhausted."""
        ...

    async def list_schedules(self, organization_id: str, limit: int, after: str) -> tuple[list[Schedule], str]:
        """A page, and the token of the next; empty on the last."""
        ...

    async def delete(self, organization_id: str, schedule_id: str) -> None:
        """Errors: NotFound."""
        ...


class ScheduleHandlers:
    """Handlers of mesh.edge.v1.Schedules."""

    def __init__(self, schedules: Schedules) -> None:
        self._schedules = schedules

    async def create(self, request: Request) -> Answer:
        fields = Fields(await request.json())
        service_id = fields.needed("service_id", longest=300)
        cron_expression = fields.needed("cron_expression")
        timezone = fields.text("timezone")
        given = fields.anything("input_data")
        fields.done()
        if _is_deep(given):
            raise Invalid(f"input_data is nested deeper than {MOST_DEEP} times")
        body = json.dumps({} if given is None else given, ensure_ascii=False, separators=(",", ":")).encode()
        made = await self._schedules.create(service_id, cron_expression, timezone, body, request.who)
        return json_answer(_item(made))

    async def list_schedules(self, request: Request) -> Answer:
        limit, after = request.page()
        found, following = await self._schedules.list_schedules(request.who.organization_id, limit, after)
        return json_answer({"items": [_item(each) for each in found], "next": following or None})

    async def delete(self, request: Request) -> Answer:
        schedule_id = request.params["schedule_id"]
        await self._schedules.delete(request.who.organization_id, schedule_id)
        return json_answer({"id": schedule_id, "deleted": True})


def _is_deep(value: Any) -> bool:
    level: list[Any] = [{"": value}]
    for _ in range(MOST_DEEP + 1):
        inner = [each for one in level for each in (one.values() if isinstance(one, dict) else one)]
        level = [each for each in inner if isinstance(each, dict | list)]
    return bool(level)


def _item(schedule: Schedule) -> dict[str, Any]:
    return {
        "id": schedule.id,
        "service_id": schedule.service_id,
        "cron_expression": schedule.cron_expression,
        "timezone": schedule.timezone,
        "input_data": json.loads(schedule.input),
        "next_fire_at": iso(schedule.next_fire_at),
        "last_fired_at": iso(schedule.last_fired_at),
        "last_request_id": schedule.last_request_id or None,
        "last_skipped_at": iso(schedule.last_skipped_at),
        "last_error": schedule.last_error or None,
        "created_at": iso(schedule.created_at),
        "created_by": schedule.created_by or None,
    }
