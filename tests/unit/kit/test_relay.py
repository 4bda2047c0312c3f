"""kit.db.relay: what the outbox does when the bus takes only some of it."""

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import cast

from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import MetaData, create_engine, select

from kit.bus import Bus
from kit.db import Database, emit, open_db, outbox_table, relay
from kit.errors import Unavailable

METADATA = MetaData()
OUTBOX = outbox_table(METADATA)


class FussyBus:
    """kit.bus.Bus, which refuses each subject in `refused` once."""

    def __init__(self, *refused: str) -> None:
        self.refused = set(refused)
        self.taken: list[str] = []
        self.ids: list[str] = []

    async def publish(self, subject: str, payload: bytes, *, event_id: str) -> None:
        await asyncio.sleep(0)
        if subject in self.refused:
            self.refused.discard(subject)
            raise Unavailable("not now")
        self.taken.append(subject)
        self.ids.append(event_id)


async def left(db: Database) -> int:
    async with db.read() as tx:
        return len((await tx.execute(select(OUTBOX.c.id))).all())


async def relayed(tmp_path: Path, bus: FussyBus) -> None:
    METADATA.create_all(create_engine(f"sqlite:///{tmp_path / 'a.db'}"))
    async with open_db(f"sqlite+aiosqlite:///{tmp_path / 'a.db'}") as db:
        relaying = asyncio.create_task(relay(db, OUTBOX, cast(Bus, bus)))
        async with db.write() as tx:
            await emit(tx, OUTBOX, *((f"event.{number}", Timestamp(seconds=number)) for number in range(5)))
        async with asyncio.timeout(10):
            while await left(db):  # noqa: ASYNC110  # a database tells nobody
                await asyncio.sleep(0.01)
        relaying.cancel()
        with suppress(asyncio.CancelledError):
            await relaying


async def test_events_go_out_by_their_ids_and_the_outbox_is_empty(tmp_path: Path) -> None:
    bus = FussyBus()
    await relayed(tmp_path, bus)
    assert sorted(bus.taken) == [f"event.{number}" for number in range(5)]
    assert bus.ids == sorted(bus.ids)


async def test_what_the_bus_refuses_is_sent_again_with_what_it_took(tmp_path: Path) -> None:
    """The bus knows by their ids which it has."""
    bus = FussyBus("event.2")
    await relayed(tmp_path, bus)
    assert set(bus.taken) == {f"event.{number}" for number in range(5)}
    assert bus.taken.count("event.2") == 1
    assert bus.taken.count("event.0") == 2
