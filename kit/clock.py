"""Time as a dependency: use cases take a Clock, tests give them a fake one that they move by hand."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """Wall time for records, sleeping for loops."""

    def now(self) -> datetime: ...

    async def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """The real one."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class FakeClock:
    """Stands still until `advance`; sleepers wake when their time has come."""

    def __init__(self, start: datetime) -> None:
        self._now = start
        self._sleepers: list[tuple[datetime, asyncio.Future[None]]] = []

    def now(self) -> datetime:
        return self._now

    async def sleep(self, seconds: float) -> None:
        until = self._now + timedelta(seconds=seconds)
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((until, waiter))
        await waiter

    async def advance(self, seconds: float) -> None:
        """Moves the time on and lets the woken run until they wait again."""
        self._now += timedelta(seconds=seconds)
        due = [waiter for until, waiter in self._sleepers if until <= self._now]
        self._sleepers = [(until, waiter) for until, waiter in self._sleepers if until > self._now]
        for waiter in due:
            if not waiter.done():
                waiter.set_result(None)
        for _ in range(10):
            await asyncio.sleep(0)
