"""What is hard to provoke through a socket."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from filestore.addresses import Addresses
from filestore.files import Files, Place
from filestore.http import app
from filestore.quota import Quota
from kit.clock import FakeClock
from tests.fakes.memory_files import MemoryBackend, MemoryFileStore, MemoryLedger

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class BrokenStore(MemoryFileStore):
    """Loses its database once files are there."""

    async def get(self, file_id: str) -> None:
        raise RuntimeError("dsn with a password")


def files(store: MemoryFileStore) -> Files:
    addresses = Addresses(b"k" * 32, "http://x")
    clock = FakeClock(datetime(2026, 1, 1, tzinfo=UTC))
    quota, week = Quota(store, clock, 1000), timedelta(days=7)
    return Files(store, MemoryBackend(), addresses, clock, quota, MemoryLedger(), max_bytes=100, lifetime=week)


def client(files: Files, stall_seconds: float = 10) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app(files, stall_seconds=stall_seconds), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport)


async def stuck() -> AsyncIterator[bytes]:
    yield b"1"
    await asyncio.Event().wait()


@pytest.fixture
def store() -> MemoryFileStore:
    return MemoryFileStore()


@pytest.fixture
async def place(store: MemoryFileStore) -> Place:
    return await files(store).create("org_a", "x")


async def test_an_upload_that_stalls_is_broken_off(store: MemoryFileStore, place: Place) -> None:
    async with client(files(store), stall_seconds=0.05) as http:
        answer = await http.put(place.upload_uri, content=stuck())
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")
    assert "stalled" in answer.json()["detail"]


async def test_a_bug_is_an_internal_error_without_its_text() -> None:
    store = BrokenStore()
    broken = files(store)
    place = await broken.create("org_a", "x")
    async with client(broken) as http:
        answer = await http.put(place.upload_uri, content=b"1")
    assert (answer.status_code, answer.json()) == (500, {"detail": "internal error", "code": "runtime_error"})


async def test_what_a_drain_breaks_off_is_told_to_try_again(store: MemoryFileStore, place: Place) -> None:
    sent: list[str] = []
    begun = asyncio.Event()

    async def receive() -> dict[str, object]:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: object) -> None:
        sent.append(str(message))

    url = httpx.URL(place.upload_uri)
    scope = {"type": "http", "method": "PUT", "path": url.path, "query_string": url.query, "headers": []}
    call = asyncio.ensure_future(app(files(store))(scope, receive, send))
    await begun.wait()
    call.cancel()
    await call
    assert "503" in sent[0]
    assert "unavailable" in sent[1]


async def test_an_answer_bears_the_callers_trace(store: MemoryFileStore, place: Place) -> None:
    async with client(files(store)) as http:
        answer = await http.get(place.download_uri, headers={"traceparent": TRACE})
        assert answer.headers["traceparent"].split("-")[1] == TRACE.split("-")[1]
        answer = await http.get(place.download_uri, headers={"traceparent": "garbage"})
        assert answer.headers.get("traceparent") != "garbage"
