"""The port of keys/prices.py: on the fake and on SQL; two services that start at once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy.exc import IntegrityError

from keys.audit import Actor, Entry
from keys.audit_store import SqlAuditLog
from keys.price_list import price_list
from keys.prices import EVER, Price, Prices
from keys.prices_store import SqlPriceStore
from kit.clock import FakeClock
from kit.db import open_db
from kit.errors import Invalid
from tests.databases import ENGINES, database_url
from tests.fakes.memory_money import MemoryPriceStore

NOW = datetime(2026, 1, 1, 12, 0, 0, 123456, tzinfo=UTC)
LATER = NOW + timedelta(days=1)
Store = MemoryPriceStore | SqlPriceStore


@pytest.fixture(params=["memory", *ENGINES])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    if request.param == "memory":
        yield MemoryPriceStore()
        return
    async with open_db(database_url(request, request.param, tmp_path, "keys")) as db:
        yield SqlPriceStore(db)


async def test_prices_are_put_changed_and_dropped(store: Store) -> None:
    first, second = Price("run", 1, NOW), Price("run", 2**53, LATER, by_operator=True)
    other = Price("cpu", 0, EVER)
    async with store.change() as change:
        await change.put([second, other, first])
        assert await change.prices(["run", "egress"]) == [first, second]
    assert await store.prices() == [other, first, second]
    async with store.change() as change:
        await change.put([replace(first, amount=9, by_operator=True)])
        await change.drop([second, other])
        await change.drop([])
        await change.put([])
    assert await store.prices() == [replace(first, amount=9, by_operator=True)]


async def test_a_change_that_fails_leaves_nothing(store: Store) -> None:
    with suppress(RuntimeError):
        async with store.change() as change:
            await change.put([Price("run", 1, NOW)])
            await change.remember("x")
            raise RuntimeError
    assert (await store.prices(), await store.fingerprint()) == ([], "")


async def test_the_fingerprint_is_kept(store: Store) -> None:
    assert await store.fingerprint() == ""
    for _ in range(2):
        async with store.change() as change:
            await change.remember("f" * 64)
            assert await change.fingerprint() == "f" * 64
    assert await store.fingerprint() == "f" * 64


async def test_the_audit_log_tells_of_each_price_that_was_set(store: Store) -> None:
    table, actor = Prices(store, FakeClock(NOW)), Actor("key_admin", "org_a")
    await table.set("cpu", 7, LATER, actor)
    with pytest.raises(Invalid):
        await table.set("cpu", 8, NOW - timedelta(seconds=1), actor)
    (entry,) = store.noted if isinstance(store, MemoryPriceStore) else await SqlAuditLog(store.db).page("org_a", 10, "")
    told = {"micro_credits_per_million": 7, "valid_from": LATER.isoformat()}
    assert replace(entry, id="") == Entry(NOW, "price.set", "cpu", "org_a", "key_admin", "org_a", told, "")


async def test_the_whole_list_fits(store: Store) -> None:
    ours = price_list(100)
    await Prices(store, FakeClock(NOW)).bring_along("1", lambda: ours)
    assert await store.prices() == sorted(ours, key=lambda price: (price.meter, price.valid_from))


@pytest.mark.parametrize("engine", ENGINES)
async def test_replicas_that_start_at_once_bring_it_along_once(
    request: pytest.FixtureRequest, tmp_path: Path, engine: str
) -> None:
    url = database_url(request, engine, tmp_path, "keys")
    async with AsyncExitStack() as stack:
        stores = [SqlPriceStore(await stack.enter_async_context(open_db(url))) for _ in range(3)]
        clocks = [FakeClock(NOW + timedelta(seconds=number)) for number in range(3)]
        tables = [Prices(*each) for each in zip(stores, clocks, strict=True)]
        await asyncio.gather(
            *(table.bring_along("1", lambda: [Price("run", 1, EVER), Price("cpu", 2, EVER)]) for table in tables),
            *(table.set("call:x", number, None) for number, table in enumerate(tables)),
        )
        found = await stores[0].prices()
    assert [(it.meter, it.amount) for it in found if not it.by_operator] == [("cpu", 2), ("run", 1)]
    assert [it.valid_from for it in found if it.by_operator] == [clock.now() for clock in clocks]


@pytest.mark.parametrize("engine", ENGINES)
async def test_no_price_is_below_zero(request: pytest.FixtureRequest, tmp_path: Path, engine: str) -> None:
    async with open_db(database_url(request, engine, tmp_path, "keys")) as db:
        store = SqlPriceStore(db)
        with suppress(IntegrityError):
            async with store.change() as change:
                await change.put([Price("run", -1, NOW)])
        assert await store.prices() == []
