import hashlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from filestore.backend import CHUNK_BYTES
from filestore.blobs import Blobs
from kit.errors import Invalid, NotFound
from tests.fakes.memory_files import MemoryBackend

LIMIT = 3 * CHUNK_BYTES


async def chunks(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


@pytest.fixture
def backend() -> MemoryBackend:
    return MemoryBackend()


@pytest.fixture
def blobs(backend: MemoryBackend) -> Blobs:
    return Blobs(backend, LIMIT)


async def test_a_blob_is_known_by_its_digest(blobs: Blobs, backend: MemoryBackend) -> None:
    stored = await blobs.put(chunks(b"a", b"bc"))
    digest = hashlib.sha256(b"abc").hexdigest()
    assert (stored.digest, stored.size) == (digest, 3)
    assert await blobs.size(digest) == 3
    assert [chunk async for chunk in blobs.get(digest)] == [b"abc"]
    assert list(backend.kept) == [f"blobs/{digest[:2]}/{digest[2:4]}/{digest}"]


async def test_putting_again_changes_nothing(blobs: Blobs, backend: MemoryBackend) -> None:
    first, second = await blobs.put(chunks(b"same")), await blobs.put(chunks(b"sa", b"me"))
    assert first == second
    assert len(backend.kept) == 1


async def test_a_lasting_blob_lies_apart_and_is_found_all_the_same(blobs: Blobs, backend: MemoryBackend) -> None:
    stored = await blobs.put(chunks(b"source"), lasting=True)
    assert [key.partition("/")[0] for key in backend.kept] == ["lasting"]
    assert [chunk async for chunk in blobs.get(stored.digest)] == [b"source"]
    await blobs.put(chunks(b"source"))
    await backend.delete_old("blobs", datetime.max.replace(tzinfo=UTC))
    assert await blobs.size(stored.digest) == 6


async def test_it_is_read_in_chunks_of_256_kib(blobs: Blobs) -> None:
    stored = await blobs.put(chunks(b"x" * (2 * CHUNK_BYTES + 1)))
    assert [len(chunk) async for chunk in blobs.get(stored.digest)] == [CHUNK_BYTES, CHUNK_BYTES, 1]


async def test_the_empty_blob(blobs: Blobs) -> None:
    stored = await blobs.put(chunks())
    assert [chunk async for chunk in blobs.get(stored.digest)] == []
    assert await blobs.size(stored.digest) == 0


async def test_a_blob_has_a_largest_size(blobs: Blobs, backend: MemoryBackend) -> None:
    with pytest.raises(Invalid) as caught:
        await blobs.put(chunks(b"x" * LIMIT, b"x"))
    assert caught.value.code == "too_large"
    assert backend.kept == {}
    await blobs.put(chunks(b"x" * LIMIT))


@pytest.mark.parametrize(
    "digest", ["", "a" * 63, "a" * 65, "A" * 64, "g" * 64, "../" * 21 + "a", "a" * 64 + "\n", "0" * 64]
)
async def test_what_is_no_digest_is_not_found(blobs: Blobs, digest: str) -> None:
    with pytest.raises(NotFound):
        await blobs.size(digest)
    with pytest.raises(NotFound):
        async for _ in blobs.get(digest):
            pass
