"""The scheduler's queue and leases: one suite, on SQLite, on PostgreSQL and on the fake that the unit tests use."""

import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event

from kit import postgres
from kit.db import open_db
from scheduler.fleet import Lease
from scheduler.model import CANCELLED, LOST, Asker, History, Idempotent, Run, Status
from scheduler.result import Earlier
from scheduler.store.database import open_store
from scheduler.submit import LAST
from scheduler.usage import Usage
from tests.contract.test_run_store import Rig, accepted, moved, rig, url
from tests.databases import is_postgres
from tests.fakes.scheduling import INPUT, START, a_run

__all__ = ["rig", "url"]
ME = Asker("org_caller")
SECOND = timedelta(seconds=1)
LATER = START + timedelta(minutes=1)


async def heads(rig: Rig, lane: int, caller: str = "org_caller", limit: int = 10) -> list[str]:
    found = await rig.store.write(lambda tx: tx.heads(lane, caller, LATER, limit))
    assert all(queued.input == INPUT for queued in found)
    return [queued.run.id for queued in found]


async def test_a_callers_queue_is_in_order(rig: Rig) -> None:
    late, early = a_run(created_at=START + 2 * SECOND), a_run(created_at=START + SECOND)
    low, high = a_run(priority=1), a_run(created_at=START + 3 * SECOND, priority=-1)
    delayed = a_run(due_at=LATER + SECOND, priority=-1)
    urgent, unhurried = a_run(depth=1, synchronous=True), a_run(depth=1, created_at=START + 4 * SECOND)
    given, running = a_run().claimed("x", "i", START), a_run().started(executor="x", incarnation="i", at=START)
    await accepted(rig, late, early, low, high, delayed, urgent, unhurried, given, running, a_run(caller_id="org_x"))
    assert await heads(rig, 1) == [high.id, early.id, late.id, unhurried.id, low.id]
    assert await heads(rig, 1, limit=2) == [high.id, early.id]
    assert await heads(rig, 0) == [urgent.id]
    assert await rig.store.count_queued() == 9
    assert await rig.store.waiting_of("org_caller", 100) == 6
    assert await rig.store.waiting_of("org_caller", 2) == 2
    assert await rig.store.waiting_of("org_y", 2) == 0


async def test_places_in_the_queue(rig: Rig) -> None:
    runs = [a_run(id=f"run_{number}", created_at=START + number // 2 * SECOND) for number in range(5)]
    last, urgent = a_run(priority=1), a_run(depth=2, synchronous=True)
    await accepted(rig, *runs, last, urgent, a_run(caller_id="org_x"))
    assert [await rig.store.position(run, 100) for run in (*runs, last)] == [1, 2, 3, 4, 5, 6]
    assert await rig.store.position(last, 3) == 4
    assert await rig.store.position(urgent, 100) == 1
    assert await rig.store.position(replace(urgent, id="", priority=LAST), 100) == 2


async def test_who_waits(rig: Rig) -> None:
    for caller in ("org_b", "org_a", "org_c", "org_a"):
        await accepted(rig, a_run(caller_id=caller))
    await accepted(rig, a_run(caller_id="org_d").claimed("x", "i", START))
    await accepted(rig, a_run(caller_id="org_e", depth=1, synchronous=True))
    assert await rig.store.callers_waiting(1, "", 10) == ["org_a", "org_b", "org_c"]
    assert await rig.store.callers_waiting(1, "", 2) == ["org_a", "org_b"]
    assert await rig.store.callers_waiting(1, "org_a", 10) == ["org_b", "org_c"]
    assert await rig.store.callers_waiting(0, "", 10) == ["org_e"]
    assert await rig.store.callers_waiting(1, "org_c", 10) == []


async def test_where_runs_are(rig: Rig) -> None:
    run = a_run().started(executor="unix:a", incarnation="one", at=START)
    other = a_run(depth=1, synchronous=True).started(executor="unix:b", incarnation="two", at=START)
    given = a_run(caller_id="org_x").claimed("unix:a", "three", START)
    await accepted(rig, run, other, given, a_run())
    assert await rig.store.placements() == {("unix:a", "one"), ("unix:b", "two"), ("unix:a", "three")}
    assert sorted(await rig.store.busy()) == sorted([(run.id, "org_caller"), (given.id, "org_x")])
    on_a = await rig.store.write(lambda tx: tx.placed_on("unix:a", "one", 10))
    assert [one.id for one in on_a] == [run.id]
    assert await rig.store.write(lambda tx: tx.placed_on("unix:a", "two", 10)) == []
    assert await rig.store.claimed(START, 10) == []
    (found,) = await rig.store.claimed(START + SECOND, 10)
    assert (found.run, found.input) == (given, INPUT)


async def test_an_attempt_that_another_follows_comes_back_as_it_was(rig: Rig) -> None:
    run = a_run(retries=3).claimed("unix:a", "one", START).started(executor="unix:a", incarnation="one", at=START)
    await accepted(rig, run)
    again = run.attempted(LOST, at=START)
    again = replace(again, usage=Usage(1.0, 2.0, 3, 4), earlier=(*again.earlier, Earlier(9, "x", "c", "d", "l", "e")))
    await moved(rig, again)
    assert await rig.store.find_run(ME, run.id) == again
    assert (again.status, again.attempt, again.losses, again.retries) == (Status.QUEUED, 2, 1, 3)
    assert await heads(rig, 1) == [run.id]


async def test_a_tree_without_what_is_over(rig: Rig) -> None:
    root = a_run(id="run_root").started(executor="x", incarnation="i", at=START)
    over = a_run(root_id="run_root", parent_id="run_root").ended(CANCELLED, at=START)
    below = a_run(root_id="run_root", parent_id=over.id)
    await accepted(rig, root, over, below, a_run())
    found: list[Run] = await rig.store.write(lambda tx: tx.tree("run_root"))
    assert {run.id for run in found} == {root.id, below.id}


async def test_idempotency_keys(rig: Rig) -> None:
    first = Idempotent("org_a", "key", "f" * 64, "run_1", START)
    second = replace(first, fingerprint="e" * 64, run_id="run_2", created_at=LATER)
    await rig.store.write(lambda tx: tx.keep_idempotent(first))
    assert await rig.store.write(lambda tx: tx.idempotent("org_a", "key")) == first
    assert await rig.store.write(lambda tx: tx.idempotent("org_b", "key")) is None
    await rig.store.write(lambda tx: tx.keep_idempotent(second))
    assert await rig.store.write(lambda tx: tx.idempotent("org_a", "key")) == second
    assert await rig.store.write(lambda tx: tx.delete_idempotent(LATER, 10)) == 0
    assert await rig.store.write(lambda tx: tx.delete_idempotent(LATER + SECOND, 10)) == 1
    assert await rig.store.write(lambda tx: tx.idempotent("org_a", "key")) is None


async def test_leases(rig: Rig) -> None:
    lease = Lease("unix:a", "inc_1", 3, 4, draining=False, expires_at=LATER)
    assert await rig.store.write(lambda tx: tx.lease("unix:a")) is None
    await rig.store.write(lambda tx: tx.save_lease(lease, new=True))
    given_up = replace(lease, given_up=True, draining=True)
    await rig.store.write(lambda tx: tx.save_lease(given_up, new=False))
    assert await rig.store.write(lambda tx: tx.lease("unix:a")) == given_up
    assert await rig.store.leases() == [given_up]
    await rig.store.write(lambda tx: tx.delete_leases(LATER))
    assert await rig.store.leases() == [given_up]
    await rig.store.write(lambda tx: tx.delete_leases(LATER + SECOND))
    assert await rig.store.leases() == []


async def test_what_has_ended_costs_the_queue_and_look_ups_nothing(
    database: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`runs` is read by an index in every statement that isn't about a single row's whole history."""
    monkeypatch.setitem(postgres._SESSION, "enable_seqscan", "off")  # the tables are empty
    where = database("scheduler")
    async with open_db(where) as db, open_store(db) as store:
        plans: list[str] = []

        def explain(_connection: Any, cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool) -> None:
            if statement.startswith(("BEGIN", "EXPLAIN")):
                return
            cursor.execute(("EXPLAIN " if is_postgres(where) else "EXPLAIN QUERY PLAN ") + statement, parameters)
            plans.append(str([row[-1] for row in cursor.fetchall()]))

        for engine in (db._reader, db._writer):
            event.listen(engine.sync_engine, "before_cursor_execute", explain)
        calls: list[tuple[str, Callable[[], Awaitable[object]]]] = [
            ("runs_waiting (lane=? AND caller_id>?)", lambda: store.callers_waiting(1, "", 8)),
            ("runs_waiting (lane=? AND caller_id=?)", lambda: store.waiting_of("a", 8)),
            ("runs_waiting (lane=? AND caller_id=?)", lambda: store.position(a_run(), 8)),
            ("runs_waiting (lane=? AND caller_id=?)", lambda: store.write(lambda tx: tx.heads(1, "a", START, 8))),
            ("runs_tree (root_id=?)", lambda: store.write(lambda tx: tx.tree("a"))),
            ("runs_running", lambda: store.write(lambda tx: tx.placed_on("a", "b", 8))),
            ("INDEX runs_queue", store.count_queued),
            ("runs_claimed", store.placements),
            ("runs_claimed", store.busy),
            ("runs_claimed (claimed_at>? AND claimed_at<?)", lambda: store.claimed(START, 8)),
            ("runs_cancelled (cancelled_at<?)", lambda: store.cancelled(START, 8)),
            ("runs_queued (deadline<?)", lambda: store.overdue(Status.QUEUED, START, 8)),
            ("runs_provision (provision_id=?)", lambda: store.find_run(ME, "run_1")),
            ("runs_caller (caller_id=?)", lambda: store.history(History("org_caller"))),
            ("runs_acting (acting_id=?)", lambda: store.history(History("org_caller"))),
            ("runs_service (caller_id=? AND service_id=?)", lambda: store.history(History("a", "b"))),
            ("runs_acting_service (acting_id=? AND service_id=?)", lambda: store.history(History("a", "b"))),
            ("runs_trace (caller_id=? AND trace_id=?)", lambda: store.history(History("a", trace_id="b"))),
            ("runs_acting_trace (acting_id=? AND trace_id=?)", lambda: store.history(History("a", trace_id="b"))),
            ("runs_status (caller_id=? AND status=?)", lambda: store.history(History("a", status=Status.DEAD))),
            ("runs_acting_status (acting_id=?", lambda: store.history(History("a", status=Status.DEAD))),
        ]
        for index, call in calls:
            plans.clear()
            await call()
            # Which one PostgreSQL takes depends on what the tables hold.
            assert re.search("Index (Only )?Scan", plans[-1]) if is_postgres(where) else index in plans[-1], plans
            assert not [plan for plan in plans if re.search("'SCAN runs'|Seq Scan on runs", plan)]
            assert not [plan for plan in plans if "waiting" in plan and "TEMP" in plan]
