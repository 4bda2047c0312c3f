"""Fixtures with the real bubblewrap."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from executor.driver import BubblewrapDriver, open_driver
from tests.fakes.real_sandboxes import PUBLIC_URL, a_home


@pytest.fixture
def sandbox_home() -> Iterator[Path]:
    with a_home() as home:
        yield home


@pytest.fixture
async def driver(sandbox_home: Path) -> AsyncIterator[BubblewrapDriver]:
    async with open_driver(sandbox_home, PUBLIC_URL) as driver:
        yield driver
