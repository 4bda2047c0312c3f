"""What the self-check holds against a sandbox, a step at a time. Real sandboxes: tests/integration."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from executor import probe_inside
from executor.seen import NAMESPACES, Mount, Seen
from executor.self_check import WRITABLE, Wanted, outside_faults, told_faults

WANTED = Wanted(range(200_000, 200_010), range(200_000, 200_010), group="runmesh-7")
CLOSED = frozenset({"ro", "nosuid", "nodev"})
OPEN = frozenset({"rw", "nosuid", "nodev"})
OURS = Seen({}, {kind: f"{kind}:[1]" for kind in NAMESPACES}, (), {}, {}, frozenset({"lo", "eth0"}))
GOOD = Seen(
    status={
        "Uid": "200001\t200001\t200001\t200001", "Gid": "200001\t200001\t200001\t200001", "Groups": "",
        "CapInh": "0000000000000000", "CapPrm": "0000000000000000", "CapEff": "0000000000000000",
        "CapBnd": "0000000000000000", "CapAmb": "0000000000000000", "NoNewPrivs": "1", "Seccomp": "2",
    },
    namespaces={kind: f"{kind}:[2]" for kind in NAMESPACES},
    mounts=(
        Mount(1, 0, "/newroot", "/", CLOSED, "tmpfs"),
        Mount(2, 1, "/", "/proc", OPEN, "proc"),
        Mount(3, 2, "/sys", "/proc/sys", CLOSED, "proc"),
        Mount(4, 1, "/null", "/dev/null", frozenset({"rw", "nosuid"}), "devtmpfs"),
        Mount(5, 1, "/", "/dev/pts", frozenset({"rw", "nosuid", "noexec"}), "devpts"),
        Mount(6, 1, "/x/tmp", "/tmp", OPEN, "ext4"),
    ),
    groups=dict.fromkeys(("memory", "pids", "cpu"), "/a/runmesh-7/run_1"),
    limits={"Max core file size": "0", "Max open files": "4096"},
    devices=frozenset({"lo"}),
)  # fmt: skip


def told(**changes: Any) -> Mapping[str, Any]:
    attempts = dict.fromkeys(probe_inside.ATTEMPTS, "EPERM")
    good = {"uid": 1000, "processes": 2, "environ": 0, "landlock": True, "imported": attempts, "served": attempts}
    return {**good, **changes}


def test_a_whole_one() -> None:
    assert outside_faults(GOOD, OURS, WANTED) == []
    assert told_faults(told(), landlock=True) == []


def test_version_2_of_control_groups() -> None:
    assert outside_faults(replace(GOOD, groups={"": "/x/runmesh-7/run_1"}), OURS, WANTED) == []


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        ("Uid", "0 0 0 0", "on the host its uid is 0"),
        ("Uid", "200001 200001 0 200001", "on the host its uid is 0"),
        ("Gid", "200001 200001 200001 0", "on the host its gid is 0"),
        ("Groups", "27", "on the host it is in the group 27"),
        ("CapEff", "0000000000200000", "it has capabilities (CapEff 200000)"),
        ("CapBnd", "000001ffffffffff", "it has capabilities (CapBnd 1ffffffffff)"),
        ("NoNewPrivs", "0", "no_new_privs isn't set"),
        ("Seccomp", "0", "there is no system-call filter"),
    ],
)
def test_rights(name: str, value: str, fault: str) -> None:
    assert outside_faults(replace(GOOD, status={**GOOD.status, name: value}), OURS, WANTED) == [fault]


@pytest.mark.parametrize("kind", NAMESPACES)
def test_namespaces(kind: str) -> None:
    it = replace(GOOD, namespaces={**GOOD.namespaces, kind: OURS.namespaces[kind]})
    assert outside_faults(it, OURS, WANTED) == [f"it is in the host's {kind} namespace"]


@pytest.mark.parametrize(
    ("mount", "faults"),
    [
        (Mount(9, 1, "/usr", "/usr", OPEN, "ext4"), ["/usr is writable"]),
        (Mount(9, 1, "/usr", "/usr", frozenset({"ro", "nodev"}), "ext4"), ["/usr isn't nosuid"]),
        (Mount(9, 1, "/usr", "/usr", frozenset({"ro", "nosuid"}), "ext4"), ["/usr isn't nodev"]),
        (Mount(9, 1, "/null", "/x", OPEN, "ext4"), ["/x is writable"]),
        (Mount(9, 1, "/", "/", CLOSED, "ext4"), ["its root is no directory of its own"]),
        (Mount(9, 1, "/slots", "/runmesh/slots", OPEN, "ext4"), ["/runmesh/slots is writable"]),
        (Mount(9, 1, "/", "/proc/sys", OPEN, "proc"), ["/proc/sys is writable"]),
    ],
)
def test_mounts(mount: Mount, faults: list[str]) -> None:
    assert outside_faults(replace(GOOD, mounts=(*GOOD.mounts, mount)), OURS, WANTED) == faults


def test_the_kernels_settings_must_be_covered() -> None:
    it = replace(GOOD, mounts=tuple(mount for mount in GOOD.mounts if mount.point != "/proc/sys"))
    assert outside_faults(it, OURS, WANTED) == ["/proc/sys isn't read-only"]


def test_what_slots_are_made_from_is_a_templates_to_write() -> None:
    it = replace(GOOD, mounts=(*GOOD.mounts, Mount(9, 1, "/slots", "/runmesh/slots", OPEN, "ext4")))
    wanted = replace(WANTED, writable=frozenset({*WRITABLE, "/runmesh/slots"}))
    assert outside_faults(it, OURS, wanted) == []


def test_the_network() -> None:
    found = outside_faults(replace(GOOD, devices=frozenset({"lo", "eth0"})), OURS, WANTED)
    assert found == ["its network has the devices eth0, lo"]


@pytest.mark.parametrize("path", ["/", "/a/runmesh-8/run_1", "/a/runmesh-7"])
def test_control_groups(path: str) -> None:
    found = outside_faults(replace(GOOD, groups={**GOOD.groups, "pids": path}), OURS, WANTED)
    assert found == ["it isn't in a control group for pids"]
    assert outside_faults(replace(GOOD, groups={}), OURS, replace(WANTED, group="")) == []


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        ("Max core file size", "unlimited", "it may leave a core file"),
        ("Max open files", "unlimited", "the number of its open files isn't limited"),
        ("Max open files", "65536", "the number of its open files isn't limited"),
    ],
)
def test_limits(name: str, value: str, fault: str) -> None:
    assert outside_faults(replace(GOOD, limits={**GOOD.limits, name: value}), OURS, WANTED) == [fault]


@pytest.mark.parametrize("attempt", probe_inside.ATTEMPTS)
@pytest.mark.parametrize(("when", "words"), [("imported", "while it is imported"), ("served", "while it serves")])
def test_attempts(attempt: str, when: str, words: str) -> None:
    attempts = {**told()[when], attempt: "allowed"}
    assert told_faults(told(**{when: attempts}), landlock=True) == [f"{words} it is allowed {attempt}"]


def test_an_attempt_that_was_not_made_proves_nothing() -> None:
    assert len(told_faults(told(served={}), landlock=True)) == len(probe_inside.ATTEMPTS)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"uid": 0}, "inside its uid is 0"),
        ({"processes": 90}, "it sees 90 processes"),
        ({"environ": 12}, "it can read the environment that its init was started with"),
        ({"landlock": False}, "Landlock isn't in force"),
    ],
)
def test_what_it_notices(change: dict[str, Any], fault: str) -> None:
    assert told_faults(told(**change), landlock=True) == [fault]


def test_a_host_without_landlock() -> None:
    assert told_faults(told(landlock=False), landlock=False) == []
