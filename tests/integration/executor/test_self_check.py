"""The self-check against real sandboxes: whole ones pass; those that lack a step are refused, and the step is named."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from executor import bubblewrap, probe_inside, seccomp, shim_landlock
from executor.driver import BubblewrapDriver
from executor.self_check import Checked, SelfCheck, refuse_open
from kit.errors import Unavailable

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.timeout(120)
Options = Callable[[list[str]], list[str]]


def self_check(driver: BubblewrapDriver, home: Path) -> SelfCheck:
    cgroups = not driver.spawner.no_cgroups
    return SelfCheck(driver, home, driver.spawner.pid, cgroups=cgroups, landlock=shim_landlock.VERSION >= 2)


def without(*gone: str) -> Options:
    """An option and its arguments."""

    def change(options: list[str]) -> list[str]:
        for place in range(len(options) - len(gone) + 1):
            if tuple(options[place : place + len(gone)]) == gone:
                return options[:place] + options[place + len(gone) :]
        raise AssertionError(f"{gone} isn't there")

    return change


def also(*more: str) -> Options:
    """The last of what is mounted, before the root becomes read-only."""

    def change(options: list[str]) -> list[str]:
        end = next(place for place in range(len(options)) if options[place : place + 2] == ["--remount-ro", "/"])
        return [*options[:end], *more, *options[end:]]

    return change


def bubblewrap_with(monkeypatch: pytest.MonkeyPatch, change: Options) -> None:
    original = bubblewrap.arguments
    monkeypatch.setattr(bubblewrap, "arguments", lambda *given: change(original(*given)))


async def test_a_whole_one_passes(driver: BubblewrapDriver, sandbox_home: Path) -> None:
    assert await self_check(driver, sandbox_home)() == Checked()
    assert sorted(path.name for path in sandbox_home.iterdir()) == ["runs"]  # and it leaves no canary


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (without("--unshare-ipc"), "it is in the host's ipc namespace"),
        (without("--unshare-cgroup-try"), "it is in the host's cgroup namespace"),
        (without("--remount-ro", "/"), "/ is writable"),
        (without("--ro-bind", "/proc/sys", "/proc/sys"), "/proc/sys isn't read-only"),
        (without("--remount-ro", "/dev"), "/dev is writable"),
        (also("--bind", "/usr", "/usr"), "/usr is writable"),
        (also("--dev-bind", "/dev", "/dev"), "/dev isn't nodev"),
    ],
    ids=lambda value: value.replace("/", "_") if isinstance(value, str) else "",
)
async def test_a_step_that_is_missing_is_named(
    driver: BubblewrapDriver, sandbox_home: Path, monkeypatch: pytest.MonkeyPatch, change: Options, fault: str
) -> None:
    bubblewrap_with(monkeypatch, change)
    with pytest.raises(Unavailable, match="isn't complete") as refused:
        await refuse_open(self_check(driver, sandbox_home))
    assert f"a new sandbox: {fault}" in refused.value.message


async def test_without_a_filter(driver: BubblewrapDriver, sandbox_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shim refuses to start user code before we even look."""
    bubblewrap_with(monkeypatch, without("--seccomp", str(bubblewrap.SECCOMP_FD)))
    (fault,) = (await self_check(driver, sandbox_home)()).faults
    assert fault.startswith("a sandbox can't be had: Seccomp is 0")


async def test_that_shows_files_of_the_host(
    driver: BubblewrapDriver, sandbox_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox_home.chmod(0o755)
    bubblewrap_with(monkeypatch, also("--ro-bind", str(sandbox_home), str(sandbox_home)))
    faults = (await self_check(driver, sandbox_home)()).faults
    assert "a new sandbox: while it serves it is allowed to read a file of the host" in faults


async def test_a_filter_that_lets_too_much_through(
    driver: BubblewrapDriver, sandbox_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = seccomp._return(seccomp.ALLOW)
    monkeypatch.setattr(driver._confinement, "filter", everything)
    faults = (await self_check(driver, sandbox_home)()).faults
    assert "a new sandbox: while it serves it is allowed to open a netlink socket" in faults
    assert "a new sandbox: while it is imported it is allowed to trace" in faults


async def test_with_our_own_uid(driver: BubblewrapDriver, sandbox_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.getuid():
        return  # only root's sandboxes have uids of their own
    check = self_check(driver, sandbox_home)
    check._wanted = type(check._wanted)(range(1, 2), range(1, 2), group=check._wanted.group)
    faults = (await check()).faults
    assert any(fault.startswith("a new sandbox: on the host its uid is 20") for fault in faults)
    assert any(fault.startswith("a forked sandbox: its template: on the host its gid is 20") for fault in faults)


async def test_outside_of_its_control_groups(driver: BubblewrapDriver, sandbox_home: Path) -> None:
    check = SelfCheck(driver, sandbox_home, driver.spawner.pid, cgroups=True, landlock=shim_landlock.VERSION >= 2)
    check._wanted = type(check._wanted)(
        check._wanted.uids, check._wanted.gids, check._wanted.groups, "runmesh-somebody-elses"
    )
    faults = (await check()).faults
    for controller in ("memory", "pids", "cpu"):
        assert f"a new sandbox: it isn't in a control group for {controller}" in faults
        assert f"a forked sandbox: it isn't in a control group for {controller}" in faults


async def test_what_cannot_be_forked_is_no_fault(
    driver: BubblewrapDriver, sandbox_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel without overlays in user namespaces, say: runs are merely slow."""
    bubblewrap_with(monkeypatch, lambda options: [one for one in options if one != bubblewrap.SLOTS])
    checked = await self_check(driver, sandbox_home)()
    assert checked.faults == []
    assert checked.no_slots


CONTROL = """
import json, os
from executor import probe_inside

told = {}
for name, attempt in probe_inside.ATTEMPTS.items():
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.write(writing, probe_inside._outcome(attempt).encode())
        os._exit(0)
    os.close(writing)
    told[name] = os.read(reading, 100).decode()
    os.wait()
print(json.dumps(told))
"""


def test_what_the_probe_tries_can_be_done(tmp_path: Path) -> None:
    """The positive control, each in a child of its own with mounts of its own: where nothing forbids it, it works."""
    (tmp_path / "canary").write_text("x")
    aside = ["unshare", "--mount", "--propagation", "private"] if os.getuid() == 0 else []
    done = subprocess.run(
        [*aside, sys.executable, "-c", CONTROL], cwd=ROOT, env={probe_inside.CANARY: str(tmp_path / "canary")},
        capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    told = json.loads(done.stdout)
    works = {name for name, outcome in told.items() if outcome == "allowed"}
    if os.getuid() == 0:
        assert set(told) - works == {"to write to the shim's directory"}  # which the host hasn't
    else:
        assert {"to read a file of the host", "to make a user namespace", "to trace"} <= works
