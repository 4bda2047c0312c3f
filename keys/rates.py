"""Permits for calls, for all replicas of the edge together: token buckets, each a row.

A bucket holds `limit` permits and is filled with as many each window, by the clock of whichever replica is asked; one
that is behind fills nothing until it has caught up. So in a time of length T no more is granted than
`limit * (1 + T / window)`. A bucket that there is no row of is full: rows that aren't used are swept.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from kit.clock import Clock
from kit.errors import Invalid
from kit.telemetry import tried_again

MOST_BUCKETS = 100
MOST_PERMITS = 1_000_000
MOST_WINDOW_MS = 3_600_000
SWEEP_SECONDS = 600.0
# More than a window: full by then.
IDLE = timedelta(hours=2)
# A bucket that is further ahead was filled by a clock that has been set back since.
MOST_AHEAD = timedelta(minutes=1)
# What a level counts: a permit is that many of them.
PARTS = 1_000_000
_BUCKET = re.compile(r"(key|organization|service|open):[A-Za-z0-9_.-]{1,180}(:api)?")


@dataclass(frozen=True)
class Wanted:
    """Up to `want` permits of a bucket; 0: only to see what is in it."""

    bucket: str
    limit: int
    window_ms: int
    want: int

    def check(self) -> None:
        """Errors: Invalid."""
        if not _BUCKET.fullmatch(self.bucket):
            raise Invalid(f"{self.bucket[:100]!r} is no name of a bucket")
        if not (1 <= self.limit <= MOST_PERMITS and 1 <= self.window_ms <= MOST_WINDOW_MS):
            raise Invalid(f"a limit is 1 to {MOST_PERMITS} in 1 to {MOST_WINDOW_MS} ms")
        if not 0 <= self.want <= self.limit:
            raise Invalid("want is 0 to limit")


@dataclass(frozen=True)
class Level:
    """How full a bucket was, in millionths of a permit, and when."""

    level: int
    at: datetime


@dataclass(frozen=True)
class Permits:
    """What is granted, what is left, and in how many ms there is another one (0: now), and the bucket is full."""

    granted: int
    remaining: int
    wait_ms: int
    reset_ms: int


Rule = Callable[[Mapping[str, Level]], Mapping[str, Level]]


class BucketStore(Protocol):
    """The rows."""

    async def change(self, full: Mapping[str, Level], rule: Rule) -> None:
        """Makes those of `full` that aren't there; hands all of them to `rule`, held; keeps what it returns. Rows are
        held in the order of their ids.
        """
        ...

    async def sweep(self, before: datetime) -> int:
        """Forgets those that weren't changed since; how many."""
        ...


class TakePermits:
    """Takes permits from buckets."""

    def __init__(self, buckets: BucketStore, clock: Clock) -> None:
        self._buckets = buckets
        self._clock = clock

    async def __call__(self, wanted: Sequence[Wanted]) -> list[Permits]:
        """As many of each as there are, in the order of `wanted`; all in one transaction. Errors: Invalid."""
        for each in wanted:
            each.check()
        by_name = {each.bucket: each for each in wanted}
        if len(by_name) != len(wanted) or len(wanted) > MOST_BUCKETS:
            raise Invalid(f"a bucket is asked once in a request, and at most {MOST_BUCKETS} are")
        permits: dict[str, Permits] = {}

        def rule(levels: Mapping[str, Level]) -> dict[str, Level]:
            now, changed = self._clock.now(), {}
            for name, each in by_name.items():
                after, permits[name] = take(levels[name], each, now)
                if permits[name].granted or after.at < levels[name].at:
                    changed[name] = after
            return changed

        if wanted:
            now = self._clock.now()
            await self._buckets.change({name: Level(each.limit * PARTS, now) for name, each in by_name.items()}, rule)
        return [permits[each.bucket] for each in wanted]

    async def sweep(self) -> None:
        """Forgets buckets that are full by now, for ever."""
        while True:
            with tried_again("sweep of buckets"):
                await self._buckets.sweep(self._clock.now() - IDLE)
            await self._clock.sleep(SWEEP_SECONDS)


def take(before: Level, wanted: Wanted, now: datetime) -> tuple[Level, Permits]:
    """The bucket afterwards, and what was taken of it."""
    full, window_us = wanted.limit * PARTS, wanted.window_ms * 1000
    at = before.at if now < before.at <= now + MOST_AHEAD else now
    passed_us = max(timedelta(0), at - before.at) // timedelta(microseconds=1)
    level = min(full, before.level + passed_us * full // window_us)
    granted = min(wanted.want, level // PARTS)
    level -= granted * PARTS
    missing = 0 if level >= PARTS else PARTS - level
    permits = Permits(
        granted, level // PARTS, _ms(missing, full, wanted.window_ms), _ms(full - level, full, wanted.window_ms)
    )
    return Level(level, at), permits


def _ms(parts: int, full: int, window_ms: int) -> int:
    """How long it takes until that much has flown in, rounded up."""
    return -(-parts * window_ms // full)
