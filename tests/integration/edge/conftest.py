"""One Envoy for each file of tests that asks for it: it takes a second to start."""

from collections.abc import AsyncIterator

import httpx
import pytest_asyncio

from tests.integration.edge.rig import Rig, rigged


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def envoy_rig() -> AsyncIterator[Rig]:
    async with rigged() as rig:
        yield rig


@pytest_asyncio.fixture(loop_scope="module")
async def rig(envoy_rig: Rig) -> Rig:
    """The file's Envoy, with the key valid whatever the test before did."""
    envoy_rig.admit()
    envoy_rig.auth._refused.clear()
    return envoy_rig


@pytest_asyncio.fixture(loop_scope="module")
async def client(rig: Rig) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=rig.url, timeout=20) as http:
        yield http
