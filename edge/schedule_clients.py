"""schedules.Schedules over rpc."""

import grpc
from mesh.schedules.v1 import schedules_pb2, schedules_pb2_grpc

from edge.model import Principal
from edge.schedules import Schedule
from edge.wire import moment, to_budgets
from kit.rpc_client import unary


class SchedulesClient:
    """schedules.Schedules."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = schedules_pb2_grpc.SchedulesStub(channel)

    async def create(
        self,
        service_id: str,
        cron_expression: str,
        timezone: str,
        given: bytes,
        maker: Principal,
    ) -> Schedule:
        request = schedules_pb2.CreateScheduleRequest(
            organization_id=maker.organization_id,
            reference=service_id,
            cron_expression=cron_expression,
            timezone=timezone,
            input=given,
            created_by=maker.identity.run_id if maker.identity else maker.key_id,
            # A run's own budget is for what is below it, and these runs aren't.
            budgets=to_budgets(one for one in maker.budgets if one.id.startswith("key:")),
            paying_key_id=maker.paying_key_id,
        )
        return _schedule((await unary(self._stub.CreateSchedule, request)).schedule)

    async def list_schedules(self, organization_id: str, limit: int, after: str) -> tuple[list[Schedule], str]:
        request = schedules_pb2.ListSchedulesRequest(organization_id=organization_id, limit=limit, after=after)
        reply = await unary(self._stub.ListSchedules, request, retry=True)
        return [_schedule(each) for each in reply.schedules], reply.next

    async def delete(self, organization_id: str, schedule_id: str) -> None:
        request = schedules_pb2.DeleteScheduleRequest(organization_id=organization_id, schedule_id=schedule_id)
        await unary(self._stub.DeleteSchedule, request)


def _schedule(message: schedules_pb2.Schedule) -> Schedule:
    return Schedule(
        id=message.id,
        service_id=message.reference,
        cron_expression=message.cron_expression,
        timezone=message.timezone,
        input=message.input,
        created_at=moment(message.created_at),
        next_fire_at=moment(message.next_fire_at) if message.HasField("next_fire_at") else None,
        last_fired_at=moment(message.last_fired_at) if message.HasField("last_fired_at") else None,
        last_request_id=message.last_run_id,
        last_skipped_at=moment(message.last_skipped_at) if message.HasField("last_skipped_at") else None,
        last_error=message.last_error,
        created_by=message.created_by,
    )
