"""The scheduler's store of schedules: one suite, on SQLite and on the fake that the unit tests use."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from kit.db import open_db
from migrations.__main__ import upgrade
from scheduler.billing import Billing, Budget
from scheduler.schedule import Schedule
from scheduler.store.database import open_store
from tests.databases import database_url
from tests.fakes.memory_runs import MemoryStore
from tests.fakes.scheduling import START, WORKFLOW, a_schedule

DUE = START + timedelta(minutes=1)
NEXT = START + timedelta(minutes=2)


@pytest.fixture(params=["memory", "sqlite", "postgres"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Any]:
    if request.param == "memory":
        memory = MemoryStore()
        await memory.write(lambda tx: tx.insert_workflow(WORKFLOW))
        yield memory
        return
    url = database_url(request, request.param, tmp_path, "scheduler")
    async with AsyncExitStack() as stack:
        opened = await stack.enter_async_context(open_store(await stack.enter_async_context(open_db(url))))
        await opened.write(lambda tx: tx.insert_workflow(WORKFLOW))
        yield opened


async def added(store: Any, **changes: Any) -> Schedule:
    schedule = a_schedule(**changes)
    await store.write(lambda tx: tx.insert_schedule(schedule))
    return schedule


async def listed(store: Any, organization_id: str = "org_owner", limit: int = 100, after: str = "") -> list[Schedule]:
    found: list[Schedule] = await store.list_schedules(organization_id, limit=limit, after=after)
    return found


async def test_a_schedule_comes_back_as_it_was(store: Any) -> None:
    schedule = await added(
        store,
        input=b'{"a":"\xc3\xa9"}',
        last_fired_at=START,
        last_run_id="run_1",
        last_skipped_at=START,
        last_error="why",
        failures=3,
        billing=Billing((Budget("key:key_0", 5),), "key_1"),
    )
    assert await listed(store) == [schedule]
    assert await store.due(DUE, 10) == [schedule]
    assert await listed(store, "org_other") == []


async def test_pages_are_in_the_order_of_their_making(store: Any) -> None:
    made = sorted([(await added(store)).id for _ in range(3)])
    assert [one.id for one in await listed(store, limit=2)] == made[:2]
    assert [one.id for one in await listed(store, after=made[1])] == made[2:]
    assert await store.write(lambda tx: tx.count_schedules("org_owner")) == 3
    assert await store.write(lambda tx: tx.count_schedules("org_other")) == 0


async def test_what_is_due_comes_longest_first(store: Any) -> None:
    assert await store.next_fire() is None
    late = await added(store, next_fire_at=NEXT)
    early = await added(store)
    await added(store, next_fire_at=None)
    assert await store.due(START, 10) == []
    assert await store.due(DUE, 10) == [early]
    assert await store.due(NEXT, 10) == [early, late]
    assert await store.due(NEXT, 1) == [early]
    assert await store.next_fire() == DUE


async def test_a_claim_is_won_once(store: Any) -> None:
    schedule = await added(store)
    claims = [store.write(lambda tx: tx.claim(schedule.id, DUE, NEXT)) for _ in range(10)]
    assert sorted(await asyncio.gather(*claims)) == [False] * 9 + [True]
    assert await store.next_fire() == NEXT
    assert not await store.write(lambda tx: tx.claim("sch_other", NEXT, None))
    assert await store.write(lambda tx: tx.claim(schedule.id, NEXT, None))
    assert await store.next_fire() is None


async def test_what_changes_is_saved(store: Any) -> None:
    schedule = await added(store)
    changed = replace(schedule.fired("run_1", DUE, NEXT), last_error="e", failures=2, last_skipped_at=START)
    await store.write(lambda tx: tx.save_schedule(changed))
    assert await listed(store) == [changed]


async def test_what_was_fired_is_there_once_and_goes_with_its_schedule(store: Any) -> None:
    schedule = await added(store)

    async def add(tx: Any) -> None:
        await tx.add_fire(schedule.id, DUE, "run_1")

    async def fired(tx: Any) -> list[bool]:
        return [await tx.was_fired(schedule.id, at) for at in (DUE, NEXT)]

    assert await store.write(fired) == [False, False]
    await store.write(add)
    assert await store.write(fired) == [True, False]
    with pytest.raises(Exception):  # noqa: B017, PT011  # the engines' own
        await store.write(add)
    await store.write(lambda tx: tx.forget_fires(schedule.id, DUE))
    assert await store.write(fired) == [True, False]
    await store.write(lambda tx: tx.forget_fires(schedule.id, NEXT))
    assert await store.write(fired) == [False, False]
    await store.write(add)
    assert await store.write(lambda tx: tx.delete_schedule("org_owner", schedule.id))
    await store.write(lambda tx: tx.insert_schedule(schedule))
    assert await store.write(fired) == [False, False]


async def test_ones_own_is_deleted_once(store: Any) -> None:
    schedule = await added(store)
    assert not await store.write(lambda tx: tx.delete_schedule("org_other", schedule.id))
    assert await store.write(lambda tx: tx.delete_schedule("org_owner", schedule.id))
    assert not await store.write(lambda tx: tx.delete_schedule("org_owner", schedule.id))


async def test_an_organizations_schedules_of_a_workflow_are_deleted(store: Any) -> None:
    await store.write(lambda tx: tx.insert_workflow(replace(WORKFLOW, id="wfl_2", service_id="other")))
    await added(store)
    kept = [await added(store, organization_id="org_caller"), await added(store, workflow_id="wfl_2")]
    await store.write(lambda tx: tx.delete_schedules("org_owner", WORKFLOW.id))
    assert await listed(store) + await listed(store, "org_caller") == kept[::-1]


async def test_an_aborted_work_leaves_the_next_time_where_it_was(store: Any) -> None:
    schedule = await added(store)

    async def broken(tx: Any) -> None:
        assert await tx.claim(schedule.id, DUE, NEXT)
        raise RuntimeError("after the claim")

    with pytest.raises(RuntimeError):
        await store.write(broken)
    assert await store.next_fire() == DUE


async def test_looking_costs_the_same_however_many_there_are(tmp_path: Path) -> None:
    """Each of these goes by an index."""
    url = f"sqlite+aiosqlite:///{tmp_path}/scheduler.db"
    upgrade("scheduler", url)
    queries = {
        "SELECT * FROM schedules WHERE next_fire_at <= '2026' ORDER BY next_fire_at LIMIT 9": "schedules_next",
        "SELECT next_fire_at FROM schedules WHERE next_fire_at IS NOT NULL ORDER BY next_fire_at": "schedules_next",
        "SELECT * FROM schedules WHERE organization_id = 'o' AND id > 'x' ORDER BY id LIMIT 9": "schedules_own",
        "SELECT count(*) FROM schedules WHERE organization_id = 'o'": "schedules_own",
        "DELETE FROM fires WHERE schedule_id = 's' AND due_at < '2026'": "autoindex_fires",
    }
    async with open_db(url) as db, db.write() as connection:
        for query, index in queries.items():
            plan = " ".join(str(row) for row in await connection.execute(text(f"EXPLAIN QUERY PLAN {query}")))
            assert index in plan
            assert "TEMP B-TREE" not in plan
            assert "SCAN schedules USING COVERING INDEX schedules_next" in plan or "SCAN" not in plan
