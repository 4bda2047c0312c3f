"""How loops wait for the next thing to do."""

import asyncio

from kit.clock import Clock


async def woken(wake: asyncio.Event, clock: Clock, seconds: float) -> None:
    """Returns when `wake` is set, or after that time."""
    waits = [asyncio.ensure_future(wait) for wait in (wake.wait(), clock.sleep(seconds))]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
