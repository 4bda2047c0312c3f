"""Token buckets: what they grant in any stretch of time."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keys.rates import IDLE, Permits, TakePermits, Wanted
from kit.clock import FakeClock
from kit.errors import Invalid
from tests.fakes.memory_money import MemoryBucketStore

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LIMITS = st.sampled_from([1, 2, 7, 50])
# How long after the one before, whose clock, how many.
PAUSES = st.sampled_from([0, 0, 0, 1, 1000, 20_000, 300_000, 700_001, 3_000_000])
STEPS = st.lists(st.tuples(PAUSES, st.integers(0, 2), st.sampled_from([0, 1, 5, 50])), max_size=40)


@given(limit=LIMITS, window_ms=st.sampled_from([1000, 60_000]), steps=STEPS)
async def test_no_stretch_of_time_has_more_than_the_burst_and_what_flew_in(
    limit: int, window_ms: int, steps: list[tuple[int, int, int]]
) -> None:
    store, clock = MemoryBucketStore(), FakeClock(NOW)
    take = TakePermits(store, clock)
    grants: list[tuple[float, int]] = []
    for microseconds, _, want in steps:
        await clock.advance(microseconds / 1e6)
        permits = (await take([Wanted("key:k", limit, window_ms, min(want, limit))]))[0]
        assert permits.granted <= min(want, limit)
        grants.append(((clock.now() - NOW) / timedelta(milliseconds=1), permits.granted))
    for start, (began, _) in enumerate(grants):
        total = 0
        for ended, granted in grants[start:]:
            total += granted
            assert total <= limit * (1 + (ended - began) / window_ms) + 1e-6


@given(limit=LIMITS, skews=st.lists(st.integers(-5_000, 5_000), min_size=3, max_size=3), steps=STEPS)
async def test_replicas_whose_clocks_differ_grant_no_more_than_the_fastest_would(
    limit: int, skews: list[int], steps: list[tuple[int, int, int]]
) -> None:
    store = MemoryBucketStore()
    clocks = [FakeClock(NOW + timedelta(milliseconds=skew)) for skew in skews]
    takes = [TakePermits(store, clock) for clock in clocks]
    passed = total = 0
    for microseconds, which, want in steps:
        passed += microseconds
        for clock in clocks:
            await clock.advance(microseconds / 1e6)
        total += (await takes[which]([Wanted("key:k", limit, 1000, min(want, limit))]))[0].granted
    ahead = max(skews) - min(skews)
    assert total <= limit * (1 + (passed / 1000 + ahead) / 1000) + 1e-6


async def test_what_is_left_and_when_there_is_more() -> None:
    clock = FakeClock(NOW)
    take = TakePermits(MemoryBucketStore(), clock)

    async def got(want: int) -> Permits:
        return (await take([Wanted("key:k:api", 6, 60_000, want)]))[0]

    assert await got(0) == Permits(0, 6, 0, 0)
    assert await got(5) == Permits(5, 1, 0, 50_000)
    assert await got(5) == Permits(1, 0, 10_000, 60_000)
    assert await got(1) == Permits(0, 0, 10_000, 60_000)
    await clock.advance(9.999)
    assert await got(1) == Permits(0, 0, 1, 50_001)
    await clock.advance(0.001)
    assert await got(1) == Permits(1, 0, 10_000, 60_000)


async def test_a_limit_that_is_changed_holds_at_once() -> None:
    take = TakePermits(MemoryBucketStore(), FakeClock(NOW))
    assert (await take([Wanted("key:k", 10, 1000, 1)]))[0].remaining == 9
    assert (await take([Wanted("key:k", 4, 1000, 0)]))[0].remaining == 4
    assert (await take([Wanted("key:k", 100, 1000, 100)]))[0].granted == 9


async def test_a_clock_that_is_set_back_closes_no_bucket_for_long() -> None:
    store, clock = MemoryBucketStore(), FakeClock(NOW)
    take = TakePermits(store, clock)
    await TakePermits(store, FakeClock(NOW + timedelta(days=1)))([Wanted("key:k", 10, 1000, 10)])
    assert (await take([Wanted("key:k", 10, 1000, 1)]))[0].granted == 0
    await clock.advance(0.5)
    assert (await take([Wanted("key:k", 10, 1000, 9)]))[0].granted == 5


async def test_several_buckets_are_answered_in_order() -> None:
    store = MemoryBucketStore()
    take = TakePermits(store, FakeClock(NOW))
    answers = await take([Wanted("service:org_a.x", 3, 1000, 2), Wanted("key:k", 9, 1000, 9)])
    assert [it.granted for it in answers] == [2, 9]
    assert await store.sweep(NOW + IDLE) == 2
    assert await take([]) == []


@pytest.mark.parametrize(
    "wanted",
    [
        Wanted("user:x", 1, 1000, 1),
        Wanted("key:", 1, 1000, 1),
        Wanted("key:" + "x" * 200, 1, 1000, 1),
        Wanted("key:a\x00", 1, 1000, 1),
        Wanted("key:k", 0, 1000, 0),
        Wanted("key:k", 10**9, 1000, 1),
        Wanted("key:k", 1, 0, 1),
        Wanted("key:k", 1, 10**9, 1),
        Wanted("key:k", 1, 1000, 2),
        Wanted("key:k", 1, 1000, -1),
    ],
)
async def test_what_makes_no_sense_is_refused(wanted: Wanted) -> None:
    store = MemoryBucketStore()
    with pytest.raises(Invalid):
        await TakePermits(store, FakeClock(NOW))([wanted])
    assert store.levels == {}


async def test_a_bucket_is_asked_once() -> None:
    with pytest.raises(Invalid):
        await TakePermits(MemoryBucketStore(), FakeClock(NOW))([Wanted("key:k", 1, 1000, 1)] * 2)
