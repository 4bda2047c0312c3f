"""The scheduler's store, as far as it is about deliveries: one suite, on SQLite and on the fake."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, select

from kit.db import open_db
from migrations.__main__ import upgrade
from scheduler.delivery import Delivery, State
from scheduler.model import CANCELLED, Asker, Run, RunEnded
from scheduler.store.database import open_store
from scheduler.store.tables import outbox
from tests.databases import database_url
from tests.fakes.memory_runs import MemoryStore
from tests.fakes.scheduling import INPUT, START, a_run

URL = "https://a.example/hook?token=1"


@pytest.fixture(params=["memory", "sqlite", "postgres"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Any]:
    if request.param == "memory":
        yield MemoryStore()
        return
    url = database_url(request, request.param, tmp_path, "scheduler")
    async with AsyncExitStack() as stack:
        db = await stack.enter_async_context(open_db(url))
        yield await stack.enter_async_context(open_store(db))


async def ended(store: Any, at: datetime = START, **changes: Any) -> Run:
    """A run that was accepted and is over, as every use case ends one."""
    run = a_run(**{"callback_url": URL, **changes})

    async def work(tx: Any) -> Run:
        await tx.accept(run, INPUT)
        after = run.ended(CANCELLED, at=at)
        await tx.save([after])
        await tx.tell([RunEnded(after)])
        return after

    result: Run = await store.write(work)
    return result


async def due(
    store: Any, now: datetime = START, hosts: tuple[str, ...] = (), organizations: tuple[str, ...] = ()
) -> Any:
    return await store.due_deliveries(now, without_hosts=hosts, without_organizations=organizations, limit=10)


async def test_the_address_is_kept_with_the_run(store: Any) -> None:
    run = await ended(store)
    assert (await store.find_run(Asker("org_caller"), run.id)).callback_url == URL


async def test_the_end_of_a_run_begins_its_delivery(store: Any) -> None:
    run = await ended(store)
    await ended(store, callback_url="")
    (found,) = await store.deliveries_of(run.id)
    assert found == Delivery(
        id=found.id,
        run_id=run.id,
        organization_id="org_caller",
        url=URL,
        host="a.example:443",
        created_at=START,
        next_attempt_at=START,
    )
    assert await due(store) == [found.id]


async def test_an_end_that_isnt_committed_begins_nothing(store: Any) -> None:
    run = a_run(callback_url=URL)
    await store.write(lambda tx: tx.accept(run, INPUT))

    async def broken(tx: Any) -> None:
        await tx.tell([RunEnded(run.ended(CANCELLED, at=START))])
        raise RuntimeError

    with pytest.raises(RuntimeError):
        await store.write(broken)
    assert await store.deliveries_of(run.id) == []


async def test_a_delivery_changes(store: Any) -> None:
    run = await ended(store)
    (before,) = await store.deliveries_of(run.id)
    after = replace(
        before,
        state=State.DELIVERED,
        attempts=2,
        next_attempt_at=None,
        last_status=204,
        last_error="x",
        delivered_at=START + timedelta(seconds=1),
    )
    await store.write(lambda tx: tx.save_deliveries([after]))
    assert await store.deliveries_of(run.id) == await store.write(lambda tx: tx.deliveries([before.id])) == [after]
    assert await due(store, START + timedelta(days=1)) == []
    assert await store.write(lambda tx: tx.deliveries(["dlv_other"])) == []


async def test_what_is_due_comes_in_order(store: Any) -> None:
    late, early = START + timedelta(seconds=2), START + timedelta(seconds=1)
    runs = [await ended(store, at) for at in (late, early)]
    await ended(store, START + timedelta(seconds=9))
    found = [(await store.deliveries_of(run.id))[0].id for run in runs]
    assert await due(store, late) == found[::-1]
    assert await store.due_deliveries(late, without_hosts=(), without_organizations=(), limit=1) == found[1:]


async def test_busy_receivers_and_organizations_are_passed_over(store: Any) -> None:
    slow = await ended(store)
    other = await ended(store, callback_url="http://b.example/")
    theirs = await ended(store, callback_url="http://b.example/", requester_id="org_b")
    ids = {run.id: (await store.deliveries_of(run.id))[0].id for run in (slow, other, theirs)}
    assert set(await due(store, hosts=("a.example:443",))) == {ids[other.id], ids[theirs.id]}
    assert await due(store, organizations=("org_caller", "org_x")) == [ids[theirs.id]]
    assert await due(store, hosts=("b.example:80", "a.example:443")) == []


async def test_organizations_take_turns_by_how_long_they_wait(store: Any) -> None:
    at = [START + timedelta(seconds=seconds) for seconds in range(5)]
    b, a, b_later, c = [
        await ended(store, when, requester_id=who)
        for when, who in ((at[0], "org_b"), (at[1], "org_a"), (at[2], "org_b"), (at[4], "org_c"))
    ]
    ids = {run.id: (await store.deliveries_of(run.id))[0].id for run in (b, a, b_later, c)}
    assert await due(store, at[3]) == [ids[b.id], ids[b_later.id], ids[a.id]]
    assert await due(store, at[3], organizations=("org_b",)) == [ids[a.id]]
    assert await due(store, at[4]) == [ids[b.id], ids[b_later.id], ids[a.id], ids[c.id]]


async def test_deliveries_go_with_their_run(store: Any) -> None:
    run = await ended(store)
    assert await store.write(lambda tx: tx.delete_runs(START + timedelta(days=8), 10)) == 1
    assert await store.deliveries_of(run.id) == []
    assert await due(store) == []


async def test_a_claim_reads_an_index_alone(tmp_path: Path) -> None:
    """What is over, and what waits for somebody else, costs it no row; and senders are told in the same transaction."""
    url = f"sqlite+aiosqlite:///{tmp_path}/scheduler.db"
    await asyncio.to_thread(upgrade, "scheduler", url)
    async with open_db(url) as db, open_store(db) as store:
        plans: list[str] = []

        def explain(_connection: Any, cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool) -> None:
            cursor.execute("EXPLAIN QUERY PLAN " + statement, parameters)
            plans.append(str([row[3] for row in cursor.fetchall()]))

        event.listen(db._reader.sync_engine, "before_cursor_execute", explain)
        await due(store, hosts=("a",), organizations=("b",))
        assert plans[-1].count("COVERING INDEX deliveries_due (state=?") >= 3
        assert "SCAN d" not in plans[-1]
        await store.deliveries_of("run_1")
        assert "INDEX deliveries_run" in plans[-1]
        await ended(store)
        await due(store)
        assert "COVERING INDEX deliveries_due (state=? AND organization_id=? AND next_attempt_at<?)" in plans[-1]
        assert "TEMP B-TREE" not in plans[-1]
        await ended(store, callback_url="")
        async with db.read() as connection:
            told = list((await connection.execute(select(outbox.c.subject).order_by(outbox.c.id))).scalars())
        assert sorted(told) == ["event.delivery.due", "event.runs.ended", "event.runs.ended"]
