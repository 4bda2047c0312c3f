"""Control groups in a made-up tree of files: what is found, written and read. The real ones are in integration."""

import os
from pathlib import Path

import pytest

from executor import cgroups
from executor.cgroups import Bounds, Cgroups, Usage

BOUNDS = Bounds(memory=1 << 30, processes=64, cpu=0.5)
V1 = """30 23 0:27 / /cg/memory rw,relatime - cgroup cgroup rw,memory
31 23 0:28 / /cg/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
32 23 0:29 / /cg/unified rw,relatime - cgroup2 cgroup2 rw
33 23 0:30 / /proc rw - proc proc rw
"""


def test_what_is_mounted_where() -> None:
    both = Path("/cg/cpu,cpuacct")
    found = cgroups._mounts(V1)
    expected = {"memory": Path("/cg/memory"), "cpu": both, "cpuacct": both, "": Path("/cg/unified"), "rw": found["rw"]}
    assert found == expected


def test_where_we_are() -> None:
    assert cgroups._places("4:memory:/a/b\n1:cpu,cpuacct:/\n0::/c:d\n") == {
        "memory": "/a/b",
        "cpu": "/",
        "cpuacct": "/",
        "": "/c:d",
    }


def files(directory: Path, **content: str) -> None:
    directory.mkdir(exist_ok=True)
    for name, text in content.items():
        (directory / name.replace("__", ".")).write_text(text)


def test_limits_and_usage_of_version_2(tmp_path: Path) -> None:
    directory = tmp_path / "run_1"
    files(directory, memory__max="max", memory__peak="4096", cpu__stat="usage_usec 1500000\nuser_usec 1")
    files(directory, memory__events="low 0\noom_kill 2")
    directories = dict.fromkeys(("memory", "pids", "cpu", "cpuacct"), directory)
    cgroups._limit(directories, BOUNDS)
    assert (directory / "memory.max").read_text() == str(1 << 30)
    assert (directory / "memory.swap.max").read_text() == "0"
    assert (directory / "pids.max").read_text() == "64"
    assert (directory / "cpu.max").read_text() == "50000 100000"
    assert cgroups.Group(directories).usage() == Usage(1.5, 4096, 2)


def test_limits_and_usage_of_version_1(tmp_path: Path) -> None:
    directories = {name: tmp_path / name for name in ("memory", "pids", "cpu", "cpuacct")}
    for directory in directories.values():
        files(directory)
    files(directories["memory"], memory__max_usage_in_bytes="8192", memory__oom_control="under_oom 0\noom_kill 1")
    files(directories["cpuacct"], cpuacct__usage="2500000000")
    cgroups._limit(directories, BOUNDS)
    assert (directories["memory"] / "memory.limit_in_bytes").read_text() == str(1 << 30)
    assert not (directories["memory"] / "memory.memsw.limit_in_bytes").exists()
    assert (directories["cpu"] / "cpu.cfs_quota_us").read_text() == "50000"
    assert cgroups.Group(directories).usage() == Usage(2.5, 8192, 1)


def test_no_bound_is_no_limit(tmp_path: Path) -> None:
    files(tmp_path / "g")
    cgroups._limit(dict.fromkeys(("memory", "pids", "cpu", "cpuacct"), tmp_path / "g"), Bounds())
    assert not list((tmp_path / "g").iterdir())


def test_what_cannot_be_read_is_nothing(tmp_path: Path) -> None:
    assert cgroups.Group(dict.fromkeys(("memory", "cpuacct"), tmp_path / "gone")).usage() == Usage()


def test_version_2_is_taken_where_its_controllers_are(tmp_path: Path) -> None:
    files(tmp_path, cgroup__controllers="cpu memory pids io", cgroup__subtree_control="", cgroup__procs="")
    (tmp_path / "runmesh-1").mkdir()
    trees = cgroups._unified(tmp_path, "runmesh-1")
    assert set(trees.values()) == {tmp_path / "runmesh-1"}
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+memory +pids +cpu"
    assert (tmp_path / "runmesh-services").is_dir()


def test_version_2_without_controllers_is_left_alone(tmp_path: Path) -> None:
    files(tmp_path, cgroup__controllers="hugetlb")
    assert cgroups._unified(tmp_path, "runmesh-1") == {}


def test_what_is_missing_is_named() -> None:
    with pytest.raises(OSError, match="pids"):
        cgroups._separate({"memory": Path("/m"), "cpu": Path("/c"), "cpuacct": Path("/c")}, {}, "x")


def test_the_groups_of_dead_spawners_are_removed(tmp_path: Path) -> None:
    (tmp_path / "runmesh-4194304" / "run_1").mkdir(parents=True)  # above the greatest pid
    (tmp_path / f"runmesh-{os.getpid()}" / "run_1").mkdir(parents=True)
    cgroups._sweep_dead(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [f"runmesh-{os.getpid()}"]


def test_a_group_that_cannot_be_limited_is_not_left(tmp_path: Path) -> None:
    trees = Cgroups(dict.fromkeys(("memory", "pids", "cpu"), tmp_path / "gone"))
    with pytest.raises(OSError, match="gone"):
        trees.make("run_1", BOUNDS)
