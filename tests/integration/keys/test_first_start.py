"""Several processes of the keys service start on empty data at once."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack

from keys.organizations import Organizations
from keys.sealing import PepperedHash
from keys.store import SqlKeyStore
from keys.verify import Verify
from kit.clock import SystemClock
from kit.db import open_db


async def test_one_first_organization_and_one_admin_key(database: Callable[[str], str]) -> None:
    url, key_hash = database("keys"), PepperedHash(b"p" * 32)
    handed: list[str] = []
    async with AsyncExitStack() as stack:
        stores = [SqlKeyStore(await stack.enter_async_context(open_db(url))) for _ in range(5)]
        starting = [Organizations(store, key_hash, SystemClock()).ensure_first(handed.append) for store in stores]
        await asyncio.gather(*starting)
        assert len(handed) == 1
        verified = await Verify(stores[0], key_hash, SystemClock())(handed[0])
        assert verified.principal.first_organization
