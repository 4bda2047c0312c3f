import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Any, cast

import pytest
from sqlalchemy import Engine, event, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from kit.clock import SystemClock
from kit.db import Database, open_db
from kit.errors import Unauthenticated, Unavailable
from scheduler.dispatch import Dispatch
from scheduler.fleet import Fleet
from scheduler.model import CANCELLED, Asker, Outcome, Run, Status
from scheduler.settle import settle
from scheduler.shares import Shares
from scheduler.store.database import Store, Tx, open_store
from scheduler.submit import Submission, Submit
from scheduler.watch import Notices, Watch
from tests.fakes.scheduling import INPUT, START, VERSION, WORKFLOW, FakeExecutors, a_run

DONE = Outcome(Status.SUCCEEDED)


@pytest.fixture
def url(database: Callable[[str], str]) -> str:
    return database("scheduler")


@pytest.fixture
async def db(url: str) -> AsyncIterator[Database]:
    async with open_db(url) as opened:
        yield opened


def count_transactions(db: Database, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    begun: list[int] = []
    write = db.write

    @asynccontextmanager
    async def counted() -> AsyncIterator[AsyncConnection]:
        begun.append(1)
        async with write() as connection:
            yield connection

    monkeypatch.setattr(db, "write", counted)
    return begun


@pytest.fixture
def statements() -> Iterator[list[str]]:
    """What databases are told."""
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        seen.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    yield seen
    event.remove(Engine, "before_cursor_execute", note)


class Process:
    """A scheduler's part that accepts runs, with connections of its own."""

    def __init__(self, db: Database) -> None:
        self.store = Store(db)
        clock, nobody = SystemClock(), FakeExecutors()
        dispatch = Dispatch(self.store, Fleet(clock), Shares(100), nobody, lambda _: None, clock)
        self.submit = Submit(self.store, dispatch, clock)


@pytest.fixture
async def two(url: str) -> AsyncIterator[tuple[Process, Process]]:
    async with open_db(url) as one, open_db(url) as other:
        first, second = Process(one), Process(other)
        await first.store.write(lambda tx: tx.insert_workflow(WORKFLOW))
        await first.store.write(lambda tx: tx.insert_version(VERSION))
        yield first, second
        await first.store.drain()
        await second.store.drain()


async def accept(store: Store, run: Run) -> None:
    await store.write(lambda tx: tx.accept(run, INPUT))


async def test_a_burst_shares_a_few_transactions(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = count_transactions(db, monkeypatch)
    async with open_store(db) as store:
        await asyncio.gather(*(accept(store, a_run()) for _ in range(200)))
        assert await store.count_queued() == 200
    assert len(begun) <= 3


async def test_runs_of_a_burst_are_written_by_few_statements(db: Database, statements: list[str]) -> None:
    async with open_store(db) as store:
        await asyncio.gather(*(accept(store, a_run()) for _ in range(200)))
    assert 1 <= sum(each.startswith("INSERT INTO runs") for each in statements) <= 3


async def test_what_a_transaction_has_accepted_its_other_works_see(db: Database) -> None:
    first, second = a_run(one_time_key_id="key_1"), a_run(root_id="run_root")
    async with open_store(db) as store:

        async def work(tx: Tx) -> tuple[bool, Collection[str], int]:
            await tx.accept(first, INPUT)
            await tx.accept(second, INPUT)
            return (
                await tx.one_time_used("key_1"),
                await tx.runs([first.id, second.id]),
                len(await tx.tree("run_root")),
            )

        used, found, below = await store.write(work)
        assert used
        assert set(found) == {first.id, second.id}
        assert below == 1
        assert await store.find_input(second.id) == INPUT


async def test_one_that_is_refused_takes_no_other_with_it(db: Database) -> None:
    """All are written together: who breaks a rule of the database is found out, and fails alone."""
    good, bad = [a_run() for _ in range(5)], a_run(one_time_key_id="key_1")
    async with open_store(db) as store:
        await accept(store, a_run(one_time_key_id="key_1"))
        results = await asyncio.gather(*(accept(store, run) for run in [*good, bad]), return_exceptions=True)
        assert [type(one) for one in results] == [type(None)] * 5 + [IntegrityError]
        assert await store.count_queued() == 6


async def test_a_work_outlives_its_caller(db: Database) -> None:
    run = a_run()
    async with open_store(db) as store:
        caller = asyncio.create_task(accept(store, run))
        await asyncio.sleep(0)
        caller.cancel()
        await asyncio.gather(caller, return_exceptions=True)
    async with open_store(db) as store:
        assert await store.find_run(Asker(""), run.id) == run


async def test_a_broken_watcher_doesnt_repeat_the_work(db: Database) -> None:
    def broken(_: Run) -> None:
        raise RuntimeError("watcher")

    works: list[Any] = []
    run = a_run()

    async def work(tx: Any) -> None:
        works.append(1)
        await tx.accept(run, INPUT)

    async with open_store(db) as store:
        store.listeners.append(broken)
        await store.write(work)
        await store.write(lambda tx: tx.runs([run.id]))
    assert works == [1]


async def test_a_statement_that_fails_before_a_write_harms_nobody_else(db: Database) -> None:
    """PostgreSQL ignores all else in the transaction, and says that it has committed: no run may get lost."""

    async def broken(tx: Any) -> None:
        await tx._connection.execute(text("SELECT * FROM nowhere"))

    async with open_store(db) as store:
        for at in (2, 1, 0):  # nothing comes after it; something does; it comes first
            works = [accept(store, a_run()), accept(store, a_run())]
            works.insert(at, store.write(broken))
            results = await asyncio.gather(*works, return_exceptions=True)
            assert isinstance(results.pop(at), DBAPIError)
            assert results == [None, None]
        assert await store.count_queued() == 6


async def test_one_key_starts_one_run_among_several_schedulers(two: tuple[Process, Process]) -> None:
    async def submit(number: int) -> str:
        organization = ("org_a",) * 4
        wanted = Submission(*organization, "hello", VERSION.id, INPUT, one_time_key_id=f"key_{number // 10}")
        run, _ = await two[number % 2].submit(wanted)
        return run.id

    results = await asyncio.gather(*(submit(number) for number in range(100)), return_exceptions=True)
    accepted = [result for result in results if isinstance(result, str)]
    assert len(accepted) == 10
    assert {type(result) for result in results if not isinstance(result, str)} == {Unauthenticated}
    assert await two[0].store.count_queued() == 10


async def test_what_one_scheduler_is_about_to_change_another_one_waits_for(two: tuple[Process, Process]) -> None:
    runs = [a_run() for _ in range(3)]
    for run in runs:
        await accept(two[0].store, run)
    ids, begun = [run.id for run in runs], asyncio.Event()

    async def end(tx: Any) -> list[Run]:
        await tx.runs(ids)
        begun.set()
        await asyncio.sleep(0.2)
        return await settle(tx, ids, CANCELLED, START)

    first = asyncio.create_task(two[0].store.write(end))
    await begun.wait()
    second: list[Run] | None = None
    while second is None:
        with suppress(Unavailable):  # it waits half a second at most
            second = await two[1].store.write(lambda tx: settle(tx, ids[::-1], CANCELLED, START))
    assert (len(await first), second) == (3, [])


async def test_an_end_that_comes_while_its_executor_is_given_up_stays(two: tuple[Process, Process]) -> None:
    """One scheduler takes the last report of a life, another gives its runs away."""
    run = a_run().started(executor="host", incarnation="life", at=START)
    await two[0].store.write(lambda tx: tx.insert([run]))
    begun = asyncio.Event()

    async def end(tx: Any) -> list[Run]:
        ended = await settle(tx, [run.id], DONE, START)
        begun.set()
        await asyncio.sleep(0.2)
        return ended

    first = asyncio.create_task(two[0].store.write(end))
    await begun.wait()
    lost: list[Run] | None = None
    while lost is None:
        with suppress(Unavailable):  # it waits half a second at most
            lost = await two[1].store.write(lambda tx: tx.placed_on("host", "life", 10))
    assert (len(await first), lost) == (1, [])


async def test_a_watcher_sees_what_another_scheduler_commits(
    two: tuple[Process, Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduler.watch.AGAIN_SECONDS", 0.05)
    await accept(two[0].store, run := a_run())
    watch = Watch(two[0].store, Notices(), SystemClock(), shared=True)
    following = watch.follow(Asker("org_caller"), run.id)
    assert await anext(following) == run
    await two[1].store.write(lambda tx: settle(tx, [run.id], DONE, START))
    async with asyncio.timeout(5):
        (last,) = [record async for record in following]
    assert isinstance(last, Run)
    assert last.status is Status.SUCCEEDED


async def test_a_race_that_is_lost_for_ever_is_told(db: Database) -> None:
    run, works = a_run(), []

    async def work(tx: Any) -> None:
        works.append(1)
        await tx.accept(run, INPUT)

    async with open_store(db) as store:
        await accept(store, run)
        with pytest.raises(IntegrityError):
            await store.write(work)
        assert len(works) == 2


async def test_what_may_have_been_committed_isnt_done_again(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server goes away between the commit and its answer."""
    write = db.write

    @asynccontextmanager
    async def unheard() -> AsyncIterator[AsyncConnection]:
        async with write() as connection:
            yield connection
        raise Unavailable("gone", retry_after=timedelta(seconds=1))

    async with open_store(db) as store:
        monkeypatch.setattr(db, "write", unheard)
        told = await asyncio.gather(*(accept(store, a_run()) for _ in range(5)), return_exceptions=True)
        assert {type(one) for one in told} == {Unavailable}
        # On a file of our own the commit that failed wasn't one; of a server nobody knows.
        again = None if db.shared else timedelta(seconds=1)
        assert {one.retry_after for one in told if isinstance(one, Unavailable)} == {again}
        assert await store.count_queued() == 5


async def test_while_it_is_away_everybody_is_told_at_once(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who came while another waited for it doesn't begin to wait anew."""
    begun, refused = asyncio.Event(), asyncio.Event()
    times: list[int] = []

    @asynccontextmanager
    async def away() -> AsyncIterator[AsyncConnection]:
        times.append(1)
        begun.set()
        await refused.wait()
        if times:
            raise Unavailable("away")
        yield cast(AsyncConnection, None)

    async with open_store(db) as store:
        monkeypatch.setattr(db, "write", away)
        first = [asyncio.ensure_future(accept(store, a_run())) for _ in range(25)]
        await begun.wait()
        later = [asyncio.ensure_future(accept(store, a_run())) for _ in range(25)]
        await asyncio.sleep(0)
        refused.set()
        told = await asyncio.gather(*first, *later, return_exceptions=True)
    assert {type(one) for one in told} == {Unavailable}
    assert len(times) == 1
