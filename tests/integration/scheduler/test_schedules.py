"""Schedules from the rpc to the executor, by a clock that the test moves; several schedulers on one database."""

import asyncio
from contextlib import AsyncExitStack, ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from mesh.events.v1 import events_pb2
from mesh.runs.v1 import run_pb2
from mesh.schedules.v1 import schedules_pb2
from mesh.workflows.v1 import workflows_pb2
from sqlalchemy import text

from kit.clock import FakeClock
from kit.db import Database, open_db
from kit.errors import Invalid, NotFound, Unavailable
from kit.rpc_client import unary
from migrations.__main__ import upgrade
from scheduler.catalog import Catalog
from scheduler.dispatch import Dispatch
from scheduler.fire import Fire
from scheduler.fleet import Fleet
from scheduler.schedule import Schedule
from scheduler.settings import Settings
from scheduler.shares import Shares
from scheduler.store.database import Store, open_store
from scheduler.submit import Submit
from tests.fakes.scheduling import START, VERSION, WORKFLOW, FakeExecutors, a_schedule
from tests.integration.scheduler.rig import Neighbours, Service, running
from tests.integration.service_process import service_process

MINUTE = timedelta(minutes=1)


def wanted(**changes: object) -> schedules_pb2.CreateScheduleRequest:
    given = {"organization_id": "org_a", "reference": "svc", "cron_expression": "*/2 * * * *", "input": b'{"a":1}'}
    return schedules_pb2.CreateScheduleRequest(**(given | changes))  # type: ignore[arg-type]


async def listed(service: Service, organization_id: str = "org_a") -> list[schedules_pb2.Schedule]:
    request = schedules_pb2.ListSchedulesRequest(organization_id=organization_id)
    return list((await unary(service.schedules.ListSchedules, request)).schedules)


async def test_from_the_wish_to_the_executor(settings: Settings, neighbours: Neighbours) -> None:
    clock = FakeClock(datetime(2026, 11, 22, 12, tzinfo=UTC))
    async with running(settings, neighbours, clock) as service:
        await service.deploy()
        made = (await unary(service.schedules.CreateSchedule, wanted(created_by="key_1"))).schedule
        assert made.next_fire_at.ToDatetime(UTC) == clock.now() + 2 * MINUTE
        assert made.timezone == "UTC"
        for _ in range(24):
            await clock.advance(5)
            await service.beat()
        async with asyncio.timeout(10):
            while not neighbours.starts:
                await clock.advance(0.5)
                await asyncio.sleep(0.01)
        (start,) = neighbours.starts
        assert (start.spec.trigger, start.body) == (run_pb2.TRIGGER_SCHEDULE, b'{"a":1}')
        assert (start.spec.request.method, start.spec.request.path) == ("POST", "/")
        headers = {header.name: header.value for header in start.spec.request.headers}
        assert headers == {"content-type": b"application/json", "x-scheduled-request-id": made.id.encode()}
        (after,) = await listed(service)
        assert (after.last_run_id, after.last_error) == (start.spec.run_id, "")
        assert after.last_fired_at == made.next_fire_at
        assert after.next_fire_at.ToDatetime(UTC) == made.next_fire_at.ToDatetime(UTC) + 2 * MINUTE
        record = await service.get(start.spec.run_id)
        assert (record.trigger, record.caller_id) == (run_pb2.TRIGGER_SCHEDULE, "org_a")


async def test_errors_have_their_kinds_and_a_workflow_takes_its_schedules_along(service: Service) -> None:
    await service.deploy("org_s", "svc")
    made = (await unary(service.schedules.CreateSchedule, wanted(organization_id="org_s"))).schedule
    for change in ({"cron_expression": "x"}, {"timezone": "Mars"}, {"input": b" " * 70_000}):
        with pytest.raises(Invalid):
            await unary(service.schedules.CreateSchedule, wanted(organization_id="org_s", **change))
    with pytest.raises(NotFound):
        await unary(service.schedules.CreateSchedule, wanted(organization_id="org_other"))
    theirs = schedules_pb2.DeleteScheduleRequest(organization_id="org_other", schedule_id=made.id)
    with pytest.raises(NotFound):
        await unary(service.schedules.DeleteSchedule, theirs)
    assert await listed(service, "org_s") == [made]
    request = workflows_pb2.DeleteWorkflowRequest(organization_id="org_s", service_id="svc")
    await unary(service.workflows.DeleteWorkflow, request)
    assert await listed(service, "org_s") == []


async def test_the_library_is_deployed_for_everybody(settings: Settings, neighbours: Neighbours) -> None:
    settings.library.mkdir()
    (settings.library / "schedule_runs.py").write_text("app = 1\n")
    asked = workflows_pb2.ResolveRequest(organization_id="org_any", reference="schedule_runs")
    for start in range(2):
        async with running(settings, neighbours) as service, asyncio.timeout(10):
            while True:
                try:
                    version = (await unary(service.workflows.Resolve, asked)).version
                    break
                except NotFound:
                    assert start == 0
                    await asyncio.sleep(0.02)
        assert (version.organization_id, version.number) == ("org_system", 1)


def fire_on(store: Store, clock: FakeClock) -> Fire:
    """A scheduler's part that fires."""
    nobody: Any = FakeExecutors()
    dispatch = Dispatch(store, Fleet(clock), Shares(100), nobody, lambda _: None, clock)
    catalog, submit = Catalog(store, clock), Submit(store, dispatch, clock)
    return Fire(store, catalog, submit, lambda _: b"", lambda _: None, clock, late=timedelta(hours=1))


async def stocked(store: Store, schedules: list[Schedule]) -> None:
    async def work(tx: object) -> None:
        await tx.insert_workflow(WORKFLOW)  # type: ignore[attr-defined]
        await tx.insert_version(VERSION)  # type: ignore[attr-defined]
        for schedule in schedules:
            await tx.insert_schedule(schedule)  # type: ignore[attr-defined]

    await store.write(work)


async def fired(db: Database) -> tuple[int, int, int]:
    """Runs, those with a fire of their own, and those that an event tells of."""
    async with db.read() as connection:
        runs = (await connection.execute(text("SELECT count(*) FROM runs"))).scalar_one()
        own = await connection.execute(text("SELECT count(*) FROM fires JOIN runs ON runs.id = fires.run_id"))
        told = await connection.execute(text("SELECT payload FROM outbox WHERE subject = 'event.runs.queued'"))
        events = [run_id for (payload,) in told for run_id in events_pb2.RunsQueued.FromString(payload).run_ids]
        assert len(events) == len(set(events))
        return runs, own.scalar_one(), len(events)


async def test_stores_on_one_database_fire_each_once(tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/scheduler.db"
    await asyncio.to_thread(upgrade, "scheduler", url)
    clock = FakeClock(START)
    async with AsyncExitStack() as stack:
        dbs = [await stack.enter_async_context(open_db(url)) for _ in range(3)]
        stores = [await stack.enter_async_context(open_store(db)) for db in dbs]
        await stocked(stores[0], [a_schedule() for _ in range(150)])
        fires = [fire_on(store, clock) for store in stores]
        for minute in range(1, 4):
            await clock.advance(60)
            told = await asyncio.gather(*(fire.once() for fire in fires), return_exceptions=True)
            assert not [one for one in told if isinstance(one, BaseException) and not isinstance(one, Unavailable)]
            for fire in fires:  # whoever lost a whole batch, or waited too long for the file, looks again
                await fire.once()
            assert await fired(dbs[0]) == (150 * minute,) * 3


async def test_processes_on_one_database_fire_each_once(tmp_path: Path, nats_url: str) -> None:
    settings = Settings(home=tmp_path)
    url = settings.database_url("scheduler")
    await asyncio.to_thread(upgrade, "scheduler", url)
    due = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=4)
    schedules = [a_schedule(cron_expression="0 0 1 1 *", next_fire_at=due) for _ in range(60)]
    async with AsyncExitStack() as stack:
        db = await stack.enter_async_context(open_db(url))
        store = await stack.enter_async_context(open_store(db))
        await stocked(store, schedules)
        shared = {"RUNMESH_HOME": str(tmp_path), "RUNMESH_NATS_URL": nats_url, "RUNMESH_LIBRARY": str(tmp_path / "no")}
        with ExitStack() as processes:
            for name in ("one", "two"):
                address = f"unix:{tmp_path / name}.sock"
                processes.enter_context(service_process("scheduler", **shared, RUNMESH_SCHEDULER_ADDRESS=address))
            for _ in range(300):
                if (await fired(db))[0] == len(schedules):
                    break
                await asyncio.sleep(0.1)
            await asyncio.sleep(1)  # for more than there should be
            runs, own, _ = await fired(db)
    assert (runs, own) == (60, 60)
