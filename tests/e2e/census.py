"""How much of everything a mesh holds: what must be as it was when all runs have ended."""

import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from tests.e2e.mesh import Mesh, control_groups

# What grows with each run, on purpose: rows, their blobs and logs, the stream of events, the tool's own cache.
GROWS = ("data/", "blobs/", "nats/", "cache/")
# Pools of threads fill up when they are needed; none of our processes has more than these.
POOLED = 16
_KINDS = ("mnt", "pid", "net", "ipc", "uts", "user", "cgroup")
_SANDBOX_UIDS = range(200000, 210000)
_NFT = shutil.which("nft") or "/usr/sbin/nft"


def census(mesh: Mesh, temporary: Path) -> dict[str, object]:
    """What there is, by name. `temporary`: the TMPDIR of the mesh. A process that ends meanwhile isn't counted."""
    found: dict[str, object] = {}
    pids = sorted(below(mesh.process.pid))
    found["processes"] = Counter(filter(None, map(_name, pids)))
    for kind in _KINDS:
        found[f"{kind} namespaces"] = len({_link(f"/proc/{pid}/ns/{kind}") for pid in pids} - {""})
    services = Counter(name for pid in pids if (name := _service(pid)))
    for pid in pids:
        name = _service(pid)
        if name and services[name] == 1:
            found[f"descriptors of {name}"] = _count(f"/proc/{pid}/fd")
            found[f"threads of {name}"] = max(POOLED, _count(f"/proc/{pid}/task"))
            found[f"mounts of {name}"] = _lines(f"/proc/{pid}/mountinfo")
    home = str(mesh.home)
    found["mounts of this host"] = [
        line for line in Path("/proc/self/mountinfo").read_text().splitlines() if home in line
    ]
    found["control groups"] = sum(1 for _ in _groups(pids))
    found["files"] = Counter(_files(mesh.home))
    found["temporary files"] = Counter(_files(temporary))
    found["things of sandboxes in shared places"] = sorted(_strangers())
    if os.getuid() == 0:
        found["packet filter"] = subprocess.run([_NFT, "list", "ruleset"], capture_output=True, check=True).stdout
    return found


def differences(before: dict[str, object], after: dict[str, object]) -> dict[str, tuple[object, object]]:
    """What isn't as it was; of lists only what has gone and what was added."""
    told: dict[str, tuple[object, object]] = {}
    for name in before.keys() | after.keys():
        was, now = before.get(name), after.get(name)
        if isinstance(was, list) and isinstance(now, list) and was != now:
            told[name] = (sorted(set(was) - set(now)), sorted(set(now) - set(was)))
        elif isinstance(was, Counter) and isinstance(now, Counter):
            if was != now:
                told[name] = (was - now, now - was)
        elif was != now:
            told[name] = (was, now)
    return told


def below(pid: int) -> Iterator[int]:
    """A process and all that descend from it."""
    yield pid
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from below(int(child))


def _name(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    return ""


def _service(pid: int) -> str:
    """The name of a process that lives as long as the mesh; "" for what belongs to a sandbox."""
    words: list[str] = []
    with suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        if os.stat(f"/proc/{pid}").st_uid in _SANDBOX_UIDS or os.path.basename(words[0]) == "bwrap":  # noqa: PTH116, PTH119
            return ""
    program = Path(words[0]).name if words else ""
    if program.startswith("python") and "-m" in words:
        children = _count(f"/proc/{pid}/task")
        module = words[words.index("-m") + 1]
        return f"{module} (spawner)" if module == "executor" and children == 1 else module
    return program.partition("-")[0] if program in {"envoy", "nats-server"} else ""


def _link(path: str) -> str:
    with suppress(OSError):
        return os.readlink(path)  # noqa: PTH115
    return ""


def _count(directory: str) -> int:
    with suppress(OSError):
        return len(os.listdir(directory))  # noqa: PTH208
    return 0


def _lines(path: str) -> int:
    with suppress(OSError):
        return len(Path(path).read_text().splitlines())
    return 0


def _groups(pids: list[int]) -> Iterator[Path]:
    """Control groups that a spawner among these made, in any tree of either version."""
    for place in control_groups(pids):
        for directory, below, _ in os.walk(place):
            yield from (Path(directory, name) for name in below)


def _files(top: Path) -> Iterator[str]:
    """Everything below, but for what grows on purpose. Names of runs and slots, new for each, are their kind."""
    for directory, directories, files in os.walk(top):
        for name in (*directories, *files):
            path = os.path.relpath(os.path.join(directory, name), top)  # noqa: PTH118
            if not path.startswith(GROWS):
                yield re.sub(r"(^runs|/slots)/([a-z]+)[^/]*", r"\1/\2", path)


def _strangers() -> Iterator[str]:
    """What users of sandboxes own where every user may write."""
    for place in ("/tmp", "/var/tmp", "/dev/shm"):
        for path in Path(place).iterdir():
            with suppress(OSError):
                if path.lstat().st_uid in _SANDBOX_UIDS:
                    yield str(path)
