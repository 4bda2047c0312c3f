"""Room for uploads, on the fake store."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from filestore.addresses import Addresses
from filestore.files import Files
from filestore.model import File
from filestore.quota import LEASE, LEAST_AHEAD, Quota
from filestore.storage import Price, Room
from filestore.sweep import sweep_once
from kit.clock import FakeClock
from kit.errors import Conflict, Exhausted, Invalid, Unavailable
from tests.fakes.memory_files import MemoryBackend, MemoryFileStore, MemoryLedger

MIB = 1024 * 1024
MOST = 10 * MIB
START = datetime(2026, 1, 1, tzinfo=UTC)


class Rig:
    """Files with a quota, on fakes."""

    def __init__(self, store: MemoryFileStore | None = None) -> None:
        self.clock, self.store, self.backend = FakeClock(START), store or MemoryFileStore(), MemoryBackend()
        self.ledger = MemoryLedger(Price(1, START))
        self.files = Files(
            self.store,
            self.backend,
            Addresses(b"k" * 32, "http://x"),
            self.clock,
            Quota(self.store, self.clock, MOST),
            self.ledger,
            max_bytes=MOST * 10,
            lifetime=timedelta(days=7),
        )

    async def place(self, organization: str = "org_a") -> File:
        known = set(self.store.files)
        await self.files.create(organization, "a")
        (made,) = set(self.store.files) - known
        return self.store.files[made]

    async def upload(self, *pieces: bytes, size: int = 0, organization: str = "org_a") -> None:
        await self.files.fill(await self.place(organization), "", chunks(*pieces), size)


async def chunks(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def never() -> AsyncIterator[bytes]:
    for asked_for in (True,):
        assert not asked_for
        yield b""


@pytest.fixture
def rig() -> Rig:
    return Rig()


async def test_what_cannot_fit_is_refused_before_it_is_read(rig: Rig) -> None:
    await rig.upload(b"x" * 6 * MIB, size=6 * MIB)
    with pytest.raises(Exhausted, match=f"{MOST} bytes; {4 * MIB} are left") as caught:
        await rig.files.fill(await rig.place(), "", never(), 5 * MIB)
    assert caught.value.code == "too_large"
    assert (len(rig.backend.kept), rig.store.rooms) == (1, {})
    await rig.upload(b"x" * 4 * MIB, size=4 * MIB)


async def test_what_does_not_say_its_size_is_cut_off_where_it_passes(rig: Rig) -> None:
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += MIB
            yield b"x" * MIB

    with pytest.raises(Exhausted):
        await rig.files.fill(await rig.place(), "", endless())
    assert read == 11 * MIB
    assert (rig.backend.kept, rig.store.rooms) == ({}, {})
    await rig.upload(*[b"x" * MIB] * 10)


async def test_another_organization_has_its_own(rig: Rig) -> None:
    await rig.upload(b"x" * MOST)
    await rig.upload(b"x" * MOST, organization="org_b")
    with pytest.raises(Exhausted):
        await rig.upload(b"x")
    await rig.upload(b"")


async def test_uploads_under_way_count_for_one_another(rig: Rig) -> None:
    go = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"x" * MIB
        await go.wait()
        yield b"x" * 5 * MIB

    first = asyncio.create_task(rig.files.fill(await rig.place(), "", slow(), 6 * MIB))
    await asyncio.sleep(0)
    with pytest.raises(Exhausted):
        await rig.upload(b"x" * 5 * MIB, size=5 * MIB)
    with pytest.raises(Exhausted):
        await rig.upload(b"x" * 3 * MIB, b"x" * 3 * MIB)
    await rig.upload(b"x" * 4 * MIB)
    go.set()
    await first
    assert rig.store.storage["org_a"].kept == MOST


@pytest.mark.parametrize("size", [0, 3 * MIB])
async def test_a_broken_upload_gives_its_room_back(rig: Rig, size: int) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"x" * MIB
        assert len(rig.store.rooms) == 1
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await rig.files.fill(await rig.place(), "", broken(), size)
    assert rig.store.rooms == {}
    await rig.upload(b"x" * MOST)


async def test_a_cancelled_upload_gives_its_room_back(rig: Rig) -> None:
    async def stuck() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.Event().wait()

    task = asyncio.create_task(rig.files.fill(await rig.place(), "", stuck(), MOST))
    await asyncio.sleep(0)
    assert len(rig.store.rooms) == 1
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert rig.store.rooms == {}


async def test_one_that_was_faster_leaves_no_room_of_the_other(rig: Rig) -> None:
    place = await rig.place()
    await rig.files.fill(place, "", chunks(b"one"), 3)
    with pytest.raises(Conflict):
        await rig.files.fill(place, "", chunks(b"two"), 3)
    assert (len(rig.backend.kept), rig.store.rooms) == (1, {})
    assert rig.store.storage["org_a"].kept == 3


async def test_what_goes_gives_room_back(rig: Rig) -> None:
    await rig.upload(b"x" * MOST)
    await rig.clock.advance(7 * 24 * 3600)
    await sweep_once(rig.store, rig.backend, rig.clock)
    await rig.upload(b"x" * MOST)


async def test_the_room_of_one_that_crashed_is_free_after_a_while(rig: Rig) -> None:
    """Its process is gone: nobody leaves it."""
    await rig.store.take(Room("room_1", "org_a", MOST, START + LEASE), MOST, MOST, START)
    with pytest.raises(Exhausted):
        await rig.upload(b"x" * MOST, size=MOST)
    await rig.clock.advance(LEASE.total_seconds())
    await rig.upload(b"x" * MOST, size=MOST)
    await sweep_once(rig.store, rig.backend, rig.clock)
    assert rig.store.rooms == {}


@pytest.mark.parametrize("size", [0, MOST])
async def test_a_slow_upload_keeps_its_room(rig: Rig, size: int) -> None:
    async def slow() -> AsyncIterator[bytes]:
        yield b"x" * 5 * MIB
        for _ in range(100):
            await rig.clock.advance(119)
            yield b"x"
        with pytest.raises(Exhausted):
            await rig.upload(b"x" * 5 * MIB, size=5 * MIB)

    assert LEASE.total_seconds() < 100 * 119
    await rig.files.fill(await rig.place(), "", slow(), size)
    assert rig.store.storage["org_a"].kept == 5 * MIB + 100


class Away(MemoryFileStore):
    """Doesn't answer while it is said to be away."""

    is_away = False

    async def take(self, *arguments: Any) -> int:
        taken = await super().take(*arguments)
        if self.is_away:
            raise Unavailable("away")
        return taken

    async def leave(self, room_id: str) -> None:
        if self.is_away:
            raise Unavailable("away")
        await super().leave(room_id)


async def test_a_database_that_is_away_for_a_moment_does_not_break_a_slow_upload() -> None:
    store = Away()
    rig = Rig(store)

    async def slow() -> AsyncIterator[bytes]:
        yield b"x"
        for store.is_away in (True, False):
            await rig.clock.advance(119)
            yield b"x"

    await rig.files.fill(await rig.place(), "", slow(), 3)
    assert (store.storage["org_a"].kept, store.rooms) == (3, {})


async def test_room_that_cannot_be_had_or_left_now_is_told_and_goes_with_its_time() -> None:
    store = Away()
    rig = Rig(store)
    store.is_away = True
    with pytest.raises(Unavailable):
        await rig.upload(b"x", size=1)
    store.is_away = False
    assert len(store.rooms) == 1
    await rig.clock.advance(LEASE.total_seconds())
    await sweep_once(store, rig.backend, rig.clock)
    assert store.rooms == {}


async def test_no_more_than_needed_is_taken_of_the_last_room(rig: Rig) -> None:
    await rig.upload(b"x" * (MOST - LEAST_AHEAD), size=MOST - LEAST_AHEAD)
    await rig.upload(b"x" * LEAST_AHEAD)
    assert rig.store.storage["org_a"].kept == MOST


async def test_the_limit_of_one_file_comes_first(rig: Rig) -> None:
    with pytest.raises(Invalid, match="a file has at most"):
        await rig.files.fill(await rig.place(), "", never(), MOST * 10 + 1)
    assert rig.store.rooms == {}


async def test_without_credit_there_is_a_place_only_where_storage_is_free(rig: Rig) -> None:
    with pytest.raises(Exhausted, match="no credits") as caught:
        await rig.files.create("org_a", "a", without_credit=True)
    assert (caught.value.code, rig.store.files) == ("payment_required", {})
    rig.ledger.known = (Price(0, START),)
    await rig.files.create("org_a", "a", without_credit=True)
    rig.ledger.away = True
    with pytest.raises(Unavailable):
        await rig.files.create("org_a", "a", without_credit=True)
    await rig.files.create("org_a", "a")
