"""The arguments of bubblewrap: what a sandbox sees of the host. This is the security model, so it is one pure function.

bubblewrap never runs as the host's uid 0 (its sandboxes could write the kernel's settings), gets an empty environment
and named descriptors only. Its arguments go through a descriptor (`--args`): /proc/1/cmdline inside shows none.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

UID = 1000
HOSTNAME = "runmesh"
WORK = "/workflow"
SHIM = "/runmesh/shim.py"
CERTIFICATES = "/etc/runmesh"
SHM_BYTES = 64 << 20
# In a template: where its slots' directories are; its /tmp and /workflow once more, with nothing mounted below, else no
# overlay could have them under it; and a /proc with nothing over it, without which the kernel allows no fresh one in a
# slot. A slot sees none of these.
SLOTS = "/runmesh/slots"
LOWER = {"/tmp": "/runmesh/tmp", WORK: "/runmesh/work"}  # noqa: S108  # inside
UNMASKED_PROC = "/runmesh/proc"
# Descriptors that bubblewrap is started with; it closes all of them but CONTROL before the workflow starts.
CONTROL_FD, STATUS_FD, ARGUMENTS_FD, SECCOMP_FD, MAPS_FD, FIRST_FILE_FD = 3, 4, 5, 6, 7, 8
WAIT_FD = CONTROL_FD  # of a program that has no control socket

_ROOT_LINKS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_ETC = (
    "alternatives", "ca-certificates", "ld.so.cache", "localtime", "mime.types", "pki", "protocols", "services", "ssl",
    "timezone",
)  # fmt: skip
_PROC_FILES = (
    "config.gz", "kallsyms", "kcore", "key-users", "keys", "kmsg", "kpagecgroup", "kpagecount", "kpageflags",
    "latency_stats", "pagetypeinfo", "sched_debug", "slabinfo", "sysrq-trigger", "timer_list", "timer_stats",
    "vmallocinfo",
)  # fmt: skip
_PROC_DIRECTORIES = ("acpi", "asound", "bus", "driver", "fs", "irq", "scsi")


@dataclass(frozen=True)
class System:
    """What this host has of the things that a sandbox is shown or that are hidden from it."""

    links: Mapping[str, str] = field(default_factory=dict)  # /lib → usr/lib
    directories: tuple[str, ...] = ("/usr",)
    etc: tuple[str, ...] = ()
    hidden_files: tuple[str, ...] = ()
    hidden_directories: tuple[str, ...] = ()

    @classmethod
    def here(cls) -> "System":
        """Looks at this host."""
        roots = [Path("/") / name for name in _ROOT_LINKS]
        return cls(
            links={str(path): str(path.readlink()) for path in roots if path.is_symlink()},
            directories=("/usr", *(str(path) for path in roots if path.is_dir() and not path.is_symlink())),
            etc=tuple(f"/etc/{name}" for name in _ETC if Path("/etc", name).exists()),
            hidden_files=tuple(f"/proc/{name}" for name in _PROC_FILES if Path("/proc", name).exists()),
            hidden_directories=tuple(f"/proc/{name}" for name in _PROC_DIRECTORIES if Path("/proc", name).is_dir()),
        )


@dataclass(frozen=True)
class Bind:
    """A path of the host and where it is seen inside. `source` is where the sandbox's uid can reach it."""

    source: str
    target: str
    writable: bool = False


@dataclass(frozen=True)
class Plan:
    """One sandbox: the directories it is shown, the small files made for it (path → content, mode 0444), its start."""

    binds: Sequence[Bind]
    files: Mapping[str, bytes] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    directory: str = "/"
    # One that is forked: its children get namespaces of their own, furnished from outside (furnish.py).
    template: bool = False
    # One that templates are forked from; `maps`: its ids are mapped from outside, for each to have a uid of its own.
    base: bool = False
    maps: bool = False
    # Runs with the uid that owns uv's cache.
    packager: bool = False
    # Starts when something can be read from WAIT_FD, or that is closed.
    waits: bool = False

    @property
    def forks(self) -> bool:
        """Whether its children are sandboxes."""
        return self.template or self.base


def arguments(system: System, plan: Plan) -> list[str]:
    """bubblewrap's options; the files' contents are expected in FIRST_FILE_FD and the following, in order."""
    return [
        *_namespaces(plan),
        *(_open_parents(plan) if plan.base else ()),
        *_root(system),
        *_proc(system),
        *(("--proc", UNMASKED_PROC) if plan.forks else ()),
        *_dev(),
        *_binds(plan.binds),
        *_files(plan.files),
        *(("--block-fd", str(WAIT_FD)) if plan.waits else ()),
        *_start(plan),
    ]


def _namespaces(plan: Plan) -> list[str]:
    """New ones of every kind, no way to make more (but for slots, which the filter sees to), no capability in them, and
    nobody outlives whoever started it.
    """
    # With ids that are mapped from outside it tells its init's pid another way.
    told = ("--userns-block-fd", str(MAPS_FD), "--info-fd") if plan.maps else ("--json-status-fd",)
    return [
        *("--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"),
        # A template is pid 1, since its slots are pid 2, and its base pid 3: OpenSSL takes a new pid for the sign of a
        # fork, and only then makes a stream of random numbers of its own.
        *("--unshare-net", *(("--as-pid-1",) if plan.template else () if plan.base else ("--disable-userns",))),
        *("--uid", str(UID), "--gid", str(UID), "--hostname", HOSTNAME),
        *("--cap-drop", "ALL", "--die-with-parent", "--new-session"),
        *(*told, str(STATUS_FD), "--seccomp", str(SECCOMP_FD)),
    ]


def _open_parents(plan: Plan) -> list[str]:
    """The directories above what is shown, open to all: made on the way they would be closed to its templates' uids.
    Not those in a run's own places.
    """
    parents = {parent for path in (*(bind.target for bind in plan.binds), *plan.files) for parent in Path(path).parents}
    own = [Path(bind.target) for bind in plan.binds if bind.writable]
    above = sorted(parent for parent in parents - {Path("/")} if not any(map(parent.is_relative_to, own)))
    return [option for path in above for option in ("--perms", "0755", "--dir", str(path))]


def _root(system: System) -> list[str]:
    options: list[str] = []
    for directory in system.directories:
        options += ["--ro-bind", directory, directory]
    for link, target in system.links.items():
        options += ["--symlink", target, link]
    for path in system.etc:
        options += ["--ro-bind", path, path]
    return [*options, "--dir", "/run", "--dir", "/var"]


def _proc(system: System) -> list[str]:
    options = ["--proc", "/proc", "--ro-bind", "/proc/sys", "/proc/sys"]
    for path in system.hidden_files:
        options += ["--ro-bind", "/dev/null", path]
    for path in system.hidden_directories:
        options += ["--size", "4096", "--tmpfs", path, "--remount-ro", path]
    return options


def _dev() -> list[str]:
    """A tmpfs is half of the memory unless it has a size, so /dev is read-only but for /dev/shm."""
    return ["--dev", "/dev", "--size", str(SHM_BYTES), "--perms", "1777", "--tmpfs", "/dev/shm", "--remount-ro", "/dev"]  # noqa: S108


def _binds(binds: Sequence[Bind]) -> list[str]:
    """The shallow ones first: a deeper one may lie inside."""
    options: list[str] = []
    for bind in sorted(binds, key=lambda bind: bind.target.count("/")):
        options += ["--bind" if bind.writable else "--ro-bind", bind.source, bind.target]
    return options


def _files(files: Mapping[str, bytes]) -> list[str]:
    options: list[str] = []
    for number, path in enumerate(files, FIRST_FILE_FD):
        options += ["--perms", "0444" if not path.startswith(WORK) else "0644", "--file", str(number), path]
    return options


def _start(plan: Plan) -> list[str]:
    options = ["--remount-ro", "/", "--chdir", plan.directory]
    for name, value in plan.environment.items():
        options += ["--setenv", name, value]
    return options


def encoded(options: Sequence[str]) -> bytes:
    """As `--args FD` reads them."""
    return b"".join(os.fsencode(option) + b"\0" for option in options)


def etc_files(hosts: Sequence[tuple[str, str]], name_server: str = "") -> dict[str, bytes]:
    """The sandbox's own /etc: one user, these (address, name), and whoever knows other names; without, nobody does."""
    lines = [("127.0.0.1", "localhost"), ("127.0.0.1", HOSTNAME), *hosts]
    return {
        "/etc/passwd": f"runmesh:x:{UID}:{UID}::/tmp:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n".encode(),
        "/etc/group": f"runmesh:x:{UID}:\nnogroup:x:65534:\n".encode(),
        "/etc/hosts": "".join(f"{address}\t{name}\n" for address, name in lines).encode(),
        "/etc/nsswitch.conf": f"passwd: files\ngroup: files\nhosts: files{' dns' if name_server else ''}\n".encode(),
        "/etc/resolv.conf": f"nameserver {name_server}\n".encode() if name_server else b"",
    }
