"""Steps that a cancellation doesn't cut in two: it waits until they are done, and then goes on."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


async def whole(step: Awaitable[T]) -> T:
    """The step's result."""
    task = asyncio.ensure_future(step)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # seen; the cancellation is what counts
        raise


async def in_thread(work: Callable[[], T]) -> T:
    """As asyncio.to_thread, but whole: the thread is done with our descriptors when this ends."""
    return await whole(asyncio.to_thread(work))
