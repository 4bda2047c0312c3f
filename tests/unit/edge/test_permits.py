"""Permits in stock: who waits for keys, and what is let through."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge import permits as module
from edge.permits import Bucket, Granted, Left, Stocks
from keys.rates import TakePermits, Wanted
from kit.clock import FakeClock
from kit.errors import Unavailable
from tests.fakes.memory_money import MemoryBucketStore
from tests.fakes.permits import FakePermits

FAST = Bucket("key:k", 1000, 1000)
SLOW = Bucket("key:k:api", 3, 60_000)
NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Timed:
    """Stocks on a clock that stands still until it is moved."""

    def __init__(self, permits: module.Permits | None = None) -> None:
        self.now = 100.0
        self.keys = FakePermits()
        self.stocks = Stocks(permits or self.keys, lambda: self.now)

    async def let_in(self, bucket: Bucket, count: int) -> int:
        return [await self.stocks.take([bucket]) for _ in range(count)].count(None)


async def settled() -> None:
    """All that was begun has gone as far as it can."""
    for _ in range(10):
        await asyncio.sleep(0)


async def suspended(work: Callable[[], object]) -> bool:
    """Whether it has to wait for anybody."""
    coroutine: object = work()
    assert asyncio.iscoroutine(coroutine)
    try:
        coroutine.send(None)
    except StopIteration:
        return False
    coroutine.close()
    return True


async def test_most_calls_wait_for_nobody() -> None:
    it = Timed()
    assert await suspended(lambda: it.stocks.take([FAST]))
    await settled()
    waits = []
    for _ in range(500):
        waits.append(await suspended(lambda: it.stocks.take([FAST])))
        await settled()
        it.now += 0.001
    assert waits == [False] * 500
    assert len(it.keys.asked) < 20
    assert max(asked["key:k"] for asked in it.keys.asked) == 100  # a tenth of the limit


async def test_the_first_of_many_asks_for_all() -> None:
    it = Timed()
    answers = await asyncio.gather(*(it.stocks.take([FAST]) for _ in range(300)))
    assert answers == [None] * 300
    assert it.keys.asked[0] == {"key:k": 300}


async def test_no_more_is_let_in_than_there_is_and_then_nobody_is_asked() -> None:
    it = Timed()
    bucket = Bucket("key:k", 50, 1000)
    assert await it.let_in(bucket, 60) == 50
    asked = len(it.keys.asked)
    assert await it.let_in(bucket, 100) == 0
    assert len(it.keys.asked) == asked
    left = it.stocks.left(bucket)
    assert left.remaining == 0
    assert left.wait == pytest.approx(0.02)
    assert left.reset == pytest.approx(1.0)
    it.now += 0.021
    it.keys.refill()
    assert await it.let_in(bucket, 1) == 1


async def test_what_is_not_used_within_a_second_is_lost() -> None:
    it = Timed()
    assert await it.let_in(FAST, 1) == 1
    it.keys.away = Unavailable("away")
    it.now += 0.999
    assert await it.let_in(FAST, 1) == 1
    it.now += 0.001
    with pytest.raises(Unavailable):
        await it.stocks.take([FAST])


async def test_what_is_in_stock_is_let_in_while_keys_is_away() -> None:
    it = Timed()
    await it.let_in(FAST, 1)
    it.keys.away = Unavailable("away")
    assert await it.let_in(FAST, 9) == 9
    with pytest.raises(Unavailable):
        await it.stocks.take([FAST])
    it.keys.away = None
    assert await it.let_in(FAST, 1) == 1


async def test_of_a_slow_bucket_each_takes_its_own() -> None:
    it = Timed()
    left = []
    for _ in range(3):
        assert await it.stocks.take([SLOW]) is None
        left.append(it.stocks.left(SLOW).remaining)
    assert left == [2, 1, 0]
    assert it.keys.asked == [{SLOW.name: 1}] * 3
    assert await it.stocks.take([SLOW]) == SLOW
    assert it.stocks.left(SLOW) == Left(0, 20.0, 60.0)
    assert len(it.keys.asked) == 3


async def test_buckets_that_are_wanted_together_are_asked_for_together() -> None:
    it = Timed()
    other = Bucket("organization:o:api", 2, 60_000)
    assert await it.stocks.take([SLOW, other]) is None
    answers = await asyncio.gather(*(it.stocks.take([SLOW, other]) for _ in range(2)))
    assert answers == [None, other]
    assert it.keys.asked == [{SLOW.name: 1, other.name: 1}, {SLOW.name: 2, other.name: 2}]


async def test_what_is_expected_is_there() -> None:
    it = Timed()
    it.stocks.expect([FAST, SLOW])
    await settled()
    assert it.keys.asked == [{FAST.name: 10}]  # a slow one's would be lost
    assert not await suspended(lambda: it.stocks.take([FAST]))
    it.stocks.expect([FAST])
    await settled()
    assert len(it.keys.asked) == 1


async def test_one_who_hangs_up_takes_nothing_from_the_others() -> None:
    it = Timed()
    first, second = (asyncio.create_task(it.stocks.take([SLOW])) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert await second is None
    with pytest.raises(asyncio.CancelledError):
        await first
    assert await it.let_in(SLOW, 3) == 2


async def test_a_limit_that_was_changed_begins_anew() -> None:
    it = Timed()
    assert await it.let_in(SLOW, 4) == 3
    assert await it.let_in(Bucket(SLOW.name, 4, 60_000), 2) == 1


async def test_a_bug_of_keys_is_told_as_unavailable() -> None:
    class Broken(FakePermits):
        async def take(self, wanted: Sequence[tuple[Bucket, int]]) -> Sequence[Granted]:
            raise RuntimeError("a bug")

    with pytest.raises(Unavailable):
        await Timed(Broken()).stocks.take([FAST])


async def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BUCKETS", 10)
    it = Timed()
    for number in range(100):
        await it.stocks.take([Bucket(f"key:{number}", 5, 1000)])
    assert len(it.stocks._stocks) == 10


class RealKeys:
    """permits.Permits on the use case of keys."""

    def __init__(self, take: TakePermits) -> None:
        self._take = take

    async def take(self, wanted: Sequence[tuple[Bucket, int]]) -> Sequence[Granted]:
        answers = await self._take([Wanted(it.name, it.limit, it.window_ms, want) for it, want in wanted])
        return [Granted(it.granted, it.remaining, it.wait_ms, it.reset_ms) for it in answers]


CALLS = st.lists(
    st.tuples(st.sampled_from([0, 0, 1, 30, 250, 999, 1001, 3000]), st.integers(0, 1), st.sampled_from([1, 3, 30])),
    max_size=30,
)


@given(limit=st.sampled_from([1, 5, 20, 60]), window_ms=st.sampled_from([1000, 60_000]), calls=CALLS)
async def test_two_edges_let_in_no_more_than_keys_grants_and_what_they_hold(
    limit: int, window_ms: int, calls: list[tuple[int, int, int]]
) -> None:
    clock = FakeClock(NOW)
    keys = RealKeys(TakePermits(MemoryBucketStore(), clock))
    edges = [Stocks(keys, lambda: (clock.now() - NOW).total_seconds() + 100) for _ in range(2)]
    bucket = Bucket("key:k", limit, window_ms)
    let_in: list[tuple[float, int]] = []
    for milliseconds, which, count in calls:
        await clock.advance(milliseconds / 1000)
        answers = await asyncio.gather(*(edges[which].take([bucket]) for _ in range(count)))
        let_in.append(((clock.now() - NOW) / timedelta(milliseconds=1), answers.count(None)))
    held = 2 * 1.5 * (limit // 10) if bucket.held else 0
    for start, (began, _) in enumerate(let_in):
        total = 0
        for ended, count in let_in[start:]:
            total += count
            assert total <= limit * (1 + (ended - began) / window_ms) + held + 1e-6
