"""Stored files on their way to the ledger of a real keys service; the filestore is killed where it hurts."""

import asyncio
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from filestore.model import Content, File, Stored
from filestore.settings import Settings
from filestore.storage import MEGABYTE
from filestore.store import SqlFileStore
from kit.db import open_db
from migrations.__main__ import upgrade
from tests.integration.service_process import service_process
from tests.ledger_books import audit, balances, counted
from tests.servers import nats_server

FIRST = 1_000_000_000


@pytest.fixture(scope="module")
def nats_url() -> Iterator[str]:
    with nats_server() as url:
        yield url


@pytest.fixture
def shared(settings: Settings, database_setting: str, nats_url: str) -> Settings:
    return replace(settings, database=database_setting, nats_url=nats_url)


@contextmanager
def process(name: str, settings: Settings, points: Path) -> Iterator["subprocess.Popen[str]"]:
    env = {"RUNMESH_HOME": str(settings.home), "RUNMESH_DATABASE_URL": settings.database}
    env |= {"RUNMESH_NATS_URL": settings.nats_url, "RUNMESH_FAILPOINTS": str(points)}
    with service_process(name, **env) as started:
        yield started


def dies_at(point: str, settings: Settings, points: Path) -> None:
    """The filestore, which may or may not come as far as to be ready."""
    (points / point).touch()
    with suppress(AssertionError), process("filestore", settings, points) as started:
        started.wait(20)
    assert not (points / point).exists()


async def count(settings: Settings, service: str, table: str, where: str = "1 = 1") -> int:
    async with open_db(settings.database_url(service)) as db:
        return await counted(db, f"{table} WHERE {where}")


async def first_organization(settings: Settings) -> str:
    async with open_db(settings.database_url("keys")) as db:
        return next(name for name, has in (await balances(db)).items() if has == FIRST).removeprefix("org:")


async def keep(settings: Settings, organization: str, size: int, since: datetime) -> None:
    content = Content("a/b", Stored("ab" * 32, size), "files/none")
    file = File("file_1", organization, "a", since, since + timedelta(days=7), content)
    async with open_db(settings.database_url("filestore")) as db:
        await SqlFileStore(db).add(replace(file, content=None))
        await SqlFileStore(db).fill(file, "", 2**40, since)


@pytest.mark.timeout(120)
async def test_stored_files_are_charged_once_whatever_crashes(shared: Settings, tmp_path: Path) -> None:
    """240 MB for two hours: 20 MB days, and what passes while this test runs."""
    for service in ("filestore", "keys"):
        await asyncio.to_thread(upgrade, service, shared.database_url(service))
    booked = ("keys", "ledger_transactions", "kind = 'storage'")
    with process("keys", shared, tmp_path):
        organization = await first_organization(shared)
        await keep(shared, organization, 240 * MEGABYTE, datetime.now(UTC) - timedelta(hours=2))
        dies_at("storage bill kept", shared, tmp_path)
    assert (await count(shared, "filestore", "storage_bills"), await count(shared, *booked)) == (1, 0)
    with process("filestore", shared, tmp_path):  # nobody is there to be sent it
        pass
    assert await count(shared, "filestore", "storage_bills") == 1
    with process("keys", shared, tmp_path):
        dies_at("storage bill sent", shared, tmp_path)
        assert (await count(shared, "filestore", "storage_bills"), await count(shared, *booked)) == (1, 1)
        with process("filestore", shared, tmp_path):
            async with asyncio.timeout(20):
                while await count(shared, "filestore", "storage_bills"):  # noqa: ASYNC110  # nothing there tells us
                    await asyncio.sleep(0.05)
    assert await count(shared, *booked) == 1
    async with open_db(shared.database_url("keys")) as db:
        assert await audit(db) == {}
        assert (await balances(db))[f"org:{organization}"] == FIRST - 14
        async with db.read() as tx:
            lines = await tx.execute(text("SELECT meter, quantity, amount FROM bill_lines"))
            assert [tuple(line) for line in lines] == [("storage", 20, 14)]
