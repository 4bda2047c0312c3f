"""Directories of runs are made, entered and removed by root, while hostile code may rename what lies around them."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from executor import furnish, staging


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """With a template's directory, whose owner may do in `slots` what it likes."""
    (tmp_path / "runs" / "template-1" / "slots").mkdir(parents=True)
    return tmp_path / "runs"


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    (tmp_path / "victim" / "slots").mkdir(parents=True)
    return tmp_path / "victim"


def owner(path: Path) -> tuple[int, int]:
    about = path.lstat()
    return about.st_uid, about.st_gid


def test_a_directory_with_its_parts(runs: Path) -> None:
    place = staging.make_directory(runs, runs / "run-1", None)
    assert sorted(path.name for path in place.iterdir()) == ["slots", "tmp", "work"]
    assert {path.stat().st_mode & 0o777 for path in (place, *place.iterdir())} == {0o700}
    with pytest.raises(FileExistsError):
        staging.make_directory(runs, runs / "run-1", None)


@pytest.mark.parametrize("name", ["..", "a b", "", "x" * 101, "a\0", "."])
def test_names_that_are_none(runs: Path, name: str) -> None:
    with pytest.raises((OSError, ValueError)):
        staging.make_directory(runs, runs / "template-1" / "slots" / name, None)


def test_it_belongs_to_its_uid(runs: Path) -> None:
    uid = 200_001 if os.getuid() == 0 else os.getuid()  # only root gives directories away
    place = staging.make_directory(runs, runs / "run-1", uid, ("tmp",))
    assert owner(place) == owner(place / "tmp") == (uid, uid)


Swap = Callable[[Path, Path], None]
SWAPS: dict[str, Swap] = {
    "a link": lambda place, victim: place.symlink_to(victim),
    "a directory of its own": lambda place, victim: place.mkdir(),
    "a file": lambda place, victim: place.touch(),
}


@pytest.mark.parametrize("part", ["slot-1", "tmp"])
@pytest.mark.parametrize("swap", SWAPS)
def test_what_is_put_in_the_place_of_a_new_directory_is_left_alone(
    runs: Path, victim: Path, monkeypatch: pytest.MonkeyPatch, swap: str, part: str
) -> None:
    """At the worst moment: after it was made, before it is entered."""
    place, before = runs / "template-1" / "slots" / "slot-1", owner(victim)
    swapped: list[Path] = []
    original = os.mkdir

    def mkdir(name: str, mode: int = 0o777, **options: Any) -> None:
        original(name, mode, **options)
        if name == part and not swapped and options:
            swapped.append(place if part == "slot-1" else place / part)
            swapped[0].rename(runs / "template-1" / "slots" / "elsewhere")
            SWAPS[swap](swapped[0], victim)
            if os.getuid() == 0:
                os.chown(swapped[0], 200_002, 200_002, follow_symlinks=False)

    monkeypatch.setattr(os, "mkdir", mkdir)
    uid = 200_001 if os.getuid() == 0 else None
    if os.getuid() == 0 or swap != "a directory of its own":
        with pytest.raises(OSError, match=r"another directory|Not a directory|symbolic links"):
            staging.make_directory(runs, place, uid)
        if uid is not None:
            assert owner(swapped[0]) == (200_002, 200_002)
    assert (owner(victim), [path.name for path in victim.iterdir()]) == (before, ["slots"])


@pytest.mark.parametrize("step", ["template-1", "template-1/slots", "template-1/slots/slot-1"])
def test_no_link_is_followed_on_the_way(runs: Path, victim: Path, step: str) -> None:
    slot = staging.make_directory(runs, runs / "template-1" / "slots" / "slot-1", None, furnish.PARTS)
    (victim / "slots" / "slot-1" / "tmp").mkdir(parents=True)
    (runs / step).rename(runs / "elsewhere")
    (runs / step).symlink_to({1: victim, 2: victim / "slots", 3: victim / "slots" / "slot-1"}[step.count("/") + 1])
    attempts: list[Callable[[], Any]] = [
        lambda: os.close(staging.open_below(runs, slot)),
        lambda: staging.remove_empty(runs, slot / "tmp"),
        lambda: staging.make_directory(runs, slot / "new", None),
    ]
    for attempt in attempts:
        with pytest.raises(OSError, match=r"Not a directory|symbolic links"):
            attempt()
    assert not furnish.remove_untouched(runs, slot)
    # In a process of its own: it ends the one that it is called in, and ours, which has grpc in it, mustn't fork.
    sweeping = (
        "import sys; from pathlib import Path; from executor import spawned; "
        "spawned.sweep(Path(sys.argv[1]), Path(sys.argv[2]), None)"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", sweeping, runs, slot], check=False, timeout=30, capture_output=True
        ).returncode
        == 1
    )
    assert [path.name for path in (victim / "slots" / "slot-1").iterdir()] == ["tmp"]


def test_what_a_slot_left_untouched_goes(runs: Path) -> None:
    slot = staging.make_directory(runs, runs / "template-1" / "slots" / "slot-1", None, furnish.PARTS)
    for part in ("tmp.overlay", "work.overlay"):
        (slot / part / "work").mkdir()
    assert furnish.remove_untouched(runs, slot)
    assert list((runs / "template-1" / "slots").iterdir()) == []
    slot = staging.make_directory(runs, slot, None, furnish.PARTS)
    (slot / "tmp" / "left").touch()
    for part in ("tmp.overlay", "work.overlay"):
        (slot / part / "work").mkdir()
    assert not furnish.remove_untouched(runs, slot)
    assert (slot / "tmp" / "left").exists()
