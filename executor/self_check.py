"""Refuses a host whose sandboxes aren't what they should be.

Before the executor serves, it starts a sandbox from nothing, and one forked from a template. Each is looked at from
outside (seen.py) and tries from inside what must fail (probe_inside.py). A step of the isolation that is missing is
named, and nothing of anybody else runs.
"""

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from executor import bubblewrap, probe_inside, seen
from executor.sandbox import Crashed, Environment, Head, Launch, Sandbox, StartFailed, Unforkable
from executor.seen import Seen
from executor.spawner_client import UIDS
from executor.templates import Starter
from executor.variables import environment as environment_of
from kit.errors import Problem, Unavailable
from kit.telemetry import log

READY_SECONDS = 30.0
ANSWER_SECONDS = 30.0
# Pseudo file systems, what a run may write to, and what a template's slots are made from.
WRITABLE = {"/proc", "/dev/pts", "/dev/shm", "/tmp", "/var/tmp", bubblewrap.WORK}  # noqa: S108  # inside
OF_TEMPLATES = {bubblewrap.SLOTS, bubblewrap.UNMASKED_PROC}
_DEVICES = {f"/{name}" for name in ("null", "zero", "full", "random", "urandom", "tty", "console")}
_MOST_OPEN_FILES = 4096
_INIT_AND_ITSELF = 3
_CONTROLLERS = ("memory", "pids", "cpu")


@dataclass(frozen=True)
class Wanted:
    """What this host's sandboxes are to be: their uids, gids and groups on the host; the directory that holds their
    control groups, empty where there are none; places that may be writable.
    """

    uids: range
    gids: range
    groups: frozenset[int] = frozenset()
    group: str = ""
    writable: frozenset[str] = frozenset(WRITABLE)

    @classmethod
    def here(cls, spawner: int, *, cgroups: bool) -> "Wanted":
        """Of this process's executor, whose spawner has this pid."""
        uid, gid = os.getuid(), os.getgid()
        group = f"runmesh-{spawner}" if cgroups else ""
        if uid:  # nobody but root can leave a group
            return cls(range(uid, uid + 1), range(gid, gid + 1), frozenset(os.getgroups()), group)
        own = range(UIDS[0], UIDS[0] + UIDS[1])
        return cls(own, own, group=group)


@dataclass
class Checked:
    """What came of it. Without `faults` user code may run; `no_slots` tells why none can be forked, where none can."""

    faults: list[str] = field(default_factory=list)
    no_slots: str = ""


class SelfCheck:
    """Of one driver, whose spawner has this pid; the canary is planted in `home`. `cgroups`, `landlock`: whether this
    host has them.
    """

    def __init__(self, driver: Starter, home: Path, spawner: int, *, cgroups: bool, landlock: bool) -> None:
        self._driver = driver
        self._landlock = landlock
        self._home = home
        self._spawner = spawner
        self._wanted = Wanted.here(spawner, cgroups=cgroups)

    async def __call__(self) -> Checked:
        """Never raises for what it finds."""
        checked = Checked()
        with _canary(self._home) as canary:
            launch = _launch(canary)
            try:
                checked.faults += _named("a new sandbox", await self._probe(await self._driver.start(launch)))
            except (Problem, StartFailed, Crashed, OSError, TimeoutError) as error:
                checked.faults.append(f"a sandbox can't be had: {_said(error)}")
                return checked
            try:
                checked.faults += _named("a forked sandbox", await self._slot(launch))
            except (Problem, StartFailed, Unforkable, Crashed, OSError, TimeoutError) as error:
                checked.no_slots = _said(error)
        return checked

    async def _slot(self, launch: Launch) -> list[str]:
        template = await self._driver.start_template(launch, READY_SECONDS)
        try:
            return await self._probe(await template.fork(lambda: None), forked=True)
        finally:
            template.retire()
            with suppress(TimeoutError):
                async with asyncio.timeout(ANSWER_SECONDS):
                    await template.gone.wait()

    async def _probe(self, sandbox: Sandbox, *, forked: bool = False) -> list[str]:
        looked = asyncio.Event()

        async def body() -> AsyncIterator[bytes]:
            await looked.wait()
            yield b"."

        found: list[str] = []
        try:
            async with asyncio.timeout(READY_SECONDS + ANSWER_SECONDS):
                await sandbox.ready(READY_SECONDS)
                async for event in sandbox.serve(Head([], method="POST"), body()):
                    if isinstance(event, bytes) and not looked.is_set():
                        found = self._judge(json.loads(event), forked=forked)
                        looked.set()
        finally:
            end = await sandbox.close()
            for pipe in (sandbox.process.stdout, sandbox.process.stderr):
                os.close(pipe)
        if not looked.is_set():
            raise Crashed("the probe said nothing")
        if self._wanted.group and not end.used.memory_peak:
            found.append("its use of memory isn't counted")
        return found

    def _judge(self, told: Mapping[str, Any], *, forked: bool) -> list[str]:
        pid = seen.innermost(seen.descendants(self._spawner), told["pid"])
        ours = seen.look("self")
        found = [*told_faults(told, landlock=self._landlock), *outside_faults(seen.look(pid), ours, self._wanted)]
        if forked:
            template = seen.parent(seen.parent(pid))  # between them is the init of the slot
            wanted = replace(self._wanted, writable=frozenset(WRITABLE | OF_TEMPLATES))
            found += _named("its template", outside_faults(seen.look(template), ours, wanted))
            base = seen.look(seen.parent(template))
            if base.namespaces.get("pid") != ours.namespaces.get("pid"):  # else it is the host's bubblewrap
                found += _named("its base", outside_faults(base, ours, wanted))
        return found


async def refuse_open(check: Callable[[], Awaitable[Checked]]) -> Checked:
    """Errors: Unavailable, which names each fault."""
    checked = await check()
    if checked.faults:
        told = "; ".join(checked.faults)
        raise Unavailable(f"no user code runs here, as its isolation isn't complete: {told}. See `runmesh doctor`")
    if checked.no_slots:
        log().warning("self_check.no_slots", reason=checked.no_slots, effect="every run is started from nothing")
    return checked


def told_faults(told: Mapping[str, Any], *, landlock: bool) -> list[str]:
    """What the probe noticed from inside; whether `landlock` should be in force."""
    found = []
    for when, attempts in (("while it is imported", told["imported"]), ("while it serves", told["served"])):
        allowed = (name for name in probe_inside.ATTEMPTS if attempts.get(name, "allowed") == "allowed")
        found += [f"{when} it is allowed {name}" for name in allowed]
    if told["uid"] != bubblewrap.UID:
        found.append(f"inside its uid is {told['uid']}")
    if told["processes"] > _INIT_AND_ITSELF:
        found.append(f"it sees {told['processes']} processes")
    if landlock and not told["landlock"]:
        found.append("Landlock isn't in force")
    if told["environ"]:
        found.append("it can read the environment that its init was started with")
    return found


def outside_faults(it: Seen, ours: Seen, wanted: Wanted) -> list[str]:
    """What can be seen of a sandbox's process; `ours` is the executor itself."""
    return [*rights(it, wanted), *places(it, ours), *_mounts(it, wanted), *bounds(it, wanted)]


def rights(it: Seen, wanted: Wanted) -> Iterator[str]:
    """Who it is, and what it may."""
    for name, allowed in (("Uid", wanted.uids), ("Gid", wanted.gids)):
        if strange := [one for one in map(int, it.status[name].split()) if one not in allowed]:
            yield f"on the host its {name.lower()} is {strange[0]}"
    if strange := [one for one in map(int, it.status["Groups"].split()) if one not in wanted.groups]:
        yield f"on the host it is in the group {strange[0]}"
    for name, value in it.status.items():
        if name.startswith("Cap") and int(value, 16):
            yield f"it has capabilities ({name} {value.lstrip('0')})"
    if it.status.get("NoNewPrivs") != "1":
        yield "no_new_privs isn't set"
    if it.status.get("Seccomp") != "2":
        yield "there is no system-call filter"


def places(it: Seen, ours: Seen) -> Iterator[str]:
    """Namespaces, network devices."""
    for kind, own in ours.namespaces.items():
        if it.namespaces.get(kind) == own:
            yield f"it is in the host's {kind} namespace"
    if it.devices - {"lo"}:
        yield f"its network has the devices {', '.join(sorted(it.devices))}"


def _mounts(it: Seen, wanted: Wanted) -> Iterator[str]:
    root = [mount for mount in it.mounts if mount.point == "/"]
    if not root or root[-1].kind != "tmpfs":
        yield "its root is no directory of its own"
    if not any(mount.point == "/proc/sys" for mount in it.mounts):
        yield "/proc/sys isn't read-only"
    for mount in it.mounts:
        is_device = mount.root in _DEVICES and mount.kind in {"devtmpfs", "tmpfs"}
        is_terminal = mount.kind == "devpts"
        if "ro" not in mount.options and not is_device and mount.point not in wanted.writable:
            yield f"{mount.point} is writable"
        if "nosuid" not in mount.options:
            yield f"{mount.point} isn't nosuid"
        if "nodev" not in mount.options and not is_device and not is_terminal:
            yield f"{mount.point} isn't nodev"


def bounds(it: Seen, wanted: Wanted) -> Iterator[str]:
    """Limits, control groups."""
    if it.limits.get("Max core file size") != "0":
        yield "it may leave a core file"
    files = it.limits.get("Max open files", "")
    if not files.isdigit() or int(files) > _MOST_OPEN_FILES:
        yield "the number of its open files isn't limited"
    for controller in _CONTROLLERS if wanted.group else ():
        path = it.groups.get(controller, it.groups.get("", "/"))
        if Path(path).parent.name != wanted.group:
            yield f"it isn't in a control group for {controller}"


def _named(which: str, found: list[str]) -> list[str]:
    return [f"{which}: {fault}" for fault in found]


def _said(error: BaseException) -> str:
    text = error.message if isinstance(error, Problem) else getattr(error, "detail", "") or str(error)
    return text or type(error).__name__


@contextmanager
def _canary(home: Path) -> Iterator[Path]:
    """A file that every user of the host could read, were its directory shown to a sandbox."""
    with tempfile.NamedTemporaryFile(prefix="canary-", dir=home) as file:
        file.write(b"canary")
        file.flush()
        path = Path(file.name)
        path.chmod(0o644)
        yield path


def _launch(canary: Path) -> Launch:
    """By our own interpreter and packages: nothing has to be installed for it."""
    prefix = Path(sys.prefix)
    environment = Environment("self-check", prefix, prefix / "bin" / "python", Path(sys.base_prefix).resolve())
    source = Path(probe_inside.__file__).read_bytes()
    variables = environment_of({probe_inside.CANARY: str(canary)})
    return Launch("self-check", environment, source, "probe.py", variables, version_id="probe")
