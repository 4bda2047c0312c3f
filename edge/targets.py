"""What a reference stands for right now: Workflows.Resolve, remembered for less than a second."""

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from edge.run_model import Resolved, Target

LIFE_SECONDS = 0.9
MAX_ENTRIES = 10_000


class Directory(Protocol):
    """The scheduler's."""

    async def resolve(self, organization_id: str, reference: str) -> Resolved:
        """Errors: NotFound."""


class Workflows(Protocol):
    """What calls are led by."""

    async def resolve(self, organization_id: str, reference: str) -> Target:
        """For one call: where several versions share a workflow's calls, drawn by their shares. Errors: NotFound."""


class Targets:
    """`Workflows` that asks the directory once for callers at the same time and just after."""

    def __init__(self, source: Directory, tick: Callable[[], float] = time.monotonic) -> None:
        self._source = source
        self._tick = tick
        self._known: dict[tuple[str, str], tuple[float, Resolved]] = {}
        self._asking: dict[tuple[str, str], asyncio.Task[Resolved]] = {}

    async def resolve(self, organization_id: str, reference: str) -> Target:
        """Errors: NotFound (which is never remembered)."""
        key = (organization_id, reference)
        born, known = self._known.get(key, (float("-inf"), None))
        if known is not None and self._tick() - born < LIFE_SECONDS:
            return known.draw()
        if key not in self._asking:
            task = self._asking[key] = asyncio.create_task(self._ask(key))
            # Looked at even when nobody waits any more: else Python complains in the log.
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
        # Shielded: a caller who hangs up must not take the answer away from the others.
        return (await asyncio.shield(self._asking[key])).draw()

    def forget(self) -> None:
        """Some workflow has changed; a question under way may bring back what it was."""
        self._known.clear()
        self._asking.clear()

    async def _ask(self, key: tuple[str, str]) -> Resolved:
        asked, task = self._tick(), asyncio.current_task()
        try:
            resolved = await self._source.resolve(*key)
            if self._asking.get(key) is task:
                if len(self._known) >= MAX_ENTRIES:
                    self._known.clear()
                self._known[key] = (asked, resolved)
            return resolved
        finally:
            if self._asking.get(key) is task:
                del self._asking[key]
