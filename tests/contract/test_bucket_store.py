"""The port of keys/rates.py: on the fake and on SQL; what is granted when many ask at once."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from keys.rates import PARTS, Level, TakePermits, Wanted
from keys.rates_store import SqlBucketStore
from kit.clock import FakeClock
from kit.db import open_db
from tests.databases import ENGINES, database_url
from tests.fakes.memory_money import MemoryBucketStore

NOW = datetime(2026, 1, 1, 12, 0, 0, 123456, tzinfo=UTC)
FULL = Level(5 * PARTS, NOW)
Store = MemoryBucketStore | SqlBucketStore


@pytest.fixture(params=["memory", *ENGINES])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    if request.param == "memory":
        yield MemoryBucketStore()
        return
    async with open_db(database_url(request, request.param, tmp_path, "keys")) as db:
        yield SqlBucketStore(db)


async def look(store: Store, *names: str) -> Mapping[str, Level]:
    seen: dict[str, Level] = {}

    def rule(levels: Mapping[str, Level]) -> dict[str, Level]:
        seen.update(levels)
        return {}

    await store.change(dict.fromkeys(names, FULL), rule)
    return seen


async def test_a_bucket_is_made_full_and_kept_as_it_was_left(store: Store) -> None:
    assert await look(store, "b", "a") == {"a": FULL, "b": FULL}
    after = Level(17, NOW + timedelta(microseconds=1))
    await store.change({"a": FULL, "c": FULL}, lambda _: {"a": after})
    assert await look(store, "a", "b", "c") == {"a": after, "b": FULL, "c": FULL}


async def test_what_was_not_used_for_long_is_swept(store: Store) -> None:
    await look(store, "old", "new")
    await store.change({"new": FULL}, lambda _: {"new": Level(1, NOW + timedelta(seconds=1))})
    assert await store.sweep(NOW) == 0
    assert await store.sweep(NOW + timedelta(seconds=1)) == 1
    assert await look(store, "old", "new") == {"old": FULL, "new": Level(1, NOW + timedelta(seconds=1))}


async def test_many_at_once_are_granted_what_there_is(store: Store) -> None:
    take = TakePermits(store, FakeClock(NOW))
    wanted = [[Wanted("key:k", 100, 1000, 7), Wanted("organization:o", 150, 1000, 5)][:: (-1) ** n] for n in range(40)]
    answers = await asyncio.gather(*(take(each) for each in wanted))
    granted: dict[str, int] = {}
    for asked, permits in zip(wanted, answers, strict=True):
        for each, it in zip(asked, permits, strict=True):
            granted[each.bucket] = granted.get(each.bucket, 0) + it.granted
    assert granted == {"key:k": 100, "organization:o": 150}


@pytest.mark.parametrize("engine", ENGINES)
async def test_replicas_of_keys_share_the_buckets(request: pytest.FixtureRequest, tmp_path: Path, engine: str) -> None:
    """Several of them, each with connections of its own, which also make and sweep the rows meanwhile."""
    url = database_url(request, engine, tmp_path, "keys")
    names = [f"key:{letter}" for letter in "abcdef"]
    async with AsyncExitStack() as stack:
        stores = [SqlBucketStore(await stack.enter_async_context(open_db(url))) for _ in range(3)]

        async def taker(number: int) -> dict[str, int]:
            take, got = TakePermits(stores[number % 3], FakeClock(NOW)), dict.fromkeys(names, 0)
            for turn in range(8):
                some = [names[(number + turn * step) % 6] for step in (1, 5, 2)]
                asked = [Wanted(name, 60, 1000, 1 + turn % 3) for name in dict.fromkeys(some)]
                for each, it in zip(asked, await take(asked), strict=True):
                    got[each.bucket] += it.granted
            return got

        async def sweeper() -> None:
            while True:
                await stores[0].sweep(NOW - timedelta(hours=1))
                await asyncio.sleep(0.01)

        sweeping = asyncio.create_task(sweeper())
        taken = await asyncio.gather(*(taker(number) for number in range(12)))
        sweeping.cancel()
        await asyncio.wait([sweeping])
    assert {name: sum(each[name] for each in taken) for name in names} == dict.fromkeys(names, 60)
