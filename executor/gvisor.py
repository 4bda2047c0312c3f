"""gVisor: what its sandbox sees of the host, and how runsc is started. Pure but for `find_runsc`, as bubblewrap.py is.

runsc itself runs in bubblewrap, with the namespaces, host uid and control groups of a sandbox without it: who breaks
out of gVisor stands there. In that outer sandbox, the inner one's root lies below ROOTFS, read-only; what it may write
to, and what lies within that, is mounted by gVisor from MOUNTS.
"""

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from executor import bubblewrap
from executor.bubblewrap import Bind, Plan, System
from executor.cgroups import Bounds

SHIM = "/runmesh/shim_gvisor.py"
FILTER = "/runmesh/filter.bpf"
RUNSC, ROOTFS, MOUNTS, BUNDLE, STATE = "/runsc", "/rootfs", "/mounts", "/bundle", "/state"
CONFIG = f"{BUNDLE}/config.json"
# gVisor's kernel and its file server count as the run's: bytes and threads of their own.
OVERHEAD = Bounds(memory=128 << 20, processes=256)
# From about here on runsc has systrap, which replaced ptrace, and lays an overlay over the root unless told not to.
SYSTRAP_SINCE = date(2023, 6, 1)
OLD_DAYS = 365
_STATE_BYTES = 16 << 20
_OPEN_FILES = 4096


@dataclass(frozen=True)
class Runsc:
    """A host's runsc: where it is, what it says about itself, and when that was released, as far as it says."""

    path: str
    version: str
    released: date | None = None

    @classmethod
    def saying(cls, path: str, said: str) -> "Runsc":
        """`said` is what `runsc --version` prints: `runsc version release-20231009.0`, `… 0.0~20221219.0`."""
        line = (said.splitlines() or [""])[0].strip()
        stamp = re.search(r"(20\d\d)([01]\d)([0-3]\d)", line)
        try:
            released = date(int(stamp[1]), int(stamp[2]), int(stamp[3])) if stamp else None
        except ValueError:
            released = None
        return cls(path, line.removeprefix("runsc version ") or "unknown", released)

    def complaint(self, today: date) -> str:
        """What is wrong with its age, in a sentence; empty where nothing is."""
        if self.released is None:
            return (
                f"runsc {self.version} doesn't say when it was released, so nobody knows which security fixes it lacks"
            )
        age = (today - self.released).days
        return f"runsc {self.version} is {age} days old and lacks all security fixes since" if age > OLD_DAYS else ""

    @property
    def options(self) -> list[str]:
        """`--network=host` is the outer sandbox's network, which is the run's own and has no way out but ours.
        Control groups are entered before.
        """
        common = [f"--root={STATE}", "--rootless", "--ignore-cgroups", "--network=host"]
        if self.released is not None and self.released < SYSTRAP_SINCE:
            return [*common, "--platform=ptrace"]
        return [*common, "--platform=systrap", "--overlay2=none"]


def find_runsc() -> str | None:
    """Where this host's is."""
    return shutil.which("runsc")


def bounded(bounds: Bounds) -> Bounds:
    """A run's limits with what gVisor itself takes; no limit stays none."""
    return Bounds(
        bounds.memory and bounds.memory + OVERHEAD.memory,
        bounds.processes and bounds.processes + OVERHEAD.processes,
        bounds.cpu,
    )


def arguments(system: System, plan: Plan, runsc: Runsc) -> list[str]:
    """bubblewrap's options; the files' contents are expected in FIRST_FILE_FD and the following, in order."""
    return [
        *("--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try", "--unshare-net"),
        *("--uid", str(bubblewrap.UID), "--gid", str(bubblewrap.UID), "--hostname", bubblewrap.HOSTNAME),
        *("--cap-drop", "ALL", "--die-with-parent", "--new-session"),
        *("--json-status-fd", str(bubblewrap.STATUS_FD)),
        *("--ro-bind", runsc.path, RUNSC, "--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev", "--dir", "/tmp"),  # noqa: S108
        *("--size", str(_STATE_BYTES), "--tmpfs", STATE),
        *_root(system),
        *_binds(plan.binds),
        *_files(plan),
        *("--remount-ro", "/", "--chdir", "/"),
    ]


def command(runsc: Runsc) -> list[str]:
    """What bubblewrap starts."""
    return [RUNSC, *runsc.options, "run", f"--bundle={BUNDLE}", "sandbox"]


def _root(system: System) -> list[str]:
    options: list[str] = []
    for directory in system.directories:
        options += ["--ro-bind", directory, f"{ROOTFS}{directory}"]
    for link, target in system.links.items():
        options += ["--symlink", target, f"{ROOTFS}{link}"]
    for path in system.etc:
        options += ["--ro-bind", path, f"{ROOTFS}{path}"]
    for path in ("/run", "/var", "/proc", "/sys", "/dev"):
        options += ["--dir", f"{ROOTFS}{path}"]
    return options


def _own(binds: Sequence[Bind]) -> list[Bind]:
    """Those that gVisor mounts, the shallow ones first: what is writable, and what lies in it."""
    writable = [bind.target for bind in binds if bind.writable]
    found = [bind for bind in binds if any(_within(bind.target, target) for target in writable)]
    return sorted(found, key=lambda bind: bind.target.count("/"))


def _within(path: str, directory: str) -> bool:
    return path == directory or path.startswith(f"{directory}/")


def _outside(path: str, own: Sequence[Bind]) -> str:
    """Where a path of the inner sandbox is in the outer one."""
    for number, bind in reversed(list(enumerate(own))):
        if _within(path, bind.target):
            return f"{MOUNTS}/{number}{path.removeprefix(bind.target)}"
    return f"{ROOTFS}{path}"


def _binds(binds: Sequence[Bind]) -> list[str]:
    own = _own(binds)
    options: list[str] = []
    for number, bind in enumerate(own):
        options += ["--bind" if bind.writable else "--ro-bind", bind.source, f"{MOUNTS}/{number}"]
        if _outside(bind.target, own[:number]).startswith(ROOTFS):
            options += ["--dir", f"{ROOTFS}{bind.target}"]
    for bind in sorted(binds, key=lambda bind: bind.target.count("/")):
        if bind not in own:
            options += ["--ro-bind", bind.source, f"{ROOTFS}{bind.target}"]
    return options


def _files(plan: Plan) -> list[str]:
    own = _own(plan.binds)
    options: list[str] = []
    for number, path in enumerate(plan.files, bubblewrap.FIRST_FILE_FD):
        mode = "0644" if path.startswith(f"{bubblewrap.WORK}/") else "0444"
        place = path if path == CONFIG else _outside(path, own)
        options += ["--perms", mode, "--file", str(number), place]
    return options


def config(plan: Plan, argv: Sequence[str]) -> bytes:
    """The OCI bundle's: JSON. It holds no secret: those travel over the control socket.

    The process is root in there, with no capability: it is what the outer sandbox's one user is called. The shim makes
    itself another user, by gVisor's own user namespaces.
    """
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", **plan.environment}
    content: dict[str, Any] = {
        "ociVersion": "1.0.2",
        "hostname": bubblewrap.HOSTNAME,
        "root": {"path": ROOTFS, "readonly": False},  # it is, already; runsc can't do it again in a user namespace
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": list(argv),
            "env": [f"{name}={value}" for name, value in environment.items()],
            "cwd": plan.directory,
            "capabilities": {},
            "noNewPrivileges": True,
            "rlimits": [_limit("RLIMIT_NOFILE", _OPEN_FILES), _limit("RLIMIT_CORE", 0)],
        },
        "mounts": _mounts(plan.binds),
        "linux": {"namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount")]},
    }
    return json.dumps(content).encode()


def _limit(kind: str, most: int) -> Mapping[str, Any]:
    return {"type": kind, "soft": most, "hard": most}


def _mounts(binds: Sequence[Bind]) -> list[Mapping[str, Any]]:
    shm = ["nosuid", "nodev", "mode=1777", f"size={bubblewrap.SHM_BYTES}"]
    mounts: list[Mapping[str, Any]] = [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},  # read-only, /dev/null couldn't be written to
        {"destination": "/dev/shm", "type": "tmpfs", "source": "tmpfs", "options": shm},  # noqa: S108  # inside
    ]
    for number, bind in enumerate(_own(binds)):
        options = ["bind", "nosuid", "nodev", "rw" if bind.writable else "ro"]
        source = f"{MOUNTS}/{number}"
        mounts.append({"destination": bind.target, "type": "bind", "source": source, "options": options})
    return mounts
