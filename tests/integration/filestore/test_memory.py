"""Bytes are never held in memory: four uploads and downloads at once hardly show."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from mesh.filestore.v1 import files_pb2, files_pb2_grpc

from filestore.settings import Settings
from kit.names import new_id
from kit.rpc_client import connect, unary
from migrations.__main__ import upgrade
from tests.integration.filestore.conftest import over
from tests.integration.service_process import high_water, service_process

MIB = 1024 * 1024
SIZE = int(os.environ.get("RUNMESH_TEST_FILE_MIB", "50")) * MIB
MOST_GROWTH = 32 * MIB
MOST_GROWTH_ON_S3 = 64 * MIB  # a part of 5 MiB is in memory, twice for a moment, while it is sent
FILES = 4


async def blocks(seed: int, size: int) -> AsyncIterator[bytes]:
    """`size` bytes that are others for each seed."""
    for number in range(size // MIB):
        yield hashlib.sha256(bytes([seed, number % 256])).digest() * (MIB // 32)


async def round_trip(http: httpx.AsyncClient, place: files_pb2.CreateFileResponse, seed: int, size: int) -> bool:
    expected = hashlib.sha256()
    async for block in blocks(seed, size):
        expected.update(block)
    put = await http.put(place.upload_uri, content=blocks(seed, size))
    found = hashlib.sha256()
    async with http.stream("GET", place.download_uri) as answer:
        async for chunk in answer.aiter_bytes():
            found.update(chunk)
    return put.status_code == 200 and found.digest() == expected.digest()


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("where", "most"), [("disk", MOST_GROWTH), ("s3", MOST_GROWTH_ON_S3)])
async def test_four_large_files_at_once_dont_grow_the_process(
    request: pytest.FixtureRequest, tmp_path: Path, where: str, most: int
) -> None:
    env: dict[str, str] = request.getfixturevalue("s3").env(new_id("test")) if where == "s3" else {}
    settings = Settings(home=tmp_path)
    await asyncio.to_thread(upgrade, "filestore", settings.database_url("filestore"))
    with service_process("filestore", RUNMESH_HOME=str(tmp_path), RUNMESH_S3_REDIRECT="off", **env) as process:
        async with over(settings.http_socket) as http, connect(settings.address("filestore")) as channel:
            stub = files_pb2_grpc.FilesStub(channel)
            asked = files_pb2.CreateFileRequest(organization_id="org_a", file_name="x")
            places = [await unary(stub.CreateFile, asked) for _ in range(FILES + 1)]
            assert await round_trip(http, places.pop(), 9, MIB)  # what a first request costs is not meant
            before = high_water(process)
            sent = await asyncio.gather(*(round_trip(http, place, n, SIZE) for n, place in enumerate(places)))
            assert all(sent)
            grown = high_water(process) - before
    print(f"{where}: {FILES} x {SIZE // MIB} MiB: {before / MIB:.1f} MiB before, {grown / MIB:.1f} MiB grown")
    assert grown <= most
