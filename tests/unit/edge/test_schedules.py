"""The handlers of /schedules."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from mesh.schedules.v1 import schedules_pb2, schedules_pb2_grpc

from edge.http import Request
from edge.model import Budget, Principal
from edge.schedule_clients import SchedulesClient
from edge.schedules import Schedule, ScheduleHandlers
from kit.errors import Invalid
from kit.rpc_client import connect
from kit.rpc_server import RpcServer
from tests.fakes.edge_runs import nested

WHO = Principal("key_1", "org_1", "standard", frozenset({"deploy"}))
THEN = datetime(2030, 1, 2, 3, 4, tzinfo=UTC)
SCHEDULE = Schedule("sch_1", "greet", "* * * * *", "UTC", b'{"a":1}', THEN, next_fire_at=THEN, created_by="key_1")
WANTED = {"service_id": "greet", "cron_expression": "* * * * *"}


async def sent(content: bytes) -> AsyncIterator[bytes]:
    yield content


def request(body: Any, who: Principal = WHO, **params: str) -> Request:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Request("POST", "/schedules", body=sent(raw), principal=who, params=params)


def deep(times: int) -> Any:
    value: Any = []
    for _ in range(times - 1):
        value = [value]
    return value


class FakeSchedules:
    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    async def create(self, *arguments: Any) -> Schedule:
        self.calls.append(arguments)
        return SCHEDULE

    async def list_schedules(self, *arguments: Any) -> tuple[list[Schedule], str]:
        self.calls.append(arguments)
        return [SCHEDULE], ""

    async def delete(self, *arguments: Any) -> None:
        self.calls.append(arguments)


@pytest.mark.parametrize(
    ("given", "body"),
    [
        ({}, b"{}"),
        ({"input_data": None}, b"{}"),
        ({"input_data": {"b": [1, "ü", None, 1.5]}}, '{"b":[1,"ü",null,1.5]}'.encode()),
        ({"input_data": []}, b"[]"),
        ({"input_data": False}, b"false"),
        ({"input_data": 0}, b"0"),
        ({"input_data": "text"}, b'"text"'),
        ({"input_data": deep(100)}, b"[" * 100 + b"]" * 100),
        ({"input_data": {"a": [deep(98), 1]}}, b'{"a":[' + b"[" * 98 + b"]" * 98 + b",1]}"),
    ],
)
async def test_any_json_is_an_input(given: dict[str, Any], body: bytes) -> None:
    schedules = FakeSchedules()
    answer = await ScheduleHandlers(schedules).create(request({**WANTED, **given}))
    assert schedules.calls == [("greet", "* * * * *", "", body, WHO)]
    assert isinstance(answer.body, bytes)
    assert json.loads(answer.body) == {
        "id": "sch_1",
        "service_id": "greet",
        "cron_expression": "* * * * *",
        "timezone": "UTC",
        "input_data": {"a": 1},
        "next_fire_at": "2030-01-02T03:04:00.000Z",
        "last_fired_at": None,
        "last_request_id": None,
        "last_skipped_at": None,
        "last_error": None,
        "created_at": "2030-01-02T03:04:00.000Z",
        "created_by": "key_1",
    }


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"service_id": ""}, "service_id is missing"),
        ({"service_id": 7}, "service_id must be"),
        ({"cron_expression": None}, "cron_expression is missing"),
        ({"cron_expression": ["*"]}, "cron_expression must be"),
        ({"timezone": 1}, "timezone must be"),
        ({"time_zone": "UTC"}, "unknown field 'time_zone'"),
        ({"cron_expression": "*" * 2000}, "longer than"),
        ({"input_data": deep(101)}, "nested deeper"),
        ({"input_data": {"a": [1, {"b": deep(500)}]}}, "nested deeper"),
    ],
)
async def test_what_is_no_wish(change: dict[str, Any], why: str) -> None:
    schedules = FakeSchedules()
    with pytest.raises(Invalid, match=why):
        await ScheduleHandlers(schedules).create(request({**WANTED, **change}))
    assert schedules.calls == []


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"service_id": "a", "cron_expression": "*", "input_data": NaN}'])
async def test_what_is_no_json(body: bytes) -> None:
    with pytest.raises(Invalid):
        await ScheduleHandlers(FakeSchedules()).create(request(body))


class Scheduler(schedules_pb2_grpc.SchedulesServicer):
    """Remembers what it is asked to make."""

    def __init__(self) -> None:
        self.asked: list[schedules_pb2.CreateScheduleRequest] = []

    async def CreateSchedule(
        self, request: schedules_pb2.CreateScheduleRequest, _context: Any
    ) -> schedules_pb2.CreateScheduleResponse:
        self.asked.append(request)
        return schedules_pb2.CreateScheduleResponse(schedule=schedules_pb2.Schedule(input=b"{}"))


async def test_what_a_schedule_remembers_of_its_maker(tmp_path: Path) -> None:
    """The key, or the run of a library service; and the budget of the key, which bounds its runs too."""
    scheduler, server = Scheduler(), RpcServer(f"unix:{tmp_path}/s.sock", grace=0)  # type: ignore[abstract]
    server.add(schedules_pb2_grpc.add_SchedulesServicer_to_server, scheduler, "mesh.schedules.v1.Schedules")
    key, run = Budget("key:key_0", 5), Budget("run:run_0", 9)
    library = nested(run_id="run_library", budgets=(key, run), paying_key_id="key_0")
    async with server, connect(server.address) as channel:
        await server.serving(True)
        handlers = ScheduleHandlers(SchedulesClient(channel))
        for who in (WHO, replace(WHO, budget=key), library):
            await handlers.create(request(WANTED, who))
    told = [
        (asked.created_by, asked.paying_key_id, [(one.id, one.limit) for one in asked.budgets])
        for asked in scheduler.asked
    ]
    assert told == [
        ("key_1", "key_1", []),
        ("key_1", "key_1", [("key:key_0", 5)]),
        ("run_library", "key_0", [("key:key_0", 5)]),
    ]


async def test_the_others() -> None:
    schedules = FakeSchedules()
    handlers = ScheduleHandlers(schedules)
    listed = await handlers.list_schedules(Request("GET", "/schedules", query="limit=5&after=sch_0", principal=WHO))
    assert isinstance(listed.body, bytes)
    assert (json.loads(listed.body)["next"], len(json.loads(listed.body)["items"])) == (None, 1)
    await handlers.delete(request({}, schedule_id="sch_1"))
    assert schedules.calls == [("org_1", 5, "sch_0"), ("org_1", "sch_1")]
