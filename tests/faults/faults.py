"""What is done to a mesh: processes killed or stopped, a store deleted. Only processes below the mesh's own."""

import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.census import below
from tests.e2e.mesh import Mesh

SERVICES = ("edge", "keys", "scheduler", "executor", "filestore")
KILLED = (*SERVICES, "nats-server", "envoy", "spawner", "template", "sandbox")
# An executor that stands still for so long has lost its lease (20 s), and its runs.
STOPPED_SECONDS = 24.0
RETURN_SECONDS = 15.0


@dataclass(frozen=True)
class Fault:
    """Something that happens `after` so many seconds from the fault before."""

    after: float
    name: str


def planned(seed: int, count: int, every: tuple[float, float], *, slow: bool = False) -> list[Fault]:
    """So many faults, the same ones for the same seed: every kind once before any comes again. `slow`: an executor that
    stands still past its lease, and a NATS store that is lost, are among them.
    """
    rng = random.Random(seed)
    kinds = (*KILLED, "lost store", *(("stopped executor",) if slow else ()))
    faults: list[Fault] = []
    while len(faults) < count:
        faults += [Fault(round(rng.uniform(*every), 2), name) for name in rng.sample(kinds, len(kinds))]
    return faults[:count]


def inflict(mesh: Mesh, fault: str, rng: random.Random, wait: Callable[[float], None] = time.sleep) -> str:
    """What was done, in words; "nothing" when nobody of that kind was there."""
    if fault == "lost store":
        return _lose_store(mesh)
    pids = _some(mesh, "executor" if fault == "stopped executor" else fault)
    if not pids:
        return f"{fault}: nothing, there was none"
    pid = rng.choice(pids)
    with suppress(ProcessLookupError), _held(mesh, pid) as process:  # a sandbox may end at any time
        if fault == "stopped executor":
            signal.pidfd_send_signal(process, signal.SIGSTOP)
            wait(STOPPED_SECONDS)
            signal.pidfd_send_signal(process, signal.SIGCONT)
        else:
            signal.pidfd_send_signal(process, signal.SIGKILL)
    return f"{fault}: {pid}"


def _some(mesh: Mesh, kind: str) -> list[int]:
    """The processes of a kind; it may take a moment until there is one again."""
    deadline = time.monotonic() + RETURN_SECONDS
    while not (pids := sorted(of_kind(mesh, kind))) and time.monotonic() < deadline:
        time.sleep(0.1)
    return pids


@contextmanager
def _held(mesh: Mesh, pid: int) -> Iterator[int]:
    """A descriptor of a process that is surely the mesh's: its number can't become somebody else's. Errors:
    ProcessLookupError.
    """
    process = os.pidfd_open(pid)
    try:
        if pid not in set(below(mesh.process.pid)):
            raise ProcessLookupError
        yield process
    finally:
        os.close(process)


def _lose_store(mesh: Mesh) -> str:
    """NATS loses all that it has: killed, and its directory gone before it is started again."""
    gone = mesh.home / "nats-lost"
    (mesh.home / "nats").rename(gone)
    for pid in of_kind(mesh, "nats-server"):
        with suppress(ProcessLookupError), _held(mesh, pid) as process:
            signal.pidfd_send_signal(process, signal.SIGKILL)
    shutil.rmtree(gone)
    return "lost store: NATS begins from nothing"


def of_kind(mesh: Mesh, kind: str) -> Iterator[int]:
    """The processes of this mesh that are one of KILLED."""
    processes = {pid: _words(pid) for pid in below(mesh.process.pid)}
    if kind in {"template", "sandbox"}:
        yield from _sandboxed(processes, templates=kind == "template")
        return
    for pid, words in processes.items():
        program = Path(words[0]).name if words else ""
        is_service = program.startswith("python") and words[1:3] == ["-m", kind]
        is_spawner = kind == "spawner" and any("executor.spawner" in word for word in words)
        if is_service or is_spawner or (program == kind and kind in {"nats-server", "envoy"}):
            yield pid


def _sandboxed(processes: dict[int, list[str]], *, templates: bool) -> Iterator[int]:
    """Inits of process namespaces inside of bubblewrap's: those with others below them are templates."""
    inside = {pid: numbers for pid in processes if len(numbers := _numbers(pid)) >= 3}
    for pid, numbers in inside.items():
        deeper = any(len(_numbers(one)) > len(numbers) for one in below(pid))
        if numbers[-1] == "1" and deeper == templates:
            yield pid


def _numbers(pid: int) -> list[str]:
    """A process's number in each process namespace that it is in, the host's first."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("NSpid:"):
                return line.split()[1:]
    return []


def _words(pid: int) -> list[str]:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    return []
