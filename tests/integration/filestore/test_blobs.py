"""Blobs over gRPC."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator

import pytest
from mesh.filestore.v1 import blobs_pb2

from filestore.backend import CHUNK_BYTES
from kit.errors import Invalid, NotFound
from kit.rpc_client import stream, unary
from tests.integration.filestore.conftest import Service


async def messages(content: bytes, size: int = CHUNK_BYTES) -> AsyncIterator[blobs_pb2.PutBlobRequest]:
    for start in range(0, len(content), size):
        yield blobs_pb2.PutBlobRequest(data=content[start : start + size])
    yield blobs_pb2.PutBlobRequest(whole=True)


async def put(service: Service, content: bytes, size: int = CHUNK_BYTES) -> blobs_pb2.PutBlobResponse:
    return await unary(service.blobs.PutBlob, messages(content, size))  # type: ignore[arg-type]  # a stream in


async def get(service: Service, digest: str) -> list[bytes]:
    request = blobs_pb2.GetBlobRequest(digest=digest)
    return [message.data async for message in stream(service.blobs.GetBlob, request, timeout=10)]


async def test_in_and_out(service: Service) -> None:
    content = os.urandom(3 * CHUNK_BYTES + 5)
    stored = await put(service, content, 100_000)
    assert (stored.digest, stored.size) == (hashlib.sha256(content).hexdigest(), len(content))
    chunks = await get(service, stored.digest)
    assert b"".join(chunks) == content
    assert max(map(len, chunks)) == CHUNK_BYTES
    stat = await unary(service.blobs.StatBlob, blobs_pb2.StatBlobRequest(digest=stored.digest))
    assert stat.size == len(content)


async def test_the_same_bytes_lie_there_once(service: Service) -> None:
    stored = await asyncio.gather(*(put(service, b"same" * 1000) for _ in range(8)))
    assert len({one.digest for one in stored}) == 1
    (path,) = service.on_disk()
    digest = stored[0].digest
    assert path == service.settings.storage / "blobs" / digest[:2] / digest[2:4] / digest


async def test_a_blob_has_a_largest_size(service: Service) -> None:
    with pytest.raises(Invalid) as caught:
        await put(service, b"x" * (4 * 1024 * 1024 + 1))
    assert caught.value.code == "too_large"
    assert service.on_disk() == []


@pytest.mark.parametrize("digest", ["", "0" * 64, "../../../../etc/passwd", "A" * 64])
async def test_what_isnt_there_isnt_found(service: Service, digest: str) -> None:
    with pytest.raises(NotFound):
        await get(service, digest)
    with pytest.raises(NotFound):
        await unary(service.blobs.StatBlob, blobs_pb2.StatBlobRequest(digest=digest))


async def test_a_broken_stream_leaves_nothing(service: Service) -> None:
    async def stuck() -> AsyncIterator[blobs_pb2.PutBlobRequest]:
        yield blobs_pb2.PutBlobRequest(data=b"x" * CHUNK_BYTES)
        await asyncio.Event().wait()

    call = service.blobs.PutBlob(stuck())
    await service.until_on_disk(1)
    call.cancel()
    await service.until_on_disk(0)


@pytest.mark.parametrize("ends", [[], [False], [False, False], [True, False], [True, True]])
async def test_a_stream_that_ends_without_saying_that_it_is_whole_leaves_nothing(
    service: Service, ends: list[bool]
) -> None:
    async def parts() -> AsyncIterator[blobs_pb2.PutBlobRequest]:
        for whole in ends:
            yield blobs_pb2.PutBlobRequest(data=b"x" * CHUNK_BYTES, whole=whole)

    with pytest.raises(Invalid):
        await unary(service.blobs.PutBlob, parts())  # type: ignore[arg-type]  # a stream in
    assert service.on_disk() == []


async def test_the_empty_blob(service: Service) -> None:
    stored = await put(service, b"")
    assert (stored.digest, stored.size) == (hashlib.sha256(b"").hexdigest(), 0)
    assert await get(service, stored.digest) == []


async def test_what_runs_leave_goes_and_sources_stay(service: Service) -> None:
    async def source() -> AsyncIterator[blobs_pb2.PutBlobRequest]:
        yield blobs_pb2.PutBlobRequest(data=b"app ", lasting=True)
        yield blobs_pb2.PutBlobRequest(data=b"= 1", whole=True)

    kept: blobs_pb2.PutBlobResponse = await unary(service.blobs.PutBlob, source())  # type: ignore[arg-type]  # stream
    log = await put(service, b"a log")
    for _ in range(2):
        await service.clock.advance(service.settings.blob_lifetime.total_seconds() + 3600)
    await service.until_on_disk(0)
    with pytest.raises(NotFound):
        await get(service, log.digest)
    assert await get(service, kept.digest) == [b"app = 1"]
