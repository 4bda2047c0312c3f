"""A campaign: runs are asked for while faults happen; afterwards the history is judged, and the host looked over."""

import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx

from kit.settings import MeshSettings
from tests.e2e.mesh import Mesh, control_groups, mesh_up, own_address, until
from tests.escape.attacks import runs_left
from tests.faults.books import read, settled, under_way
from tests.faults.caller import Callers
from tests.faults.faults import Fault, inflict, of_kind
from tests.faults.outside import Outside, outside
from tests.faults.promise import SETTLING_SECONDS, History

SERVICE = "worker"
# What ends late ends, too; how late is what the model judges.
PATIENCE_SECONDS = SETTLING_SECONDS + 60
# An answer that nobody takes is held for 10 s, directories of a lost executor are cleared when the next one starts.
TIDYING_SECONDS = 30.0


@dataclass
class Field:
    """A mesh that things are done to, the server outside, and who had sandboxes in it."""

    mesh: Mesh
    outside: Outside
    spawners: set[int] = field(default_factory=set)

    def note(self) -> None:
        """Who has sandboxes now."""
        self.spawners |= set(of_kind(self.mesh, "spawner"))


@contextmanager
def in_the_field(
    history: History, failpoints: Path | None = None, home: Path | None = None, **settings: str
) -> Iterator[Field]:
    """The mesh with its workflow. What is left of it when it is gone comes into the history."""
    env = {"RUNMESH_EGRESS_ALLOW_PRIVATE": own_address(), "RUNMESH_DRAIN_SECONDS": "3", **settings}
    if failpoints:
        env["RUNMESH_FAILPOINTS"] = str(failpoints)
    with outside(history.effects) as server, mesh_up(home=home, env=env) as mesh:
        mesh.deploy(SERVICE, server.workflow)
        there = Field(mesh, server)
        there.note()
        yield there
        history.left += _directories_left(mesh)
        there.note()
    with suppress(AssertionError):
        until(lambda: not list(_traces(mesh.home, there.spawners)), 10)
    history.left += _traces(mesh.home, there.spawners)


def campaign(
    seed: int, asynchronous: int, synchronous: int, seconds: float, faults: Sequence[Fault],
    say: Callable[[str], None] = lambda _: None,
) -> History:  # fmt: skip
    """All of it, in a mesh of its own. `say` hears of each fault as it happens."""
    rng = random.Random(seed)
    history = History()
    with in_the_field(history) as there:
        callers = Callers(there.mesh, SERVICE, random.Random(rng.random()), history)
        asking = threading.Thread(target=callers.ask, args=(asynchronous, synchronous, seconds))
        asking.start()
        begin = time.monotonic()
        for fault in faults:
            time.sleep(fault.after)
            there.note()
            say(f"{time.monotonic() - begin:6.1f} s  {inflict(there.mesh, fault.name, rng)}")
        last = time.monotonic()
        asking.join()
        settle(callers, max(last, callers.last_asked))
        audit(there.mesh, history)
    if callers.failures:
        raise callers.failures[0]
    return history


def settle(callers: Callers, last: float) -> None:
    """Until all runs are over and the mesh is whole again; then reads what became of each."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    callers.history.over_after = None
    while time.monotonic() < deadline:
        with suppress(httpx.HTTPError, AssertionError):  # something may still be starting again
            if callers.look():
                callers.history.over_after = time.monotonic() - last
                break
        time.sleep(0.5)
    callers.history.serving = _comes_true(callers.serves)
    _comes_true(callers.read_all)


def audit(mesh: Mesh, history: History) -> None:
    """Whether the books are right, once the executor has given back what it doesn't need."""
    url_of = MeshSettings(home=mesh.home).database_url
    _comes_true(lambda: not under_way(read(url_of)))
    history.books = settled(read(url_of, keys_since(mesh)), swept=False)


def keys_since(mesh: Mesh) -> datetime:
    """When the process of keys began; now, while there is none."""
    now = datetime.now(UTC)
    with suppress(OSError, ValueError):
        ticks = int(Path(f"/proc/{mesh.pid_of('keys')}/stat").read_text().rpartition(")")[2].split()[19])
        up = float(Path("/proc/uptime").read_text().split()[0])
        return now - timedelta(seconds=up - ticks / os.sysconf("SC_CLK_TCK"))
    return now


def _comes_true(check: Callable[[], bool]) -> bool:
    """Within a minute."""
    with suppress(AssertionError):
        until(lambda: _holds(check), SETTLING_SECONDS)
        return True
    return False


def _holds(check: Callable[[], bool]) -> bool:
    with suppress(httpx.HTTPError, AssertionError):
        return check()
    return False


def _directories_left(mesh: Mesh) -> list[str]:
    with suppress(AssertionError):
        until(lambda: not runs_left(mesh), TIDYING_SECONDS)
    return [f"directory of a run: {name}" for name in runs_left(mesh)]


def _traces(home: Path, spawners: set[int]) -> Iterator[str]:
    """Of a mesh that has ended: processes, mounts, control groups."""
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            text = (path / "cmdline").read_bytes() + (path / "environ").read_bytes()
            if str(home).encode() in text:
                yield f"process: {path.name} {text[:100]!r}"
    yield from (f"mount: {line}" for line in Path("/proc/mounts").read_text().splitlines() if str(home) in line)
    yield from (f"control group: {group}" for group in control_groups(spawners))
