"""The spawner's uids, and which directories it has to stage."""

from pathlib import Path

import pytest

from executor.jobs import Uids
from executor.staging import behind_closed_door, free_place


def test_a_uid_serves_one_sandbox_at_a_time_and_comes_back_late() -> None:
    uids = Uids(200_000, 3)
    first, second, third = uids.take(), uids.take(), uids.take()
    assert {first, second, third} == {200_000, 200_001, 200_002}
    with pytest.raises(OSError, match="taken"):
        uids.take()
    uids.taken.discard(second)
    assert uids.take() == second


def test_the_stage_covers_nothing_that_is_needed(tmp_path: Path) -> None:
    full, empty, absent = tmp_path / "full", tmp_path / "empty", tmp_path / "absent"
    full.mkdir()
    empty.mkdir()
    (full / "something").mkdir()
    assert free_place([absent, full, empty], []) == empty
    assert free_place([absent, full], []) == full
    with pytest.raises(OSError, match="is free"):
        free_place([absent, full], [full / "something"])


def test_what_lies_behind_a_closed_door(tmp_path: Path) -> None:
    # tmp_path is 0700 itself, so something behind it always is.
    inner = tmp_path / "a" / "b" / "c"
    inner.mkdir(parents=True)
    assert behind_closed_door(inner) == tmp_path / "a"
    (tmp_path / "a" / "b").chmod(0o700)
    assert behind_closed_door(inner) == inner
    assert behind_closed_door(Path("/usr/bin")) is None
