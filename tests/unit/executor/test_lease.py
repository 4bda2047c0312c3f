"""A lease as its executor keeps it."""

from dataclasses import dataclass, field
from datetime import timedelta

from executor.lease import LONGEST_EXTENSION, RELIED_ON, Beat, Lease
from kit.clock import FakeClock
from kit.errors import Conflict, Problem, Unavailable
from scheduler.reap import EXTENSION
from scheduler.renew import LEASE
from tests.fakes.executor import START

LENGTH = timedelta(seconds=20)
AWAY = Unavailable("failed to connect to all addresses")
NO_DATABASE = Unavailable("the database is away", retry_after=timedelta(seconds=1))


@dataclass
class FakeScheduler:
    fails: Problem | None = None
    beats: list[Beat] = field(default_factory=list)

    async def renew(self, beat: Beat) -> timedelta:
        self.beats.append(beat)
        if self.fails is not None:
            raise self.fails
        return LENGTH


class Rig:
    """`at`: seconds of a clock that nobody sets."""

    def __init__(self) -> None:
        self.scheduler, self.at = FakeScheduler(), 100.0
        self.losses: list[float] = []
        self.lease = Lease(self.scheduler, self.beat, FakeClock(START), lambda: self.at)
        self.lease._on_lost = self.lose

    def beat(self, incarnation: str, first: bool) -> Beat:
        return Beat(incarnation, first, 1, 2, draining=False)

    def holds(self) -> bool:
        return self.lease.held

    def lose(self) -> None:
        self.losses.append(self.at)

    async def after(self, seconds: float) -> None:
        self.at += seconds
        await self.lease.once()


async def test_it_is_renewed_every_fifth_of_its_time() -> None:
    rig = Rig()
    assert not rig.holds()
    for _ in range(40):
        await rig.after(0.5)
        assert rig.holds()
    assert len(rig.scheduler.beats) == 5
    assert len(rig.losses) == 0


async def test_it_ends_before_the_scheduler_gives_it_up() -> None:
    rig = Rig()
    await rig.after(0)
    rig.scheduler.fails = AWAY
    await rig.after(17.9)
    assert rig.holds()
    assert len(rig.losses) == 0
    await rig.after(0.2)
    assert not rig.holds()
    assert len(rig.losses) == 1
    await rig.after(5)
    assert len(rig.losses) == 1
    rig.scheduler.fails = None
    await rig.after(0.5)
    assert rig.holds()
    assert len({beat.incarnation for beat in rig.scheduler.beats}) == 1


async def test_one_that_stood_still_looks_before_it_does_anything_else() -> None:
    rig = Rig()
    await rig.after(0)
    await rig.after(60)
    assert len(rig.losses) == 1
    assert rig.holds()  # it was renewed: nobody had given it up


async def test_one_that_was_given_up_comes_back_as_another() -> None:
    rig = Rig()
    await rig.after(0)
    first = rig.lease.incarnation
    rig.scheduler.fails = Conflict("given up")
    await rig.after(4)
    assert len(rig.losses) == 1
    assert not rig.holds()
    rig.scheduler.fails = None
    await rig.after(0.5)
    assert rig.holds()
    assert rig.lease.incarnation != first
    assert [beat.first for beat in rig.scheduler.beats] == [True, False, True]


async def test_a_scheduler_without_its_database_cant_give_it_up() -> None:
    assert LONGEST_EXTENSION + RELIED_ON * LEASE <= LEASE + EXTENSION  # what schedulers allow
    rig = Rig()
    await rig.after(0)
    rig.scheduler.fails = NO_DATABASE
    for _ in range(30):
        await rig.after(4)
    assert rig.holds()
    assert rig.at > 100 + LONGEST_EXTENSION.total_seconds() - 4
    for _ in range(6):
        await rig.after(4)
    assert not rig.holds()
    assert len(rig.losses) == 1
