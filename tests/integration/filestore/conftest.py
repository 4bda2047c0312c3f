"""The filestore as it runs: gRPC and HTTP on UNIX sockets."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import grpc
import httpx
import pytest
from mesh.filestore.v1 import blobs_pb2_grpc, files_pb2, files_pb2_grpc

from filestore.main import build
from filestore.settings import Settings
from kit.clock import FakeClock
from kit.rpc_client import connect, unary
from migrations.__main__ import upgrade


@dataclass
class Service:
    """A running service and its callers' stubs. `http` has no base: addresses are whole, as callers get them."""

    settings: Settings
    clock: FakeClock
    files: "files_pb2_grpc.FilesAsyncStub"
    blobs: "blobs_pb2_grpc.BlobsAsyncStub"
    http: httpx.AsyncClient

    async def create(self, name: str = "data.bin") -> files_pb2.CreateFileResponse:
        return await unary(self.files.CreateFile, files_pb2.CreateFileRequest(organization_id="org_a", file_name=name))

    def on_disk(self) -> list[Path]:
        """Everything that the backend has, half-received things too."""
        roots = (self.settings.storage / "files", self.settings.storage / "blobs")
        return [path for root in roots for path in root.rglob("*") if path.is_file()]

    async def until_on_disk(self, count: int) -> None:
        """Waits until the backend has as many files. Errors: TimeoutError."""
        await until(lambda: len(self.on_disk()) == count)


async def until(condition: Callable[[], bool]) -> None:
    """Waits for what happens in another task or process. Errors: TimeoutError after 10 s."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  # nothing there tells us
            await asyncio.sleep(0.01)


def over(socket: Path) -> httpx.AsyncClient:
    """An HTTP client that reaches every address through this socket."""
    return httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=str(socket)), timeout=30)


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Service]:
    await asyncio.to_thread(upgrade, "filestore", settings.database_url("filestore"))
    clock = FakeClock(datetime.now(UTC))
    async with AsyncExitStack() as stack:
        server = await build(settings, stack, clock=clock)
        channel: grpc.aio.Channel = await stack.enter_async_context(connect(server.address))
        http = await stack.enter_async_context(over(settings.http_socket))
        files, blobs = files_pb2_grpc.FilesStub(channel), blobs_pb2_grpc.BlobsStub(channel)
        yield Service(settings, clock, files, blobs, http)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        home=tmp_path / "home",
        max_file_bytes=4 * 1024 * 1024,
        max_blob_bytes=4 * 1024 * 1024,
        drain_seconds=2.0,
        public_url_setting="http://runmesh.example/",
    )


@pytest.fixture
async def service(settings: Settings) -> AsyncIterator[Service]:
    async with running(settings) as started:
        yield started
