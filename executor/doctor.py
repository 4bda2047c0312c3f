"""`python -m executor.doctor`: looks at this host, and prints as JSON how it meets what sandboxes need.

`runmesh doctor` shows it. It starts real sandboxes, in a directory of its own beside the data, and leaves nothing.
Whatever forks does so before grpc is imported: grpcio and fork hang together.
"""

import asyncio
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from executor import gvisor, preconditions, seccomp, seen, shim_landlock, trial
from executor.preconditions import FAULT, OK, WARNING, Finding
from executor.settings import Settings, read
from executor.spawner_client import UIDS, Launched, launch
from kit.settings import BadSettings

_SLOW = "until then every run is started from nothing, which is slow"
_CONTROLLERS = {"memory", "pids", "cpu"}


def main() -> None:
    """Exit status 0, whatever is found; 2 for bad settings."""
    try:
        settings = read()
    except BadSettings as bad:
        print("\n".join(bad.faults), file=sys.stderr)
        sys.exit(2)
    place = next(path for path in (settings.home, *settings.home.parents) if path.is_dir())
    try:
        own = tempfile.TemporaryDirectory(prefix="runmesh-doctor-", dir=place)
    except OSError as error:
        remedy = "set RUNMESH_HOME to a directory that you may write to"
        print(json.dumps(_report(settings, [Finding("data", FAULT, f"{place}: {error.strerror}", remedy)])))
        return
    with own as directory:
        print(json.dumps(examine(settings, place, Path(directory))))


def examine(settings: Settings, place: Path, own: Path) -> dict[str, Any]:
    """All there is to say. `place` is where the data is, or will be; `own` is a directory there, for us."""
    findings = [*preconditions.isolation(settings.isolation), *_system(), *_tried(own)]
    if settings.isolation == "gvisor":
        findings.append(_runsc())
    findings.append(preconditions.disk(shutil.disk_usage(place).free, str(place)))
    findings += preconditions.kernel_settings(_kernel_setting)
    groups = ControlGroups.here()
    with groups.aside():
        launched = launch()
        try:
            said = asyncio.run(_rehearse(settings, launched, own / "home"))
        finally:
            launched.sock.close()
            launched.process.wait(10)
    no_cgroups = groups.error if groups.is_unified else said.no_cgroups
    findings.append(preconditions.control_groups(no_cgroups, root=os.getuid() == 0))
    return _report(settings, findings + said.findings, no_cgroups)


def _report(settings: Settings, findings: list[Finding], no_cgroups: str = "") -> dict[str, Any]:
    tier = ""
    if settings.isolation == "none":
        tier = "none"
    elif preconditions.works(findings):
        tier = "standard" if os.getuid() == 0 and not no_cgroups else "reduced"
        if settings.isolation == "gvisor":
            tier = "gvisor"
    return {"tier": tier, "findings": [asdict(finding) for finding in findings]}


def _kernel_setting(name: str) -> str | None:
    with suppress(OSError):
        return Path("/proc/sys", name).read_text().strip()
    return None


def _system() -> list[Finding]:
    program = shutil.which("bwrap")
    version = None
    if program is not None:
        asked = subprocess.run([program, "--version"], capture_output=True, text=True, check=False, timeout=10)  # noqa: S603
        version = asked.stdout
    return [
        preconditions.architecture(platform.machine(), list(seccomp.MACHINES)),
        preconditions.bubblewrap(version),
        preconditions.seccomp(_kernel_setting("kernel/seccomp/actions_avail")),
        preconditions.landlock(shim_landlock.VERSION),
        preconditions.uids(os.getuid(), Path("/proc/self/uid_map").read_text(), range(UIDS[0], sum(UIDS))),
    ]


def _runsc() -> Finding:
    path = gvisor.find_runsc()
    if path is None:
        return preconditions.runsc(None, "", "")
    asked = subprocess.run([path, "--version"], capture_output=True, text=True, check=False, timeout=10)  # noqa: S603
    found = gvisor.Runsc.saying(path, asked.stdout)
    return preconditions.runsc(found.complaint(datetime.now(UTC).date()), found.version, path)


def _tried(own: Path) -> list[Finding]:
    """As the user that a sandbox would have."""
    uid = None if os.getuid() else sum(UIDS) - 1

    def attempt(action: Callable[[], None]) -> str:
        directory = own / action.__name__
        directory.mkdir()
        if uid is not None:
            os.chown(directory, uid, uid)
        return trial.attempt(action, uid, directory)

    no_user = attempt(trial.user_namespace)
    findings = [preconditions.user_namespaces(no_user, _kernel_setting)]
    if no_user:
        return findings  # nothing else can work
    network = (
        "load the kernel's nf_tables and nft_redir modules, and allow unshare in the seccomp profile of a container"
    )
    proc = "in a container: leave its /proc unmasked (docker: --security-opt systempaths=unconfined)"
    overlay = f"put RUNMESH_HOME on a file system that overlays can be made of, such as ext4 or xfs; {_SLOW}"
    return [
        *findings,
        preconditions.tried("network of a sandbox", attempt(trial.network), FAULT, network),
        preconditions.tried("fresh /proc", attempt(trial.fresh_proc), FAULT, proc),
        preconditions.tried("overlays", attempt(trial.overlay), WARNING, overlay),
    ]


@dataclass(frozen=True)
class Rehearsal:
    """What came of starting sandboxes as the executor does; `no_cgroups` as the spawner says it."""

    findings: list[Finding]
    no_cgroups: str = ""


async def _rehearse(settings: Settings, launched: Launched, home: Path) -> Rehearsal:
    from executor.commands import Uv  # noqa: PLC0415  # these import grpc
    from executor.driver import open_driver  # noqa: PLC0415
    from executor.gvisor_check import GvisorCheck  # noqa: PLC0415
    from executor.gvisor_driver import open_gvisor  # noqa: PLC0415
    from executor.interpreters import Interpreters  # noqa: PLC0415
    from executor.self_check import SelfCheck  # noqa: PLC0415
    from kit.errors import Problem  # noqa: PLC0415

    home.mkdir()
    try:
        is_gvisor = settings.isolation == "gvisor"
        opened = (open_gvisor if is_gvisor else open_driver)(home, settings.public_url, launched)
        async with opened as driver:
            spawner = driver.spawner
            cgroups, landlock = not spawner.no_cgroups, shim_landlock.VERSION >= 2
            check = (
                GvisorCheck(driver, home, spawner.pid, cgroups=cgroups)
                if is_gvisor
                else SelfCheck(driver, home, spawner.pid, cgroups=cgroups, landlock=landlock)
            )
            checked = await check()
            no_slots = "" if is_gvisor else checked.no_slots
            present = await Interpreters(driver.programs, Uv(driver.programs, home, settings.environ)).present()
            versions = preconditions.interpreters([str(interpreter) for interpreter in present])
            return Rehearsal([versions, *_judged(checked.faults, no_slots, forks=not is_gvisor)], spawner.no_cgroups)
    except Problem as problem:
        return Rehearsal(
            [Finding("sandbox", FAULT, problem.message, "see the faults above; else this is a bug: tell us")]
        )


def _judged(faults: list[str], no_slots: str, *, forks: bool) -> list[Finding]:
    if faults:
        return [
            Finding("sandbox", FAULT, fault, "see the faults above; else this is a bug: tell us") for fault in faults
        ]
    findings = [Finding("sandbox", OK, "starts, and is what it should be")]
    if no_slots:
        findings.append(Finding("warm start", WARNING, no_slots, f"see the warnings above; {_SLOW}"))
    elif forks:
        findings.append(Finding("warm start", OK, "a loaded workflow can be forked into a fresh sandbox"))
    return findings


@dataclass(frozen=True)
class ControlGroups:
    """Version 2's, as they would be for an executor started from here. Making groups there means that everything in our
    group moves into one below it: not for a mere look, so the doctor steps aside into a group of its own.
    """

    place: Path
    is_unified: bool = False
    error: str = ""

    @classmethod
    def here(cls) -> "ControlGroups":
        """Whether version 2 has the controllers, and we may use it."""
        mounted = [mount.point for mount in seen.look("self").mounts if mount.kind == "cgroup2"]
        path = seen.groups(Path("/proc/self/cgroup").read_text()).get("", "/")
        return cls.at(Path(mounted[-1], path.lstrip("/"))) if mounted else cls(Path("/"))

    @classmethod
    def at(cls, place: Path) -> "ControlGroups":
        """In this directory."""
        try:
            controllers = set((place / "cgroup.controllers").read_text().split())
        except OSError:
            controllers = set()
        if not controllers >= _CONTROLLERS:
            return cls(place)
        needed = (place, place / "cgroup.subtree_control", place / "cgroup.procs")
        closed = [str(path) for path in needed if not os.access(path, os.W_OK)]
        return cls(place, is_unified=True, error=f"{', '.join(closed)} can't be written to" if closed else "")

    @contextmanager
    def aside(self) -> Iterator[None]:
        """In a group of our own, and back, where version 2 is what there is and we may."""
        own = self.place / f"runmesh-doctor-{os.getpid()}"
        if not self.is_unified or self.error:
            yield
            return
        own.mkdir()
        (own / "cgroup.procs").write_text("0")
        try:
            yield
        finally:
            (self.place / "cgroup.procs").write_text("0")
            for left in (*(path for path in own.iterdir() if path.is_dir()), own):
                with suppress(OSError):
                    left.rmdir()


if __name__ == "__main__":
    main()
