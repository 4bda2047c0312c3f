"""Schedules: protobuf ⇄ model. Pure functions."""

from mesh.runs.v1 import run_pb2
from mesh.schedules.v1 import schedules_pb2

from scheduler.plan import Wish
from scheduler.schedule import Schedule
from scheduler.wire import billing, timestamp


def wish(request: schedules_pb2.CreateScheduleRequest) -> Wish:
    """Errors: Invalid."""
    return Wish(
        organization_id=request.organization_id,
        reference=request.reference,
        cron_expression=request.cron_expression,
        timezone=request.timezone,
        input=request.input,
        created_by=request.created_by[:40],
        billing=billing(request),
    )


def schedule(found: Schedule) -> schedules_pb2.Schedule:
    return schedules_pb2.Schedule(
        id=found.id,
        organization_id=found.organization_id,
        reference=found.reference,
        cron_expression=found.cron_expression,
        timezone=found.timezone,
        input=found.input,
        next_fire_at=timestamp(found.next_fire_at) if found.next_fire_at else None,
        last_fired_at=timestamp(found.last_fired_at) if found.last_fired_at else None,
        last_run_id=found.last_run_id,
        last_skipped_at=timestamp(found.last_skipped_at) if found.last_skipped_at else None,
        last_error=found.last_error,
        created_at=timestamp(found.created_at),
        created_by=found.created_by,
    )


def head(schedule_id: str) -> bytes:
    """The request of a run of it, serialized: its input POSTed to `/`. The workflow is told which schedule it is."""
    given = {"content-type": "application/json", "x-scheduled-request-id": schedule_id}
    headers = [run_pb2.Header(name=name, value=value.encode()) for name, value in given.items()]
    return run_pb2.RequestHead(method="POST", path="/", headers=headers).SerializeToString()
