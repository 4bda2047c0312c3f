"""kit.db.relay: what the outbox does when the bus takes only some of it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import cast

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import MetaData, select
from sqlalchemy.ext.asyncio import AsyncConnection

from kit.bus import Bus
from kit.db import Database, emit, open_db, outbox_table, relay
from kit.errors import Unavailable
from tests.postgres import Server

METADATA = MetaData()
OUTBOX = outbox_table(METADATA)


class FussyBus:
    """kit.bus.Bus, which refuses each subject in `refused` once."""

    def __init__(self, *refused: str) -> None:
        self.refused = set(refused)
        self.taken: list[str] = []
        self.ids: list[str] = []
        self.seconds = 0.0

    async def publish(self, subject: str, payload: bytes, *, event_id: str) -> None:
        await asyncio.sleep(self.seconds)
        if subject in self.refused:
            self.refused.discard(subject)
            raise Unavailable("not now")
        self.taken.append(subject)
        self.ids.append(event_id)


async def left(db: Database) -> int:
    async with db.read() as tx:
        return len((await tx.execute(select(OUTBOX.c.id))).all())


@pytest.fixture
def url(database: Callable[[str], str]) -> str:
    return database("keys")


@asynccontextmanager
async def relaying(db: Database, *buses: FussyBus) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(relay(db, OUTBOX, cast(Bus, bus))) for bus in buses]
    yield
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def told(db: Database, numbers: Iterable[int]) -> None:
    async with db.write() as tx:
        await emit(tx, OUTBOX, *((f"event.{number}", Timestamp(seconds=number)) for number in numbers))


async def until_none_is_left(db: Database) -> None:
    async with asyncio.timeout(10):
        while await left(db):  # noqa: ASYNC110  # a database tells nobody
            await asyncio.sleep(0.01)


async def relayed(url: str, bus: FussyBus) -> None:
    async with open_db(url) as db, relaying(db, bus):
        await told(db, range(5))
        await until_none_is_left(db)


async def test_events_go_out_by_their_ids_and_the_outbox_is_empty(url: str) -> None:
    bus = FussyBus()
    await relayed(url, bus)
    assert sorted(bus.taken) == [f"event.{number}" for number in range(5)]
    assert bus.ids == sorted(bus.ids)


async def test_what_the_bus_refuses_is_sent_again_with_what_it_took(url: str) -> None:
    """The bus knows by their ids which it has."""
    bus = FussyBus("event.2")
    await relayed(url, bus)
    assert set(bus.taken) == {f"event.{number}" for number in range(5)}
    assert bus.taken.count("event.2") == 1
    assert bus.taken.count("event.0") == 2


async def test_two_processes_share_the_outbox(postgres: Server) -> None:
    """Only PostgreSQL has several."""
    url, buses = f"{postgres.url(postgres.migrated())}&schema=keys", (FussyBus(), FussyBus())
    for bus in buses:
        bus.seconds = 0.05
    async with open_db(url) as one, open_db(url) as other:
        await told(one, range(450))
        async with relaying(one, buses[0]), relaying(other, buses[1]):
            await until_none_is_left(one)
    assert sorted(buses[0].taken + buses[1].taken) == sorted(f"event.{number}" for number in range(450))
    assert all(bus.taken for bus in buses)


async def test_a_relay_outlives_its_database(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bus, looks = FussyBus(), 0

    @asynccontextmanager
    async def away() -> AsyncIterator[AsyncConnection]:
        nonlocal looks
        looks += 1
        if looks:
            raise Unavailable("away")
        yield cast(AsyncConnection, None)

    async with open_db(url) as db:
        with monkeypatch.context() as patched:
            patched.setattr(db, "read", away)
            patched.setattr(db, "write", away)
            async with relaying(db, bus):
                await asyncio.sleep(0.05)
                patched.undo()
                await told(db, range(3))
                await until_none_is_left(db)
    assert (looks, len(bus.taken)) == (1, 3)


async def test_it_ends_when_it_is_told_to_and_an_event_comes_at_the_same_time(url: str) -> None:
    async with open_db(url) as db:
        relaying = asyncio.create_task(relay(db, OUTBOX, cast(Bus, FussyBus())))
        await asyncio.sleep(0.2)  # it waits for events by now
        await told(db, range(1))
        relaying.cancel()
        await asyncio.wait({relaying}, timeout=5)
        assert relaying.cancelled()
