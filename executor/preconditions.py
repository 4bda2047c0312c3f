"""What a host must have for sandboxes, and what it should: rules from what was found to a sentence and a remedy. Pure.

`doctor.py` finds out and `runmesh doctor` shows it. A fault: user code can't run here. A warning: it can, but less well
than it could.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

OK, WARNING, FAULT = "ok", "warning", "fault"
OLDEST_BUBBLEWRAP = (0, 8)
BEST_LANDLOCK, USABLE_LANDLOCK = 6, 2
FREE_BYTES = 10 << 30  # a run's own share of the disk, by default
LEAST_FREE_BYTES = 1 << 30
_GIB = 1 << 30


@dataclass(frozen=True)
class Finding:
    """One precondition: what was found, and what to do about it unless `level` is ok."""

    name: str
    level: str
    found: str
    remedy: str = ""


def architecture(machine: str, known: Sequence[str]) -> Finding:
    """`machine` as `uname -m` has it; `known`: those with a system-call filter."""
    if machine in known:
        return Finding("processor", OK, machine)
    return Finding("processor", FAULT, f"{machine} has no system-call filter", f"use one of {', '.join(known)}")


def bubblewrap(version: str | None) -> Finding:
    """What `bwrap --version` prints; None where there is no such program."""
    if version is None:
        return Finding(
            "bubblewrap", FAULT, "not installed", "apt-get install bubblewrap, or your system's package of it"
        )
    number = re.search(r"(\d+)\.(\d+)", version)
    if number is None or (int(number[1]), int(number[2])) < OLDEST_BUBBLEWRAP:
        oldest = ".".join(map(str, OLDEST_BUBBLEWRAP))
        return Finding("bubblewrap", FAULT, version.strip() or "unknown version", f"install {oldest} or newer")
    return Finding("bubblewrap", OK, version.strip())


def user_namespaces(error: str, settings: Callable[[str], str | None]) -> Finding:
    """`error`: why one can't be had, empty when it can. `settings` reads kernel settings."""
    if not error:
        return Finding("user namespaces", OK, "can be had by a sandbox's user")
    if settings("user/max_user_namespaces") == "0":
        remedy = "sysctl user.max_user_namespaces=10000"
    elif settings("kernel/unprivileged_userns_clone") == "0":
        remedy = "sysctl kernel.unprivileged_userns_clone=1"
    elif settings("kernel/apparmor_restrict_unprivileged_userns") == "1":
        remedy = (
            "sysctl kernel.apparmor_restrict_unprivileged_userns=0, or give bwrap an AppArmor profile with `userns,`"
        )
    else:
        remedy = "in a container: allow unshare, mount and clone in its seccomp profile"
    return Finding("user namespaces", FAULT, error, remedy)


def tried(name: str, error: str, level: str, remedy: str) -> Finding:
    """Something that was tried; `error` is empty when it worked, else it is of this level."""
    return Finding(name, level, error, remedy) if error else Finding(name, OK, "works")


def seccomp(actions: str | None) -> Finding:
    """What the kernel's `seccomp/actions_avail` holds; None: there is none."""
    if actions is None or not {"kill_process", "errno", "allow"} <= set(actions.split()):
        return Finding("seccomp", FAULT, "no system-call filters", "use a kernel with CONFIG_SECCOMP_FILTER")
    return Finding("seccomp", OK, "system-call filters can be had")


def landlock(version: int) -> Finding:
    """The version of Landlock's interface; 0: none."""
    if version >= BEST_LANDLOCK:
        return Finding("Landlock", OK, f"version {version}")
    if version >= USABLE_LANDLOCK:
        told = f"version {version} knows less than {BEST_LANDLOCK}"
        return Finding("Landlock", WARNING, told, "use Linux 6.12 or newer")
    remedy = "use Linux 6.12 or newer, with landlock among the modules of its lsm= parameter"
    return Finding("Landlock", WARNING, f"none that can be used (version {version})", remedy)


def control_groups(error: str, *, root: bool) -> Finding:
    """`error`: why there are none, empty where there are."""
    if not error:
        return Finding("control groups", OK, "memory, pids and cpu can be limited for each sandbox")
    remedy = (
        "mount the cgroup file system writable" if root else "start Runmesh as root, or as a service with Delegate=yes"
    )
    return Finding("control groups", WARNING, f"none: {error}", f"{remedy}; until then limits are per process")


def uids(uid: int, uid_map: str, wanted: range) -> Finding:
    """`uid_map` is our /proc/self/uid_map; `wanted` are the uids for sandboxes."""
    if uid:
        told = f"one for all sandboxes, {uid}: Runmesh was started by an ordinary user"
        return Finding("uids", WARNING, told, "start Runmesh as root, which gives each sandbox a uid of its own")
    mapped = [(int(first), int(count)) for first, _, count in (line.split() for line in uid_map.splitlines())]
    if any(first <= wanted.start and wanted.stop <= first + count for first, count in mapped):
        return Finding("uids", OK, f"{wanted.start} to {wanted.stop - 1}, one for each sandbox")
    told = f"{wanted.start} to {wanted.stop - 1} don't exist in this container"
    return Finding("uids", FAULT, told, "map them into the container, or start Runmesh as an ordinary user in it")


def disk(free: int, place: str) -> Finding:
    """Bytes that are free where the data is."""
    told = f"{free / _GIB:.1f} GiB free in {place}"
    if free >= FREE_BYTES:
        return Finding("disk", OK, told)
    return Finding(
        "disk", WARNING if free >= LEAST_FREE_BYTES else FAULT, told, "free some, or set RUNMESH_HOME elsewhere"
    )


def _at_least(least: int) -> Callable[[str], bool]:
    return lambda value: value.isdigit() and int(value) >= least


# Setting → whether a value is good, and which to set. What user code could do with the others is denied to it anyway:
# they are a second line.
KERNEL_SETTINGS: dict[str, tuple[Callable[[str], bool], str]] = {
    "kernel/io_uring_disabled": (_at_least(2), "2"),
    "kernel/unprivileged_bpf_disabled": (_at_least(1), "1"),
    "vm/unprivileged_userfaultfd": (lambda value: value == "0", "0"),
    "dev/tty/legacy_tiocsti": (lambda value: value == "0", "0"),
    "kernel/yama/ptrace_scope": (_at_least(1), "1"),
    "kernel/core_pattern": (lambda value: not value.startswith("|"), "core"),
    "fs/protected_symlinks": (_at_least(1), "1"),
    "fs/protected_hardlinks": (_at_least(1), "1"),
    "fs/protected_fifos": (_at_least(1), "1"),
    "fs/protected_regular": (_at_least(1), "1"),
}


def kernel_settings(settings: Callable[[str], str | None]) -> list[Finding]:
    """A warning for each that is set badly; what this kernel doesn't have needs none."""
    found = []
    for name, (is_good, wanted) in KERNEL_SETTINGS.items():
        value = settings(name)
        if value is not None and not is_good(value):
            dotted = name.replace("/", ".")
            found.append(Finding(dotted, WARNING, f"is {value[:80]}", f"sysctl -w {dotted}={wanted}"))
    return found or [Finding("kernel settings", OK, "as they should be")]


def isolation(setting: str) -> list[Finding]:
    """What RUNMESH_ISOLATION does to it."""
    if setting != "none":
        return []
    told = f"RUNMESH_ISOLATION is {setting}: user code runs without a sandbox"
    return [Finding("isolation", FAULT, told, "unset RUNMESH_ISOLATION")]


def runsc(complaint: str | None, version: str, path: str) -> Finding:
    """gVisor's program, where the setting asks for it. `complaint`: about its age; None where there is no program."""
    if complaint is None:
        return Finding(
            "gVisor", FAULT, "runsc isn't installed", "install it from https://gvisor.dev, or unset RUNMESH_ISOLATION"
        )
    if complaint:
        return Finding("gVisor", WARNING, f"{path}: {complaint}", "install a newer one from https://gvisor.dev")
    return Finding("gVisor", OK, f"{path}: runsc {version}")


def interpreters(versions: Sequence[str]) -> Finding:
    """Of Python, for workflows."""
    if not versions:
        return Finding("interpreters", FAULT, "none that workflows can use", "install CPython 3.10 or newer")
    return Finding("interpreters", OK, f"Python {', '.join(versions)}")


def works(findings: Sequence[Finding]) -> bool:
    """Whether user code can run."""
    return all(finding.level != FAULT for finding in findings)
