"""Permits for calls, taken from keys ahead of their use, so that most calls wait for nobody.

Of a bucket that is filled each second some are held in stock: twice as many each time, up to a tenth of its limit, and
the next ones are on their way when half of them are used. What isn't used a second after the last ones came is lost.
Of any other bucket each call takes its own. In a stretch of time no more is let through than keys grants in it and what
was held before.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from kit.errors import Problem, Unavailable
from kit.telemetry import log

SECOND_MS = 1000
LIFE_SECONDS = 1.0
MOST_BUCKETS = 10_000
# Of a bucket's limit: the most that is held, and where it begins.
MOST_SHARE, LEAST_SHARE = 10, 100
MOST_AT_ONCE = 100


@dataclass(frozen=True)
class Bucket:
    """`limit` permits each `window_ms`; `name` as in mesh.keys.v1.PermitsWanted."""

    name: str
    limit: int
    window_ms: int

    @property
    def held(self) -> bool:
        """Whether more are taken than are needed at once."""
        return self.window_ms <= SECOND_MS and self.limit >= 2 * MOST_SHARE


@dataclass(frozen=True)
class Granted:
    """As mesh.keys.v1.Permits."""

    granted: int
    remaining: int
    wait_ms: int
    reset_ms: int


@dataclass(frozen=True)
class Left:
    """What a bucket has: permits, and the seconds until there is another one (0: now), and until it is full."""

    remaining: int
    wait: float
    reset: float


class Permits(Protocol):
    """The keys service."""

    async def take(self, wanted: Sequence[tuple[Bucket, int]]) -> Sequence[Granted]:
        """As many as there are of each bucket, which is named once. Errors: Unavailable."""
        ...


@dataclass
class _Stock:
    """What is held of a bucket. Times are monotonic seconds."""

    size: int
    permits: int = 0
    until: float = 0.0
    waiting: int = 0
    asking: "asyncio.Future[Problem | None] | None" = None
    remaining: int = 0
    empty_until: float = 0.0
    full_at: float = 0.0

    def held(self, now: float) -> int:
        return self.permits if now < self.until else 0


class Stocks:
    """All that is held, of at most MOST_BUCKETS buckets: those that were used last."""

    def __init__(self, permits: Permits, now: Callable[[], float] = time.monotonic) -> None:
        self._permits = permits
        self._now = now
        self._stocks: OrderedDict[tuple[str, int], _Stock] = OrderedDict()
        self._round: list[tuple[Bucket, _Stock]] = []
        self._rounds: set[asyncio.Task[None]] = set()

    async def take(self, buckets: Sequence[Bucket]) -> Bucket | None:
        """One of each; or the first bucket that has none, what was taken of those before it is lost. Errors:
        Unavailable when there is none in stock and keys doesn't answer.
        """
        stocks = [self._stock(bucket) for bucket in buckets]
        for stock in stocks:
            stock.waiting += 1
        try:
            self._expect(buckets, stocks)  # all with one question
            for bucket, stock in zip(buckets, stocks, strict=True):
                if not await self._one(bucket, stock):
                    return bucket
        finally:
            for stock in stocks:
                stock.waiting -= 1
        return None

    def expect(self, buckets: Sequence[Bucket]) -> None:
        """They will be wanted soon: asks for those that aren't in stock, and waits for nothing."""
        held = [bucket for bucket in buckets if bucket.held]
        self._expect(held, [self._stock(bucket) for bucket in held])

    def left(self, bucket: Bucket) -> Left:
        """As far as is known here."""
        stock, now = self._stock(bucket), self._now()
        return Left(stock.remaining + stock.held(now), max(0.0, stock.empty_until - now), max(0.0, stock.full_at - now))

    async def _one(self, bucket: Bucket, stock: _Stock) -> bool:
        while not stock.held(now := self._now()):
            if now < stock.empty_until:
                return False
            # Shielded: a caller that hangs up must not take the answer away from the others.
            problem = await asyncio.shield(self._asking(bucket, stock))
            if problem is not None and not stock.held(self._now()):
                raise problem
        stock.permits -= 1
        if bucket.held and stock.permits <= stock.size // 2 and stock.asking is None and now >= stock.empty_until:
            stock.size = min(stock.size * 2, bucket.limit // MOST_SHARE)
            self._asking(bucket, stock)
        return True

    def _stock(self, bucket: Bucket) -> _Stock:
        key = (bucket.name, bucket.limit)
        stock = self._stocks.get(key)
        if stock is None:
            stock = self._stocks[key] = _Stock(_least(bucket))
            if len(self._stocks) > MOST_BUCKETS:
                self._stocks.popitem(last=False)
        else:
            self._stocks.move_to_end(key)
        return stock

    def _expect(self, buckets: Sequence[Bucket], stocks: Sequence[_Stock]) -> None:
        now = self._now()
        for bucket, stock in zip(buckets, stocks, strict=True):
            if now >= stock.empty_until and not stock.held(now):
                self._asking(bucket, stock)

    def _asking(self, bucket: Bucket, stock: _Stock) -> "asyncio.Future[Problem | None]":
        """The answer that is on its way; if there is none, asks in a moment, for all that are wanted by then."""
        if stock.asking is None:
            loop = asyncio.get_running_loop()
            stock.asking = loop.create_future()
            if not stock.held(self._now()):
                stock.size = _least(bucket)
            if not self._round:
                loop.call_soon(self._ask)
            self._round.append((bucket, stock))
        return stock.asking

    def _ask(self) -> None:
        asked, self._round = self._round, []
        for start in range(0, len(asked), MOST_AT_ONCE):
            task = asyncio.create_task(self._answered(asked[start : start + MOST_AT_ONCE]))
            self._rounds.add(task)
            task.add_done_callback(self._rounds.discard)

    async def _answered(self, asked: Sequence[tuple[Bucket, _Stock]]) -> None:
        problem: Problem | None = None
        try:
            wanted = [(bucket, _wanted(bucket, stock)) for bucket, stock in asked]
            for (_, stock), granted in zip(asked, await self._permits.take(wanted), strict=True):
                self._put(stock, granted)
        except Problem as error:
            problem = error
        except Exception as error:  # noqa: BLE001  # a bug of keys; each who waits is told, and it is logged
            log().error("rates.permits_failed", exc_info=error)
            problem = Unavailable("how often this may be called couldn't be checked")
        for _, stock in asked:
            answer, stock.asking = stock.asking, None
            if answer is not None:
                answer.set_result(problem)

    def _put(self, stock: _Stock, granted: Granted) -> None:
        now = self._now()
        stock.permits = stock.held(now) + granted.granted
        stock.until = now + LIFE_SECONDS if granted.granted else stock.until
        stock.remaining = granted.remaining
        stock.full_at = now + granted.reset_ms / 1000
        stock.empty_until = now + granted.wait_ms / 1000


def _least(bucket: Bucket) -> int:
    return max(2, bucket.limit // LEAST_SHARE) if bucket.held else 0


def _wanted(bucket: Bucket, stock: _Stock) -> int:
    return min(bucket.limit, max(stock.size, stock.waiting, 1))
