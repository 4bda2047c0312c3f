"""The doctor and version 2 of control groups: what it says of them, and that it steps aside. A tree of plain files."""

import os
from pathlib import Path

import pytest

from executor.doctor import ControlGroups


def tree(place: Path, controllers: str = "cpuset cpu io memory pids") -> Path:
    (place / "cgroup.controllers").write_text(controllers)
    (place / "cgroup.subtree_control").write_text("")
    (place / "cgroup.procs").write_text("")
    return place


def test_a_tree_without_the_controllers_is_none(tmp_path: Path) -> None:
    assert ControlGroups.at(tree(tmp_path, "hugetlb")) == ControlGroups(tmp_path)
    assert ControlGroups.at(tmp_path / "nowhere") == ControlGroups(tmp_path / "nowhere")


def test_a_tree_of_ours(tmp_path: Path) -> None:
    assert ControlGroups.at(tree(tmp_path)) == ControlGroups(tmp_path, is_unified=True)


def test_a_tree_that_is_not_delegated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = tree(tmp_path) / "cgroup.procs"
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != closed and access(path, mode))
    assert ControlGroups.at(tmp_path).error == f"{closed} can't be written to"


def test_it_steps_aside_and_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's own files go with their directory, which plain ones don't: they are removed by hand here."""
    groups = ControlGroups.at(tree(tmp_path))
    with groups.aside():
        (own,) = [path for path in tmp_path.iterdir() if path.is_dir()]
        assert own.name == f"runmesh-doctor-{os.getpid()}"
        assert (own / "cgroup.procs").read_text() == "0"
        (own / "cgroup.procs").unlink()
        (own / "runmesh-services").mkdir()  # the spawner's
    assert (tmp_path / "cgroup.procs").read_text() == "0"
    assert not own.exists()


def test_it_stays_where_there_is_nothing_to_disturb(tmp_path: Path) -> None:
    with ControlGroups(tmp_path).aside():
        assert list(tmp_path.iterdir()) == []
