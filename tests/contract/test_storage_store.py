"""The ports Rooms and Periods of the filestore, and what of FileStore keeps the sums: on the fake and on SQL."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.engine import Engine

from filestore.model import Content, File, Stored
from filestore.storage import MEGABYTE, Room, Storage, StorageBill
from filestore.storage_store import SqlStorage
from filestore.store import SqlFileStore
from kit.db import Database, open_db
from kit.errors import Conflict, Exhausted
from tests.databases import database_url
from tests.fakes.memory_files import MemoryFileStore

NOW = datetime(2026, 1, 1, 12, 0, 0, 123456, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
PRICE = 700_000
MOST = 100


class Sql(SqlFileStore, SqlStorage):
    """Both stores on one database."""


Store = MemoryFileStore | Sql


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of the database; empty for the fake."""
    return "" if request.param == "memory" else database_url(request, request.param, tmp_path, "filestore")


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    if not url:
        yield MemoryFileStore()
        return
    async with open_db(url) as database:
        yield Sql(database)


def a_room(name: str, size: int, organization: str = "org_a", expires_at: datetime = NOW + HOUR) -> Room:
    return Room(name, organization, size, expires_at)


def filled(name: str, size: int, organization: str = "org_a", expires_at: datetime = NOW + DAY) -> File:
    content = Content("text/plain", Stored("ab" * 32, size), f"files/_1/{name}/1")
    return File(name, organization, "a.txt", NOW, expires_at, content)


async def kept(store: Store, file: File, room: str = "", most: int = MOST, now: datetime = NOW) -> File:
    await store.add(replace(file, content=None))
    await store.fill(file, room, most, now)
    return file


async def left(store: Store, organization: str = "org_a", most: int = MOST, now: datetime = NOW) -> int:
    """Of the quota: what a room would get that takes all."""
    size = await store.take(a_room("room_probe", most, organization), 0, most, now)
    await store.leave("room_probe")
    return size


async def the_period(store: Store, now: datetime = NOW + 900 * DAY) -> Storage:
    (found,) = await store.due(now, 10)
    return found


async def test_rooms_and_files_count_together_and_for_their_organization_only(store: Store) -> None:
    assert await store.take(a_room("room_1", 30), 30, MOST, NOW) == 30
    await kept(store, filled("file_1", 50))
    assert await left(store) == 20
    assert await left(store, "org_b") == MOST
    with pytest.raises(Exhausted) as caught:
        await store.take(a_room("room_2", 21), 21, MOST, NOW)
    assert caught.value.code == "too_large"
    assert await left(store) == 20
    assert await store.take(a_room("room_2", 90), 5, MOST, NOW) == 20
    await store.leave("room_1")
    await store.leave("room_1")
    assert await left(store) == 30


async def test_a_room_grows_in_its_place(store: Store) -> None:
    assert await store.take(a_room("room_1", 60), 60, MOST, NOW) == 60
    assert await store.take(a_room("room_1", 150), 70, MOST, NOW) == MOST
    assert await left(store) == 0
    with pytest.raises(Exhausted):
        await store.take(a_room("room_1", 101), 101, MOST, NOW)
    await store.leave("room_1")
    assert await left(store) == MOST


async def test_a_room_that_nobody_keeps_goes_with_its_time(store: Store) -> None:
    await store.take(a_room("room_1", 60), 60, MOST, NOW)
    assert await left(store, now=NOW + HOUR - timedelta(seconds=1)) == 40
    await store.forget_rooms(NOW + HOUR - timedelta(seconds=1))
    assert await left(store) == 40
    assert await left(store, now=NOW + HOUR) == MOST
    await store.forget_rooms(NOW + HOUR)
    assert await left(store) == MOST


async def test_a_file_takes_the_place_of_its_room(store: Store) -> None:
    await store.take(a_room("room_1", 70), 70, MOST, NOW)
    await kept(store, filled("file_1", 60), "room_1")
    assert await left(store) == 40


async def test_a_file_whose_room_has_gone_must_fit_all_the_same(store: Store) -> None:
    await store.take(a_room("room_1", 60), 60, MOST, NOW)
    later = NOW + HOUR
    await store.take(a_room("room_2", 50, expires_at=later + HOUR), 50, MOST, later)
    with pytest.raises(Exhausted):
        await kept(store, filled("file_1", 60), "room_1", now=later)
    found = await store.get("file_1")
    assert found is not None
    assert found.content is None
    assert await left(store, now=later) == 50


async def test_one_that_is_refused_counts_nothing(store: Store) -> None:
    file = await kept(store, filled("file_1", 60))
    with pytest.raises(Conflict):
        await store.fill(file, "", MOST, NOW)
    assert await left(store) == 40


async def test_files_that_go_give_their_room_back_once(store: Store) -> None:
    one, two = await kept(store, filled("file_1", 60)), await kept(store, filled("file_2", 30))
    empty = replace(filled("file_3", 0), content=None)
    await store.add(empty)
    for _ in range(2):
        await store.remove(one, NOW)
        await store.remove(empty, NOW)
    assert await left(store) == 70
    await asyncio.gather(*(store.remove(two, NOW) for _ in range(4)))
    assert await left(store) == MOST


async def test_many_at_once_never_take_more_than_there_is(store: Store) -> None:
    """Rooms that are taken, filled and left, and files that go, all at the same time."""

    connections = asyncio.Semaphore(4)  # no more than there are: nobody is to give up waiting for one

    async def upload(number: int) -> int:
        async with connections:
            return await once(number)

    async def once(number: int) -> int:
        name, size = f"room_{number}", 10 + number % 3
        with suppress(Exhausted):
            await store.take(a_room(name, size), size, MOST, NOW)
            if number % 4 == 0:
                await store.leave(name)
                return 0
            file = await kept(store, filled(f"file_{number}", size), name)
            if number % 4 == 1:
                await store.remove(file, NOW)
                return 0
            return size
        return 0

    sizes = await asyncio.gather(*(upload(number) for number in range(40)))
    assert 0 < sum(sizes) <= MOST
    assert await left(store) == MOST - sum(sizes)


async def test_the_counter_is_the_sum_of_the_files(database: Callable[[str], str]) -> None:
    async with open_db(database("filestore")) as db:
        store = Sql(db)
        files = [await kept(store, filled(f"file_{n}", 3 + n, f"org_{n % 2}"), most=10**6) for n in range(20)]
        for file in files[::3]:
            await store.remove(file, NOW + DAY)
        async with db.read() as tx:
            counters = await tx.execute(text("SELECT organization_id, kept FROM storage"))
            sums = await tx.execute(text("SELECT organization_id, SUM(size) FROM files GROUP BY organization_id"))
            found = {row[0]: int(row[1]) for row in counters}
            assert found == {row[0]: int(row[1]) for row in sums}
        assert sum(found.values()) == sum(range(3, 23)) - sum(range(3, 23, 3))


async def test_a_check_reads_no_file(database: Callable[[str], str]) -> None:
    """However many there are: none of its statements names their table."""
    said: list[str] = []

    def note(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        said.append(statement)

    async with open_db(database("filestore")) as db:
        store = Sql(db)
        event.listen(Engine, "before_cursor_execute", note)
        try:
            await store.take(a_room("room_1", 60), 60, MOST, NOW)
        finally:
            event.remove(Engine, "before_cursor_execute", note)
    assert any("rooms" in statement for statement in said)
    assert not any("files" in statement for statement in said)


async def test_a_period_ends_with_a_bill_once(store: Store) -> None:
    await kept(store, filled("file_1", 48 * MEGABYTE), most=10**9)
    assert await store.due(NOW - timedelta(microseconds=1), 10) == []
    period = await the_period(store, NOW)
    assert (period.organization_id, period.kept, period.since) == ("org_a", 48 * MEGABYTE, NOW)
    await asyncio.gather(*(store.close(period, PRICE, NOW + HOUR) for _ in range(3)))
    await store.close(period, PRICE, NOW + 9 * HOUR)  # its price isn't that of the next one
    async with store.due_bills(10) as bills:
        assert [replace(bill, id="") for bill in bills] == [StorageBill("", "org_a", 2, 1, NOW + HOUR)]
    async with store.due_bills(10) as bills:
        assert bills == []
    assert await store.due(NOW + HOUR - timedelta(microseconds=1), 10) == []
    after = await the_period(store)
    assert (after.mb_days, after.rest, after.since) == (0, 0, NOW + HOUR)


async def test_what_is_gone_is_due_as_long_as_it_is_not_on_a_bill(store: Store) -> None:
    file = await kept(store, filled("file_1", 24 * MEGABYTE, expires_at=NOW + HOUR), most=10**9)
    await store.remove(file, NOW + 2 * HOUR)
    period = await the_period(store)
    assert (period.kept, period.mb_days) == (0, 1)
    await store.close(period, PRICE, NOW + 2 * HOUR)
    assert await store.due(NOW + 900 * DAY, 10) == []
    async with store.due_bills(10) as bills:
        assert [bill.mb_days for bill in bills] == [1]


async def test_bills_stay_until_they_were_sent(store: Store) -> None:
    for n in range(3):
        await kept(store, filled(f"file_{n}", 24 * MEGABYTE, f"org_{n}", NOW + DAY), most=10**9)
    for period in await store.due(NOW + DAY, 10):
        await store.close(period, PRICE, NOW + DAY)
    with suppress(ConnectionError):
        async with store.due_bills(10) as bills:
            raise ConnectionError
    async with store.due_bills(2) as some:
        assert some == bills[:2]
    async with store.due_bills(10) as rest:
        assert rest == bills[2:]
    assert [bill.mb_days for bill in bills] == [24] * 3


async def test_two_that_send_take_different_bills(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Only one process has SQLite's file."""
    url = database_url(request, "postgres", tmp_path, "filestore")
    async with open_db(url) as one, open_db(url) as two:
        first, second = Sql(one), Sql(two)
        for n in range(2):
            await kept(first, filled(f"file_{n}", 24 * MEGABYTE, f"org_{n}"), most=10**9)
        for period in await first.due(NOW, 10):
            await first.close(period, PRICE, NOW + HOUR)
        async with first.due_bills(1) as mine, second.due_bills(10) as others:
            assert len(mine) == len(others) == 1
            assert mine != others
        assert await rows(one, "storage_bills") == 0


async def rows(db: Database, table: str) -> int:
    async with db.read() as tx:
        return int((await tx.execute(text(f"SELECT count(*) FROM {table}"))).scalar_one())
