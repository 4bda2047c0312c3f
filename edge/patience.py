"""Waiting no longer than a limit, by a clock that tests can move."""

import asyncio
from collections.abc import Coroutine
from datetime import timedelta
from typing import Any, Self, TypeVar

from kit.clock import Clock

T = TypeVar("T")


async def within(clock: Clock, limit: timedelta, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled when `limit` has passed. Errors: TimeoutError, and those of `work`."""
    task = asyncio.create_task(work)
    timer = asyncio.create_task(clock.sleep(limit.total_seconds()))
    try:
        await asyncio.wait({task, timer}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise TimeoutError
        return task.result()
    finally:
        task.cancel()
        timer.cancel()
        await asyncio.gather(task, timer, return_exceptions=True)


class Errands:
    """Work that outlives the call that began it. Enter it once per process; leaving gives it `grace` seconds."""

    def __init__(self, grace: float) -> None:
        self._grace = grace
        self._tasks: set[asyncio.Task[None]] = set()

    def send(self, work: Coroutine[Any, Any, None]) -> None:
        """Begins it. What it raises is nobody's business: it must report by itself."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._grace)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
