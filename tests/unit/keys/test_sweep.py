"""When the sweep looks; what it does is in tests/contract/test_ledger.py."""

import asyncio
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta

from keys.money import Purse
from keys.sweep import GRACE_SECONDS, SWEEP_SECONDS, Due, Sweep, SweepChange
from kit.clock import FakeClock
from kit.errors import Unavailable


class Looked:
    """Purses that there are none of; the first look meets a database that is away."""

    def __init__(self) -> None:
        self.before: list[datetime] = []

    def change(self) -> AbstractAsyncContextManager[SweepChange]:
        raise AssertionError("nothing is to be swept")

    async def left(self, due: Due, limit: int) -> list[Purse]:
        self.before.append(due.kept_before)
        if len(self.before) == 1:
            raise Unavailable("away")
        return []

    async def sweep_empty(self, due: Due, at: datetime, limit: int) -> int:
        return 0


async def test_it_waits_for_executors_after_a_start_and_goes_on_when_the_database_was_away(clock: FakeClock) -> None:
    purses, started = Looked(), clock.now()
    running = asyncio.create_task(Sweep(purses, clock).run())
    await asyncio.sleep(0)
    await clock.advance(GRACE_SECONDS - 1)
    assert purses.before == []
    await clock.advance(1)
    await clock.advance(SWEEP_SECONDS)
    assert purses.before == [started + timedelta(seconds=seconds) for seconds in (-30, -25)]
    assert not running.done()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
