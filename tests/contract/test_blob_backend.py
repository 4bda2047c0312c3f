"""The port filestore/backend.py: on the fake, on a disk and on an S3 server."""

import asyncio
import hashlib
from datetime import UTC, datetime
from pathlib import Path

import pytest

from filestore.backend import CHUNK_BYTES
from filestore.disk import DiskBackend
from filestore.model import Stored
from filestore.s3 import PART_BYTES, S3Backend
from kit.errors import NotFound
from kit.names import new_id
from tests.fakes.memory_files import MemoryBackend
from tests.s3_server import S3Server

KEY = "blobs/ab/cd/abcd"
Backend = MemoryBackend | DiskBackend | S3Backend


@pytest.fixture(params=["memory", "disk", "s3"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    if request.param == "s3":
        server: S3Server = request.getfixturevalue("s3")
        return S3Backend(server.bucket(new_id("test")), tmp_path)
    return MemoryBackend() if request.param == "memory" else DiskBackend(tmp_path)


async def tick(backend: Backend) -> datetime:
    """A moment that what was kept before, and what will be kept afterwards, can be told from."""
    seconds = 1.05 if isinstance(backend, S3Backend) else 0.02  # S3 tells seconds; the kernel's clock ticks every 4 ms
    await asyncio.sleep(seconds)
    now = datetime.now(UTC)
    await asyncio.sleep(seconds)
    return now


async def put(backend: Backend, key: str, *pieces: bytes, known: bool = False) -> Stored:
    """`known`: the backend is told the key before."""
    async with backend.receive(key if known else "") as incoming:
        for piece in pieces:
            await incoming.write(piece)
        stored = await incoming.finish()
        await incoming.keep(key)
    return stored


async def read(backend: Backend, key: str) -> bytes:
    async with backend.open(key) as reader:
        return await reader.read(0, reader.size + 1)


@pytest.mark.parametrize(
    "pieces",
    [
        [],
        [b""],
        [b"a"],
        [b"a", b"", b"bc"],
        [bytes([n % 251]) * 1000 for n in range(1500)],
        [b"x" * CHUNK_BYTES, b"y"],
        [b"z" * (3 * CHUNK_BYTES + 7)],
        [b"1"] * 2000,
        [b"part" * (PART_BYTES // 4)],
        [b"p" * PART_BYTES, b"+"],
        [b"12345678" * 1000] * 1500,
        [b"pieces" * (2 * PART_BYTES // 6 + 1)] * 2,
    ],
    ids=["none", "empty", "one", "gap", "many", "chunk", "large", "tiny", "part", "part+1", "parts", "pieces"],
)
@pytest.mark.parametrize("known", [True, False], ids=["known", "unknown"])
async def test_what_was_written_is_read_and_known_by_its_digest(
    backend: Backend, pieces: list[bytes], known: bool
) -> None:
    whole = b"".join(pieces)
    assert await put(backend, KEY, *pieces, known=known) == Stored(hashlib.sha256(whole).hexdigest(), len(whole))
    assert await backend.size(KEY) == len(whole)
    assert await read(backend, KEY) == whole


async def test_ranges_are_read(backend: Backend) -> None:
    await put(backend, KEY, b"0123456789")
    async with backend.open(KEY) as reader:
        assert reader.size == 10
        assert await reader.read(2, 3) == b"234"
        assert await reader.read(8, 5) == b"89"
        assert await reader.read(10, 5) == b""


async def test_nothing_is_seen_before_it_is_kept(backend: Backend) -> None:
    async with backend.receive() as incoming:
        await incoming.write(b"x" * CHUNK_BYTES)
        assert incoming.size == CHUNK_BYTES
        await incoming.finish()
        assert await backend.size(KEY) is None
        await incoming.keep(KEY)
        assert await backend.size(KEY) == CHUNK_BYTES


async def test_what_is_kept_takes_the_place_of_what_was_there(backend: Backend) -> None:
    await put(backend, KEY, b"old")
    async with backend.open(KEY) as reader:
        await put(backend, KEY, b"newer")
        assert await reader.read(0, 9) == b"old"
    assert await read(backend, KEY) == b"newer"


async def test_what_is_open_stays_readable_when_it_is_deleted(backend: Backend) -> None:
    await put(backend, KEY, b"data")
    async with backend.open(KEY) as reader:
        await backend.delete(KEY)
        assert await reader.read(0, 9) == b"data"
    assert await backend.size(KEY) is None
    await backend.delete(KEY)


async def test_all_under_a_prefix_goes(backend: Backend) -> None:
    for key in ("files/aa/one/1", "files/aa/one/2", "files/aa/oneself/1", "files/aa/two/1"):
        await put(backend, key, b"data")
    for _ in range(2):
        await backend.delete_all("files/aa/one")
    found = [await backend.size(f"files/aa/{key}") for key in ("one/1", "one/2", "oneself/1", "two/1")]
    assert found == [None, None, 4, 4]
    await put(backend, "files/aa/one/1", b"again")
    assert await read(backend, "files/aa/one/1") == b"again"


async def test_it_is_read_back_and_forth(backend: Backend) -> None:
    whole = b"".join(n.to_bytes(4, "big") for n in range(PART_BYTES // 2))
    await put(backend, KEY, whole)
    async with backend.open(KEY) as reader:
        for offset, count in ((0, 10), (10, 700_000), (9_000_000, 500), (9_000_500, 500), (3, 300_000), (0, 1)):
            assert await reader.read(offset, count) == whole[offset : offset + count]


async def test_what_isnt_there_isnt_found(backend: Backend) -> None:
    assert await backend.size(KEY) is None
    with pytest.raises(NotFound):
        async with backend.open(KEY):
            pass


async def test_only_what_is_old_and_lies_there_goes(backend: Backend) -> None:
    await put(backend, KEY, b"old")
    await put(backend, "lasting/ab/cd/abcd", b"elsewhere")
    now = await tick(backend)
    await put(backend, "blobs/ab/cd/young", b"young")
    assert await backend.delete_old("blobs", now) == 1
    assert await backend.delete_old("nothing", now) == 0
    assert await backend.size(KEY) is None
    assert await read(backend, "blobs/ab/cd/young") == b"young"
    assert await read(backend, "lasting/ab/cd/abcd") == b"elsewhere"


async def test_what_is_put_again_is_young_again(backend: Backend) -> None:
    await put(backend, KEY, b"same")
    now = await tick(backend)
    await put(backend, KEY, b"same")
    assert await backend.delete_old("blobs", now) == 0
    assert await read(backend, KEY) == b"same"


async def test_many_at_once(backend: Backend) -> None:
    await asyncio.gather(*(put(backend, f"files/aa/f{n}", bytes([n]) * 100_000) for n in range(20)))
    for n in range(20):
        assert await read(backend, f"files/aa/f{n}") == bytes([n]) * 100_000


def on_disk(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


async def test_disk_a_broken_reception_leaves_nothing(tmp_path: Path) -> None:
    async def broken() -> None:
        async with DiskBackend(tmp_path).receive() as incoming:
            await incoming.write(b"x" * CHUNK_BYTES)
            assert len(on_disk(tmp_path)) == 1
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await broken()
    assert on_disk(tmp_path) == []


async def test_disk_a_cancelled_reception_leaves_nothing(tmp_path: Path) -> None:
    backend, writing = DiskBackend(tmp_path), asyncio.Event()

    async def endless() -> None:
        async with backend.receive() as incoming:
            while True:
                writing.set()
                await incoming.write(b"x" * CHUNK_BYTES)

    task = asyncio.create_task(endless())
    await writing.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert on_disk(tmp_path) == []


async def test_disk_a_start_sweeps_what_a_dead_process_left(tmp_path: Path) -> None:
    await put(DiskBackend(tmp_path), KEY, b"kept")
    (tmp_path / "files" / "incoming" / "tmpdead").write_bytes(b"half")
    assert await read(DiskBackend(tmp_path), KEY) == b"kept"
    assert on_disk(tmp_path) == [tmp_path / KEY]


async def test_disk_files_are_for_us_alone(tmp_path: Path) -> None:
    await put(DiskBackend(tmp_path), KEY, b"data")
    assert (tmp_path / KEY).stat().st_mode & 0o777 == 0o600
