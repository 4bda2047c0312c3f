import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from executor.model import sha256_hex
from executor.versions import Versions
from kit.errors import NotFound, Unavailable
from tests.fakes.executor import SOURCE, VERSION, FakeBlobs, FakeBook


async def test_a_version_is_asked_for_once(tmp_path: Path) -> None:
    book = FakeBook()
    versions = Versions(book, FakeBlobs(), tmp_path / "sources")
    assert await versions.version("ver_1") == await versions.version("ver_1") == VERSION
    assert book.asked == 1
    with pytest.raises(NotFound):
        await versions.version("ver_2")


async def test_a_source_is_fetched_once(tmp_path: Path) -> None:
    blobs = FakeBlobs()
    versions = Versions(FakeBook(), blobs, tmp_path / "sources")
    assert await versions.source(VERSION) == await versions.source(VERSION) == SOURCE
    assert blobs.gets == 1
    again = Versions(FakeBook(), blobs, tmp_path / "sources")
    assert await again.source(VERSION) == SOURCE
    assert blobs.gets == 1


async def test_a_source_that_was_tampered_with_is_fetched_again(tmp_path: Path) -> None:
    blobs = FakeBlobs()
    versions = Versions(FakeBook(), blobs, tmp_path / "sources")
    await versions.source(VERSION)
    (tmp_path / "sources" / VERSION.source_digest).write_bytes(b"evil")
    assert await versions.source(VERSION) == SOURCE
    assert await Versions(FakeBook(), blobs, tmp_path / "sources").source(VERSION) == SOURCE
    assert blobs.gets == 2


async def test_so_many_bytes_of_sources_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("executor.versions.REMEMBERED_BYTES", 10)
    sources = [b"%d" % number * 6 for number in range(3)]
    blobs = FakeBlobs({sha256_hex(source): source for source in sources})
    versions = Versions(FakeBook(), blobs, tmp_path / "sources")
    for source in (*sources, *reversed(sources)):
        assert await versions.source(replace(VERSION, source_digest=sha256_hex(source))) == source
    assert len(versions._sources) == 1


async def test_many_first_calls_at_once_count_a_source_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("executor.versions.REMEMBERED_BYTES", 3 * len(SOURCE))
    other = bytes(reversed(SOURCE))
    blobs = FakeBlobs({VERSION.source_digest: SOURCE, sha256_hex(other): other})
    versions = Versions(FakeBook(), blobs, tmp_path / "sources")
    assert set(await asyncio.gather(*(versions.source(VERSION) for _ in range(40)))) == {SOURCE}
    await versions.source(replace(VERSION, source_digest=sha256_hex(other)))
    assert len(versions._sources) == 2


async def test_another_source_than_the_deployed_one_is_refused(tmp_path: Path) -> None:
    blobs = FakeBlobs({VERSION.source_digest: b"evil"})
    with pytest.raises(Unavailable):
        await Versions(FakeBook(), blobs, tmp_path / "sources").source(VERSION)
    with pytest.raises(NotFound):
        await Versions(FakeBook(), blobs, tmp_path / "sources").source(replace(VERSION, source_digest="0" * 64))
    assert list((tmp_path / "sources").iterdir()) == []
