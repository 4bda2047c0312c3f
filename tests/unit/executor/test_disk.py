"""Counting what a sandbox wrote, in directories that try to hide it."""

import asyncio
import gc
import re
from pathlib import Path

import pytest

from executor import disk

MIB = 1 << 20


def fill(path: Path, size: int) -> None:
    path.write_bytes(b"x" * size)


def test_all_below_is_counted_once_and_links_lead_nowhere(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    (inside / "a" / "b").mkdir(parents=True)
    outside.mkdir()
    fill(inside / "a" / "b" / "file", 2 * MIB)
    fill(inside / "top", MIB)
    fill(outside / "file", 8 * MIB)
    (inside / "link").symlink_to(outside)
    (inside / "file").symlink_to(outside / "file")
    assert 3 * MIB <= disk.used([inside, tmp_path / "gone"]) < 4 * MIB


def test_a_hole_takes_no_room(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 30)
    assert disk.used([tmp_path]) < MIB


def test_a_place_that_became_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "place").symlink_to("/usr")
    with pytest.raises(OSError, match="place"):
        disk.used([tmp_path / "place"])


def test_what_is_too_deep_or_too_much_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gc.collect()  # what other tests have left open
    before = len(list(Path("/proc/self/fd").iterdir()))
    (tmp_path / "/".join("d" * (disk.DEEPEST + 1))).mkdir(parents=True)
    with pytest.raises(disk.Unmeasurable, match="deep"):
        disk.used([tmp_path])
    monkeypatch.setattr(disk, "MOST_ENTRIES", 10)
    with pytest.raises(disk.Unmeasurable, match="10 files"):
        disk.used([tmp_path])
    assert len(list(Path("/proc/self/fd").iterdir())) == before


async def test_whoever_writes_too_much_is_told_of_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "LOOK_SECONDS", 0.01)
    told: list[str] = []
    over = asyncio.Event()

    def hear(what: str) -> None:
        told.append(what)
        over.set()

    async with disk.watched([tmp_path], 2 * MIB, hear):
        fill(tmp_path / "first", MIB)
        await asyncio.sleep(0.1)
        assert not told
        fill(tmp_path / "second", 2 * MIB)
        async with asyncio.timeout(10):
            await over.wait()
        await asyncio.sleep(0.1)
    assert re.fullmatch("the run wrote [23] MiB, more than its limit of 2 MiB", " ".join(told))  # looked while we wrote
