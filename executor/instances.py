"""Processes that serve one request after the other (`isolation = "instance"`): each call takes one that is idle."""

import asyncio
import os
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Protocol

from executor.cgroups import Usage
from executor.sandbox import Event, Exit, Head, Process, Sandbox
from kit.clock import Clock

MOST_IDLE = 32  # of one workflow
PATIENCE = timedelta(minutes=5)


class Instance(Sandbox, Protocol):
    """A sandbox that can serve again when it has served to the end."""

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""

    @property
    def is_finished(self) -> bool:
        """Whether it has served, to the end."""

    def lend(self) -> Process:
        """What one request needs."""

    def usage(self) -> Usage:
        """All that it has used so far; nothing once it is gone."""


class Turn:
    """One call's use of an instance: `executor.sandbox.Sandbox`. What doesn't finish properly isn't used again."""

    def __init__(self, instance: Instance, before: Usage, idle: Callable[[Instance, Usage], bool]) -> None:
        """`before` is what it had used when the last call ended; `idle` is told what it has when this one does."""
        self.process = instance.lend()
        self.obstacle = ""
        self._instance = instance
        self._before = before
        self._idle = idle
        self._seen = Usage()
        self._closing: asyncio.Task[Exit] | None = None

    async def ready(self, timeout: float) -> None:
        """Errors: StartFailed."""
        await self._instance.ready(timeout)

    async def openapi(self) -> str:
        """Errors: Crashed."""
        return await self._instance.openapi()

    def serve(self, request: Head, body: AsyncIterator[bytes]) -> AsyncIterator[Event]:
        """Errors: as the instance's."""
        return self._instance.serve(request, body)

    async def tell(self, payload: bytes) -> None:
        """Errors: as the instance's."""
        await self._instance.tell(payload)

    async def caller_gone(self) -> None:
        """Tells the app."""
        await self._instance.caller_gone()

    def usage(self) -> Usage:
        """Of this call, so far; the peak of memory is that of all."""
        return self._own(self._instance.usage())

    async def close(self) -> Exit:
        """Gives it back, or ends it; the peak of memory is that of all calls so far. Idempotent.

        Goes on when its caller is cancelled.
        """
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        return await asyncio.shield(self._closing)

    async def _close(self) -> Exit:
        self.process.close_ways()
        instance = self._instance
        if instance.is_finished and not instance.is_over:
            used = instance.usage()
            if used.cpu_seconds >= self._before.cpu_seconds and self._idle(instance, used):
                return Exit(used=self._own(used))
        exited = await end(instance)
        return replace(exited, used=self._own(exited.used))

    def _own(self, used: Usage) -> Usage:
        """What was seen stays: of a process that is gone nothing can be read any more."""
        before, seen = self._before, self._seen
        self._seen = Usage(
            max(seen.cpu_seconds, used.cpu_seconds - before.cpu_seconds),
            max(seen.memory_peak, used.memory_peak),
            max(seen.oom_kills, used.oom_kills - before.oom_kills),
        )
        return self._seen


class Idle:
    """Instances that wait, by what they are good for."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiting: OrderedDict[str, deque[tuple[datetime, Instance, Usage]]] = OrderedDict()

    def put(self, key: str, instance: Instance, used: Usage) -> bool:
        """With what it has used so far. False when there are enough."""
        waiting = self._waiting.setdefault(key, deque())
        if len(waiting) >= MOST_IDLE:
            return False
        waiting.append((self._clock.now(), instance, used))
        return True

    def take(self, key: str) -> tuple[Instance, Usage] | None:
        """The one that served last and lives, if any; the dead stay for `old`."""
        waiting = self._waiting.get(key, deque())
        for item in reversed(waiting):
            if not item[1].is_over:
                waiting.remove(item)
                return item[1:]
        return None

    def old(self, horizon: datetime | None = None) -> Iterator[Instance]:
        """Takes out what has waited since before `horizon`, the dead, or all."""
        for key in list(self._waiting):
            waiting = self._waiting[key]
            for item in list(waiting):
                since, instance, _ = item
                if horizon is None or since < horizon or instance.is_over:
                    waiting.remove(item)
                    yield instance
            if not waiting:
                del self._waiting[key]


async def end(sandbox: Sandbox) -> Exit:
    """Closes a sandbox whose pipes nobody reads."""
    exited = await sandbox.close()
    for pipe in (sandbox.process.stdout, sandbox.process.stderr):
        os.close(pipe)
    return exited
