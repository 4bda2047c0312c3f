"""The scheduler's store, as far as it is about bills and costs: one suite, on both engines and on the fake."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from kit.db import open_db
from migrations.__main__ import upgrade
from scheduler.bill import Bill
from scheduler.billing import UNBILLED, Billing, Budget
from scheduler.model import Asker, Outcome, Run, RunEnded, Status
from scheduler.result import Result
from scheduler.store.database import open_store
from scheduler.usage import Usage
from tests.databases import database_url
from tests.fakes.memory_runs import MemoryStore
from tests.fakes.scheduling import START, a_run

DONE, FAILED = Outcome(Status.SUCCEEDED), Outcome(Status.FAILED, "workflow_crashed")
ON_SUCCESS = Billing(charged_on_success=True)
ME = Asker("org_caller")


@pytest.fixture(params=["memory", "sqlite", "postgres"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Any]:
    if request.param == "memory":
        yield MemoryStore()
        return
    url = database_url(request, request.param, tmp_path, "scheduler")
    async with AsyncExitStack() as stack:
        db = await stack.enter_async_context(open_db(url))
        yield await stack.enter_async_context(open_store(db))


def a_bill(run: Run, charge: int = 7, **changes: Any) -> Bill:
    bill = Bill(run.id, run.attempt, "prs_1", run.root_id, charge, b"\0payload\xff", created_at=START)
    return replace(bill, **changes)


async def kept(store: Any, *bills: Bill) -> None:
    await store.write(lambda tx: tx.keep_bills(bills))


async def inserted(store: Any, *runs: Run) -> None:
    await store.write(lambda tx: tx.insert(runs))


async def due(store: Any, limit: int = 100) -> list[Bill]:
    """Looks without taking them."""
    seen: list[Bill] = []
    with suppress(InterruptedError):
        async with store.due_bills(limit) as bills:
            seen += bills
            raise InterruptedError
    return seen


async def test_a_bill_is_there_until_it_is_sent(store: Any) -> None:
    late, early = a_bill(a_run(), created_at=START + timedelta(seconds=2)), a_bill(a_run(), 2**40)
    await kept(store, late, early)
    assert await due(store) == await due(store) == [early, late]
    assert await due(store, 1) == [early]
    async with store.due_bills(1) as bills:
        assert bills == [early]
    assert await due(store) == [late]


async def test_a_bill_is_kept_once(store: Any) -> None:
    bill = a_bill(run := a_run())
    await kept(store, bill)
    await kept(store, bill.free(), a_bill(run, purse_id="prs_2"), a_bill(run, attempt=2))
    await kept(store)
    assert sorted(await due(store), key=lambda one: (one.attempt, one.purse_id)) == [
        bill,
        replace(bill, purse_id="prs_2"),
        replace(bill, attempt=2),
    ]


async def test_what_isnt_committed_isnt_kept(store: Any) -> None:
    async def broken(tx: Any) -> None:
        await tx.keep_bills([a_bill(a_run())])
        raise RuntimeError

    with pytest.raises(RuntimeError):
        await store.write(broken)
    assert await due(store) == []


def a_tree(count: int = 2) -> tuple[Run, list[Run]]:
    root = a_run(billing=ON_SUCCESS, cost_own=1)
    below = [a_run(billing=ON_SUCCESS, root_id=root.id, parent_id=root.id, depth=1, cost_own=7) for _ in range(count)]
    return root, below


@pytest.mark.parametrize("refused", [False, True])
async def test_it_is_remembered_that_a_root_refused(store: Any, refused: bool) -> None:
    """A bill of what it called may come after its end."""
    root, (nested,) = a_tree(1)
    await inserted(store, root)
    ended = root.ended(DONE, at=START, result=Result(refused=refused))

    async def end(tx: Any) -> None:
        await tx.keep_bills([a_bill(nested, held=True)])
        await tx.save([ended])
        await tx.tell([RunEnded(ended)])

    await store.write(end)
    (bill,) = await due(store)
    found = (await store.write(lambda tx: tx.standing([root.id])))[root.id]
    assert (found.pays, bill.charge, found.cost_own) == ((False, 0, 0) if refused else (True, 7, 1))


@pytest.mark.parametrize(("outcome", "charge"), [(DONE, 7), (FAILED, 0)])
async def test_what_is_held_goes_with_the_end_of_its_root(store: Any, outcome: Outcome, charge: int) -> None:
    root, below = a_tree()
    other, others = a_tree()
    await inserted(store, root, *below, other, *others)
    bills = [a_bill(run, held=True) for run in (*below, *others, root)]
    await kept(store, *bills)
    assert await due(store) == []
    nested = below[0].ended(FAILED, at=START)
    ended = root.ended(outcome, at=START)

    async def end(tx: Any) -> None:
        await tx.save([nested, ended])
        await tx.tell([RunEnded(nested), RunEnded(ended)])

    await store.write(end)
    assert {bill.run_id: bill.charge for bill in await due(store)} == dict.fromkeys(
        (root.id, *(run.id for run in below)), charge
    )
    assert await store.over_roots(10) == []
    costs = [(await store.find_run(ME, run.id)).cost_own for run in (*below, root, *others)]
    assert costs == ([7, 7, 1, 7, 7] if charge else [0, 0, 0, 7, 7])


async def test_the_end_of_an_ordinary_root_lets_nothing_go(store: Any) -> None:
    root, below = a_tree(1)
    await inserted(store, root, *below)
    await kept(store, a_bill(below[0], held=True))
    await store.write(lambda tx: tx.tell([RunEnded(replace(root, billing=UNBILLED).ended(DONE, at=START))]))
    assert await due(store) == []


async def test_roots_that_are_over_and_roots_that_never_came(store: Any) -> None:
    """Those that have yet to end are none of them, however long they have been held."""
    trees = [a_tree() for _ in range(6)]
    for root, _ in trees[:2]:
        await inserted(store, root)
    over = [root for root, _ in trees[2:4]]
    await inserted(store, *(root.ended(DONE, at=START) for root in over))
    for _, nested in trees:
        await kept(store, *(a_bill(run, held=True) for run in nested))
    await inserted(store, sent := a_tree()[0].ended(DONE, at=START))
    await kept(store, a_bill(sent))
    assert sorted(await store.over_roots(10)) == sorted(root.id for root in over)
    assert len(await store.over_roots(1)) == 1
    assert await store.lost_roots(START, 10) == []
    later = START + timedelta(seconds=1)
    assert sorted(await store.lost_roots(later, 10)) == sorted(root.id for root, _ in trees[4:])
    assert len(await store.lost_roots(later, 1)) == 1


async def test_what_is_below_a_run_costs(store: Any) -> None:
    root = a_run(cost_own=1)
    child = a_run(parent_id=root.id, root_id=root.id, depth=1, cost_own=10)
    sibling = replace(child, id=child.id + "b", cost_own=2**40)
    grandchild = a_run(parent_id=child.id, root_id=root.id, depth=2, cost_own=100)
    alone = a_run(cost_own=1000)
    await inserted(store, root, child, sibling, grandchild, alone)
    ids = [run.id for run in (root, child, sibling, grandchild, alone)]
    assert await store.costs_below(ids) == {root.id: 110 + 2**40, child.id: 100}
    assert await store.costs_below([grandchild.id]) == {}


async def test_who_pays_is_kept_with_the_run(store: Any) -> None:
    run = a_run(
        billing=Billing((Budget("key:1", 2**50), Budget("run:1", 0)), "key_1", charged_on_success=True), cost_own=5
    )
    await inserted(store, run)
    assert await store.find_run(ME, run.id) == run
    usage = Usage(1, 2, 3, 4, 2**40, 6)
    after = replace(run, cost_own=9).ended(DONE, at=START, result=Result(usage=usage))
    await store.write(lambda tx: tx.save([after]))
    found = await store.find_run(ME, run.id)
    assert (found.usage, found.cost_own) == (usage, 9)


async def test_the_statements_use_their_indexes(tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/scheduler.db"
    await asyncio.to_thread(upgrade, "scheduler", url)
    async with open_db(url) as db, open_store(db) as store:
        plans: list[str] = []

        def explain(_connection: Any, cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool) -> None:
            cursor.execute("EXPLAIN QUERY PLAN " + statement, parameters)
            plans.append(str([row[3] for row in cursor.fetchall()]))

        event.listen(db._reader.sync_engine, "before_cursor_execute", explain)
        await store.costs_below(["run_1", "run_2"])
        assert plans[-1].count("INDEX runs_parent (parent_id=?)") == 2
        assert "SCAN runs" not in plans[-1]
        await due(store)
        assert "INDEX bills_due" in plans[-1]
        assert "TEMP B-TREE" not in plans[-1]
        for name, asked in (("over_roots", (10,)), ("lost_roots", (START, 10))):
            await getattr(store, name)(*asked)
            assert "INDEX bills_held" in plans[-1]
            assert "SCAN runs" not in plans[-1]
            assert "TEMP B-TREE" not in plans[-1]


async def test_two_schedulers_send_no_bill_twice_at_once(postgres: Any) -> None:
    url = f"{postgres.url(postgres.migrated())}&schema=scheduler"
    async with open_db(url) as one, open_db(url) as two, open_store(one) as first, open_store(two) as second:
        bills = [a_bill(a_run(), created_at=START + timedelta(seconds=number)) for number in range(3)]
        await kept(first, *bills)
        async with first.due_bills(2) as mine, second.due_bills(2) as others:
            assert (mine, others) == (bills[:2], bills[2:])
        assert await due(first) == []
