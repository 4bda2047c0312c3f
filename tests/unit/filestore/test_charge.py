"""What is kept is charged, once, whatever is away or crashes."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from filestore.charge import PERIOD, Charge
from filestore.model import Content, File, Stored
from filestore.storage import MEGABYTE, Price
from filestore.sweep import sweep, sweep_once
from kit.clock import FakeClock
from kit.errors import Unavailable
from tests.fakes.memory_files import MemoryBackend, MemoryFileStore, MemoryLedger

START = datetime(2026, 1, 1, tzinfo=UTC)
HOUR, DAY = 3600.0, 24 * 3600.0
PRICE = Price(700_000, START - timedelta(days=900))


class Rig:
    """A charge on fakes."""

    def __init__(self) -> None:
        self.clock, self.store, self.ledger = FakeClock(START), MemoryFileStore(), MemoryLedger(PRICE)
        self.charge = Charge(self.store, self.ledger, self.clock)

    async def keep(self, name: str, size: int, days: float = 7, organization: str = "org_a") -> None:
        now = self.clock.now()
        content = Content("a/b", Stored("ab" * 32, size), f"files/{name}")
        file = File(name, organization, "a", now, now + timedelta(days=days), content)
        await self.store.add(replace(file, content=None))
        await self.store.fill(file, "", 2**50, now)

    async def round(self) -> None:
        """What the loops do every minute."""
        await sweep_once(self.store, MemoryBackend(), self.clock)
        await self.charge.close()
        await self.charge.send()

    def booked(self) -> list[tuple[str, int, int]]:
        return [(bill.organization_id, bill.mb_days, bill.amount) for bill in self.ledger.booked.values()]


@pytest.fixture
def rig() -> Rig:
    return Rig()


async def test_files_are_charged_every_hour(rig: Rig) -> None:
    await rig.keep("file_1", 240 * MEGABYTE)
    await rig.keep("file_2", 24 * MEGABYTE, organization="org_b")
    await rig.clock.advance(HOUR - 1)
    await rig.round()
    assert rig.booked() == []
    await rig.clock.advance(1)
    await rig.round()
    assert sorted(rig.booked()) == [("org_a", 10, 7), ("org_b", 1, 1)]
    await rig.round()
    assert len(rig.booked()) == 2


async def test_a_week_of_a_file_costs_what_it_should(rig: Rig) -> None:
    """700 MB days of a file, looked at every minute or two."""
    await rig.keep("file_1", 100 * MEGABYTE)
    while rig.clock.now() < START + timedelta(days=8):
        await rig.clock.advance(97)
        await rig.round()
    assert sum(mb_days for _, mb_days, _ in rig.booked()) == 700
    assert abs(sum(amount for *_, amount in rig.booked()) - 490) <= len(rig.booked()) / 2
    assert rig.store.files == {}


async def test_a_file_is_not_charged_while_the_store_was_down_after_its_end(rig: Rig) -> None:
    await rig.keep("file_1", 100 * MEGABYTE, days=1)
    await rig.clock.advance(10 * DAY)
    await rig.round()
    assert rig.booked() == [("org_a", 100, 70)]


async def test_a_ledger_that_is_away_gets_everything_later(rig: Rig) -> None:
    await rig.keep("file_1", 24 * MEGABYTE)
    await rig.clock.advance(HOUR)
    rig.ledger.books = False
    with pytest.raises(Unavailable):
        await rig.charge.close()
    assert len(rig.store.bills) == 1
    rig.ledger.books, rig.ledger.away = True, True
    with pytest.raises(Unavailable):
        await rig.charge.send()
    await rig.clock.advance(HOUR)
    with pytest.raises(Unavailable):
        await rig.charge.close()
    await rig.clock.advance(HOUR)
    rig.ledger.away = False
    await rig.round()
    assert sorted(rig.booked()) == [("org_a", 1, 1), ("org_a", 2, 1)]


async def test_what_was_booked_and_not_heard_of_is_sent_again_as_it_was(rig: Rig) -> None:
    await rig.keep("file_1", 24 * MEGABYTE)
    await rig.clock.advance(HOUR)
    rig.ledger.deaf = True
    with pytest.raises(Unavailable):
        await rig.charge.close()
    for _ in range(3):
        with pytest.raises(Unavailable):
            await rig.charge.send()
    rig.ledger.deaf = False
    assert await rig.charge.send() == 1
    assert await rig.charge.send() == 0
    assert rig.booked() == [("org_a", 1, 1)]


async def test_a_period_has_the_price_of_its_beginning(rig: Rig) -> None:
    changed = START + PERIOD / 2
    rig.ledger.known = (replace(PRICE, until=changed), Price(7_000_000, changed))
    await rig.keep("file_1", 240 * MEGABYTE)
    for _ in range(2):
        await rig.clock.advance(HOUR)
        await rig.round()
    assert rig.booked() == [("org_a", 10, 7), ("org_a", 10, 70)]


async def test_many_organizations_are_all_charged(rig: Rig) -> None:
    for n in range(250):
        await rig.keep(f"file_{n}", 24 * MEGABYTE, organization=f"org_{n}")
    await rig.clock.advance(HOUR)
    await rig.charge.close()
    while await rig.charge.send():
        pass
    assert len({organization for organization, *_ in rig.booked()}) == 250


async def test_the_loops_outlive_a_ledger_that_is_away(rig: Rig) -> None:
    await rig.keep("file_1", 24 * MEGABYTE)
    rig.ledger.away = True
    loops = sweep(rig.store, MemoryBackend(), rig.clock, rig.charge.close), rig.charge.run()
    tasks = [asyncio.create_task(loop) for loop in loops]
    await rig.clock.advance(HOUR)
    assert not any(task.done() for task in tasks)
    rig.ledger.away = False
    for _ in range(2):
        await rig.clock.advance(60)
    assert rig.booked() == [("org_a", 1, 1)]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
