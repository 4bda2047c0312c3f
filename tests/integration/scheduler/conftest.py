from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from scheduler.settings import Settings
from tests.integration.scheduler.rig import Neighbours, Service, neighbours_up, running
from tests.servers import nats_server


@pytest.fixture(scope="session")
def nats_url() -> Iterator[str]:
    with nats_server() as url:
        yield url


@pytest.fixture
def settings(tmp_path: Path, nats_url: str, database_setting: str) -> Settings:
    return Settings(
        home=tmp_path / "home",
        nats_url=nats_url,
        drain_seconds=1.0,
        library=tmp_path / "library",
        database=database_setting,
    )


@pytest.fixture
async def neighbours(settings: Settings) -> AsyncIterator[Neighbours]:
    async with neighbours_up(settings) as up:
        yield up


@pytest.fixture
async def service(settings: Settings, neighbours: Neighbours) -> AsyncIterator[Service]:
    async with running(settings, neighbours) as started:
        yield started
