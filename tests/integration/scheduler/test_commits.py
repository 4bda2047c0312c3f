import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from kit.db import Database, open_db
from scheduler.model import Asker, Run
from scheduler.store.database import Store, open_store
from tests.fakes.scheduling import INPUT, a_run


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


async def accept(store: Store, run: Run) -> None:
    await store.write(lambda tx: tx.accept(run, INPUT))


async def test_a_burst_shares_a_few_transactions(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = count_transactions(db, monkeypatch)
    async with open_store(db, lambda _: None) as store:
        await asyncio.gather(*(accept(store, a_run()) for _ in range(200)))
        assert await store.count_queued() == 200
    assert len(begun) <= 3


async def test_a_work_outlives_its_caller(db: Database) -> None:
    run = a_run()
    async with open_store(db, lambda _: None) as store:
        caller = asyncio.create_task(accept(store, run))
        await asyncio.sleep(0)
        caller.cancel()
        await asyncio.gather(caller, return_exceptions=True)
    async with open_store(db, lambda _: None) as store:
        assert await store.find_run(Asker(""), run.id) == run


async def test_a_broken_watcher_doesnt_repeat_the_work(db: Database) -> None:
    def broken(_: Run) -> None:
        raise RuntimeError("watcher")

    works: list[Any] = []
    run = a_run()

    async def work(tx: Any) -> None:
        works.append(1)
        await tx.accept(run, INPUT)

    async with open_store(db, broken) as store:
        await store.write(work)
        await store.write(lambda tx: tx.runs([run.id]))
    assert works == [1]
