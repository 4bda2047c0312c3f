"""What the self-check reads out of /proc."""

import os

import pytest

from executor import seen

MOUNTINFO = """\
1 9 0:41 /newroot / ro,nosuid,nodev - tmpfs tmpfs rw
2 1 254:0 /usr /usr ro,nosuid,nodev,relatime shared:1 master:2 - ext4 /dev/vda rw
3 1 254:0 /runs/a/slots /runmesh/slots rw,nosuid,nodev - ext4 /dev/vda rw
4 1 254:0 /runs/a/tmp /tmp rw,nosuid,nodev - ext4 /dev/vda rw
5 4 254:0 /x /tmp/x ro - ext4 /dev/vda rw
6 4 0:64 / /tmp rw,nosuid,nodev - overlay overlay rw
7 6 254:0 /y /tmp/y ro - ext4 /dev/vda rw
8 1 0:76 / /runmesh ro,nosuid - tmpfs tmpfs ro
9 1 0:77 / /tmpx ro - tmpfs tmpfs ro
"""


def test_what_is_covered_cannot_be_reached() -> None:
    points = [(mount.number, mount.point) for mount in seen.mounts(MOUNTINFO)]
    assert points == [(1, "/"), (2, "/usr"), (6, "/tmp"), (7, "/tmp/y"), (8, "/runmesh"), (9, "/tmpx")]


def test_a_mount() -> None:
    usr = seen.mounts(MOUNTINFO)[1]
    assert (usr.parent, usr.root, usr.kind) == (1, "/usr", "ext4")
    assert usr.options == {"ro", "nosuid", "nodev", "relatime"}


def test_groups_of_both_versions() -> None:
    assert seen.groups("4:memory:/a/b\n2:cpu,cpuacct:/c\n0::/d\n") == {
        "memory": "/a/b", "cpu": "/c", "cpuacct": "/c", "": "/d"
    }  # fmt: skip


def test_ourselves() -> None:
    us = seen.look("self")
    assert us.status["Uid"].split()[0] == str(os.getuid())
    assert us.limits["Max open files"].isdigit()
    assert "lo" in us.devices
    assert set(us.namespaces) <= set(seen.NAMESPACES)
    assert any(mount.point == "/" for mount in us.mounts)
    assert seen.parent(os.getpid()) == os.getppid()
    assert os.getpid() in seen.descendants(os.getppid())


def test_nobody_is_inside() -> None:
    with pytest.raises(ProcessLookupError):
        seen.innermost([os.getpid()], os.getpid())
