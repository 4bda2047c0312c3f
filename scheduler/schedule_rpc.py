"""The door of mesh.schedules.v1.Schedules."""

from typing import Any

import prometheus_client
from mesh.schedules.v1 import schedules_pb2, schedules_pb2_grpc

from scheduler import schedule_wire
from scheduler.plan import Plan
from scheduler.wire import page_limit

DUE = prometheus_client.Counter(
    "runmesh_schedules_due_total", "Times that schedules were due, by outcome.", ["outcome"]
)


def count(outcome: str) -> None:
    """One more."""
    DUE.labels(outcome).inc()


class Schedules(schedules_pb2_grpc.SchedulesServicer):
    """Runs that start by the clock."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    async def CreateSchedule(
        self, request: schedules_pb2.CreateScheduleRequest, _context: Any
    ) -> schedules_pb2.CreateScheduleResponse:
        made = await self._plan.create(schedule_wire.wish(request))
        return schedules_pb2.CreateScheduleResponse(schedule=schedule_wire.schedule(made))

    async def ListSchedules(
        self, request: schedules_pb2.ListSchedulesRequest, _context: Any
    ) -> schedules_pb2.ListSchedulesResponse:
        limit = page_limit(request.limit)
        found, after = await self._plan.page(request.organization_id, limit=limit, after=request.after)
        schedules = [schedule_wire.schedule(one) for one in found]
        return schedules_pb2.ListSchedulesResponse(schedules=schedules, next=after)

    async def DeleteSchedule(
        self, request: schedules_pb2.DeleteScheduleRequest, _context: Any
    ) -> schedules_pb2.DeleteScheduleResponse:
        await self._plan.delete(request.organization_id, request.schedule_id)
        return schedules_pb2.DeleteScheduleResponse()
