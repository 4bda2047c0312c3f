"""The quota of an organization's files over real HTTP, on disk, on both engines."""

import asyncio
import json
import signal
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from sqlalchemy import text

from filestore.addresses import Addresses
from filestore.files import UPLOAD_TIME
from filestore.model import File
from filestore.settings import Settings
from filestore.store import SqlFileStore
from kit.db import open_db
from kit.names import new_id
from kit.settings import read_key
from migrations.__main__ import upgrade
from tests.integration.filestore.conftest import Service, over, running, until
from tests.integration.service_process import service_process

MIB = 1024 * 1024
MOST = 3 * MIB


@pytest.fixture
def limited(settings: Settings, database_setting: str) -> Settings:
    return replace(settings, organization_file_bytes=MOST, database=database_setting)


@pytest.fixture
async def service(limited: Settings) -> AsyncIterator[Service]:
    async with running(limited) as started:
        yield started


async def pieces(count: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield b"x" * MIB


async def put(service: Service, content: bytes | AsyncIterator[bytes]) -> httpx.Response:
    made = await service.create()
    return await service.http.put(made.upload_uri, content=content)


async def until_all_fits(service: Service) -> None:
    """The bytes go before what is known of them does."""
    async with asyncio.timeout(10):
        while (await put(service, b"x" * MOST)).status_code != 200:  # noqa: ASYNC110  # nothing there tells us
            await asyncio.sleep(0.05)


def check_full(answer: httpx.Response, left: int) -> None:
    body = json.loads(answer.text)
    assert (answer.status_code, body["code"]) == (413, "too_large")
    assert f"at most {MOST} bytes; {left} are left" in body["detail"]
    assert answer.headers["error-origin"] == "runtime"


async def test_what_does_not_fit_is_refused_and_leaves_nothing(service: Service) -> None:
    assert (await put(service, b"x" * 2 * MIB)).status_code == 200
    check_full(await put(service, b"x" * (MIB + 1)), MIB)
    check_full(await put(service, pieces(2)), MIB)
    assert len(service.on_disk()) == 1
    assert (await put(service, pieces(1))).status_code == 200
    check_full(await put(service, b"x"), 0)
    assert (await put(service, b"")).status_code == 200


async def test_a_length_that_cannot_fit_is_refused_before_the_first_byte(service: Service) -> None:
    made = await service.create()
    url = urlsplit(made.upload_uri)
    reader, writer = await asyncio.open_unix_connection(str(service.settings.http_socket))
    writer.write(f"PUT {url.path}?{url.query} HTTP/1.1\r\nhost: x\r\ncontent-length: {MOST + 1}\r\n\r\n".encode())
    async with asyncio.timeout(10):
        assert b" 413 " in await reader.readline()
    writer.close()
    assert service.on_disk() == []


async def test_uploads_at_once_do_not_pass_it_together(service: Service) -> None:
    contents = [b"x" * MIB if n % 2 else pieces(1) for n in range(10)]
    answers = await asyncio.gather(*(put(service, content) for content in contents))
    assert sorted({answer.status_code for answer in answers}) == [200, 413]
    assert len(service.on_disk()) == sum(answer.status_code == 200 for answer in answers) <= 3


async def test_files_that_have_expired_give_their_room_back(service: Service) -> None:
    assert (await put(service, b"x" * MOST)).status_code == 200
    for _ in range(2):  # the sweep sleeps between two looks
        await service.clock.advance(7 * 24 * 3600)
    await service.until_on_disk(0)
    await until_all_fits(service)


async def test_an_upload_that_broke_off_gives_its_room_back(service: Service) -> None:
    made = await service.create()
    url = urlsplit(made.upload_uri)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(service.settings.http_socket))
        head = f"PUT {url.path}?{url.query} HTTP/1.1\r\nhost: x\r\ncontent-length: {MOST}\r\n\r\n"
        await asyncio.to_thread(connection.sendall, head.encode() + b"x" * MIB)
        await service.until_on_disk(1)
        check_full(await put(service, b"x"), 0)
    await service.until_on_disk(0)
    await until_all_fits(service)


async def place(settings: Settings) -> str:
    """The upload address of a new file, made as the service makes it."""
    now = datetime.now(UTC)
    file = File(new_id("file"), "org_a", "a", now, now + UPLOAD_TIME)
    async with open_db(settings.database_url("filestore")) as db:
        await SqlFileStore(db).add(file)
    addresses = Addresses(read_key(settings.key_file("files")), settings.public_url)
    return addresses.upload(file, now + UPLOAD_TIME)


async def test_the_room_of_a_killed_upload_is_free_when_its_time_is_over(settings: Settings) -> None:
    await asyncio.to_thread(upgrade, "filestore", settings.database_url("filestore"))
    env = {"RUNMESH_HOME": str(settings.home), "RUNMESH_ORGANIZATION_FILE_BYTES": str(MOST)}
    incoming = settings.storage / "files" / "incoming"

    async def stuck() -> AsyncIterator[bytes]:
        yield b"x" * MIB
        await asyncio.Event().wait()

    with service_process("filestore", **env) as process:
        async with over(settings.http_socket) as http:
            headers = {"content-length": str(MOST)}
            hanging = asyncio.create_task(http.put(await place(settings), content=stuck(), headers=headers))
            await until(lambda: any(path.stat().st_size for path in incoming.iterdir()))
            process.send_signal(signal.SIGKILL)
            process.wait(10)
            hanging.cancel()
            await asyncio.gather(hanging, return_exceptions=True)
    with service_process("filestore", **env):
        async with over(settings.http_socket) as http:
            check_full(await http.put(await place(settings), content=b"x"), 0)
            await time_passes(settings)
            assert (await http.put(await place(settings), content=b"x" * MOST)).status_code == 200
    assert files_of(incoming) == []


async def time_passes(settings: Settings) -> None:
    """As if all rooms had been taken a quarter of an hour earlier."""
    async with open_db(settings.database_url("filestore")) as db, db.write() as tx:
        lease = "datetime(expires_at, '-15 minutes')"
        changed = await tx.execute(text(f"UPDATE rooms SET expires_at = {lease}"))
        assert changed.rowcount == 1


def files_of(directory: Path) -> list[Path]:
    return list(directory.iterdir())
