"""What `runmesh doctor` makes of what it finds: level, and whether the remedy is the right one."""

from collections.abc import Callable

import pytest

from executor import preconditions
from executor.preconditions import FAULT, OK, WARNING, Finding

GIB = 1 << 30


def settings(**values: str) -> Callable[[str], str | None]:
    return {name.replace("__", "/"): value for name, value in values.items()}.get


@pytest.mark.parametrize(
    ("version", "level"),
    [
        (None, FAULT), ("bubblewrap 0.8.0\n", OK), ("bubblewrap 0.11.0", OK), ("bubblewrap 1.0", OK),
        ("bubblewrap 0.7.9", FAULT), ("", FAULT), ("something else", FAULT),
    ],
)  # fmt: skip
def test_bubblewrap(version: str | None, level: str) -> None:
    assert preconditions.bubblewrap(version).level == level


def test_processors() -> None:
    assert preconditions.architecture("x86_64", ["x86_64"]).level == OK
    assert "aarch64" in preconditions.architecture("riscv64", ["x86_64", "aarch64"]).remedy


@pytest.mark.parametrize(
    ("found", "remedy"),
    [
        ({"user__max_user_namespaces": "0"}, "sysctl user.max_user_namespaces=10000"),
        ({"kernel__unprivileged_userns_clone": "0"}, "sysctl kernel.unprivileged_userns_clone=1"),
        ({"kernel__apparmor_restrict_unprivileged_userns": "1"}, "AppArmor profile"),
        ({"user__max_user_namespaces": "96343"}, "in a container"),
        ({}, "in a container"),
    ],
)
def test_user_namespaces(found: dict[str, str], remedy: str) -> None:
    finding = preconditions.user_namespaces("unshare: Operation not permitted", settings(**found))
    assert finding.level == FAULT
    assert remedy in finding.remedy
    assert preconditions.user_namespaces("", settings(**found)).level == OK


@pytest.mark.parametrize(
    ("version", "level"), [(0, WARNING), (1, WARNING), (2, WARNING), (5, WARNING), (6, OK), (9, OK)]
)
def test_landlock(version: int, level: str) -> None:
    assert preconditions.landlock(version).level == level


@pytest.mark.parametrize(
    ("actions", "level"),
    [(None, FAULT), ("", FAULT), ("errno allow", FAULT), ("kill_process kill_thread trap errno trace log allow", OK)],
)
def test_seccomp(actions: str | None, level: str) -> None:
    assert preconditions.seccomp(actions).level == level


@pytest.mark.parametrize(
    ("uid", "uid_map", "level"),
    [
        (0, "         0          0 4294967295\n", OK),
        (0, "0 100000 65536\n", FAULT),
        (0, "0 1000 1\n1 100000 199999\n200000 300000 10000\n", OK),
        (0, "0 1000 1\n", FAULT),
        (1000, "0 0 4294967295\n", WARNING),
    ],
)
def test_uids(uid: int, uid_map: str, level: str) -> None:
    assert preconditions.uids(uid, uid_map, range(200_000, 210_000)).level == level


def test_control_groups() -> None:
    assert preconditions.control_groups("", root=False).level == OK
    assert "Delegate=yes" in preconditions.control_groups("permission denied", root=False).remedy
    finding = preconditions.control_groups("read-only file system", root=True)
    assert (finding.level, "Delegate" in finding.remedy) == (WARNING, False)


@pytest.mark.parametrize(("free", "level"), [(11 * GIB, OK), (9 * GIB, WARNING), (GIB // 2, FAULT)])
def test_disk(free: int, level: str) -> None:
    assert preconditions.disk(free, "/data").level == level


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("kernel/io_uring_disabled", "2", "1"),
        ("kernel/unprivileged_bpf_disabled", "2", "0"),
        ("vm/unprivileged_userfaultfd", "0", "1"),
        ("dev/tty/legacy_tiocsti", "0", "1"),
        ("kernel/yama/ptrace_scope", "1", "0"),
        ("kernel/core_pattern", "core", "|/usr/lib/systemd/systemd-coredump %P"),
        ("fs/protected_symlinks", "1", "0"),
        ("fs/protected_hardlinks", "1", "0"),
        ("fs/protected_fifos", "2", "0"),
        ("fs/protected_regular", "1", "0"),
    ],
)
def test_kernel_settings(name: str, good: str, bad: str) -> None:
    assert [finding.level for finding in preconditions.kernel_settings({name: good}.get)] == [OK]
    (finding,) = preconditions.kernel_settings({name: bad}.get)
    assert (finding.name, finding.level) == (name.replace("/", "."), WARNING)
    assert finding.remedy.startswith(f"sysctl -w {finding.name}=")
    wanted = finding.remedy.partition("=")[2]
    assert preconditions.kernel_settings({name: wanted}.get)[0].level == OK  # the remedy cures


def test_every_setting_is_looked_at() -> None:
    assert len(preconditions.KERNEL_SETTINGS) == 10
    assert len(preconditions.kernel_settings(lambda _: "|bad")) == 10


def test_no_sandbox_at_all_is_a_fault() -> None:
    assert preconditions.isolation("bubblewrap") == preconditions.isolation("gvisor") == []
    assert [finding.level for finding in preconditions.isolation("none")] == [FAULT]


def test_interpreters() -> None:
    assert preconditions.interpreters(["3.11.7"]) == Finding("interpreters", OK, "Python 3.11.7")
    assert preconditions.interpreters([]).level == FAULT


def test_a_warning_stops_nobody() -> None:
    fine, slow, broken = (Finding("x", level, "") for level in (OK, WARNING, FAULT))
    assert preconditions.works([fine, slow])
    assert not preconditions.works([fine, slow, broken])


def test_tried() -> None:
    assert preconditions.tried("x", "", FAULT, "cure").remedy == ""
    assert preconditions.tried("x", "EPERM", FAULT, "cure") == Finding("x", FAULT, "EPERM", "cure")


@pytest.mark.parametrize(
    ("complaint", "level", "word"),
    [(None, FAULT, "isn't installed"), ("runsc 1 is 400 days old", WARNING, "400 days"), ("", OK, "runsc 1")],
)
def test_runsc(complaint: str | None, level: str, word: str) -> None:
    found = preconditions.runsc(complaint, "1", "/usr/bin/runsc")
    assert (found.name, found.level, bool(found.remedy)) == ("gVisor", level, level != OK)
    assert word in found.found
