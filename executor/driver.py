"""The bubblewrap driver: `executor.sandbox.Driver`.

A sandbox is a process tree in namespaces of its own, under a host uid of its own where we are root, with a directory of
its own for /tmp and its working directory, and a network in which nothing answers but the runtime.
"""

import asyncio
import base64
import os
import re
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from executor import bubblewrap
from executor.bases import MODULES, Bases
from executor.bubblewrap import Plan
from executor.cgroups import Bounds
from executor.confinement import Confinement, in_memory
from executor.conversation import BubblewrapSandbox, close_all, pipe
from executor.egress.names import Names
from executor.frames import ControlChannel
from executor.imports import Imports
from executor.netns import DNS_ADDRESS, ways_out
from executor.programs import Programs
from executor.sandbox import DEFAULT_BOUNDS, Crashed, Environment, Launch, Process
from executor.spawner_client import Job, Launched, SpawnerClient, open_spawner
from executor.template import Template
from executor.variables import environment
from kit.errors import Unavailable
from kit.lifecycle import background
from kit.telemetry import log

PROCESSES = 512
LISTEN_SECONDS = 5.0
BASE_SECONDS = 15.0
_SHIM_PARTS = (
    *("", "_base", "_chance", "_check", "_control", "_exchange", "_landlock", "_replay", "_template", "_warm"),
)
_SAFE_FILE = re.compile(r"(?!\.)[^/\0]{1,200}")
_ENVIRONMENT = {"HOME": "/tmp", "LANG": "C.UTF-8", "PYTHONUNBUFFERED": "1"}  # noqa: S108  # inside
_PATH = "/usr/local/bin:/usr/bin:/bin"


class BubblewrapDriver:
    """Starts sandboxes; `programs` runs uv and builds by the same spawner. Without `imports` templates load without a
    network.
    """

    entry = bubblewrap.SHIM

    def __init__(
        self, spawner: SpawnerClient, confinement: Confinement, public_url: str, imports: Imports | None = None
    ) -> None:
        self.programs = Programs(spawner, confinement)
        self._imports = imports
        self._spawner = spawner
        self._confinement = confinement
        self._ways = ways_out(public_url)
        here, inside = Path(__file__).parent, Path(bubblewrap.SHIM).parent
        shim = {str(inside / f"shim{part}.py"): (here / f"shim{part}.py").read_bytes() for part in _SHIM_PARTS}
        hosts = [(way.address, way.name) for way in self._ways if way.name]
        self._files = bubblewrap.etc_files(hosts, DNS_ADDRESS) | shim
        self._doors = [(way.address, way.port) for way in self._ways]
        self._filter = base64.b64encode(confinement.filter).decode()
        self._bases = Bases(self._start_base, environment({}))

    @property
    def spawner(self) -> SpawnerClient:
        """What starts its processes."""
        return self._spawner

    @property
    def lost(self) -> bool:
        """As executor.sandbox.Driver."""
        return self._spawner.lost.is_set()

    @property
    def bases(self) -> Bases:
        """What its templates are forked from."""
        return self._bases

    def memory(self) -> int:
        """Bytes that templates share."""
        return self._bases.memory()

    async def start(self, launch: Launch) -> BubblewrapSandbox:
        """A new process from nothing. Errors: Unavailable."""
        with ExitStack() as ours:
            directory = self._confinement.directory(launch.run_id)
            plan = await self._plan(launch, directory)
            begun = await self._begin(ours, plan, launch.environment, directory, launch.bounds)
            process, outputs = self._outputs(ours, await self._listening(ours, begun), directory)
            sandbox = BubblewrapSandbox(self._spawner, begun.job, process, begun.control, outputs, begun.diagnosis)
            try:
                await sandbox.begin(self._order(launch, "cold"))
            except Crashed as crash:
                raise Unavailable(f"the sandbox doesn't start: {_printed(begun.diagnosis) or crash}") from crash
            ours.pop_all()
            return sandbox

    async def start_template(self, launch: Launch, timeout: float) -> Template:
        """One to fork slots from, ready. Errors: StartFailed, Unforkable, Unavailable."""
        template = await self._template_of_base(launch) or await self._template(launch)
        process = template.process
        try:
            async with (
                self._imports.served(process, launch.egress, launch.contacts) if self._imports else nullcontext()
            ):
                await template.ready(timeout)
        finally:
            process.close_ways()
        return template

    async def _template_of_base(self, launch: Launch) -> Template | None:
        """One that is loading, forked; None where there is nothing to fork it from."""
        base = await self._bases.of(launch)
        if base is None:
            return None
        try:
            return await base.hold(self._template(launch, base), lambda: self._bases.released(base))
        except (Unavailable, OSError) as problem:
            log().warning("base.failed", reason=str(problem))
            self._bases.distrust(base)
            return None
        finally:
            self._bases.released(base)

    async def _template(self, launch: Launch, base: Template | None = None) -> Template:
        """One that is loading. Errors: Unavailable."""
        with ExitStack() as ours:
            directory, order = self._confinement.directory("template"), self._order(launch, "template")
            if base is None:
                plan = await self._plan(launch, directory, template=True)
                begun = await self._begin(ours, plan, launch.environment, directory, launch.bounds)
                sockets, given = await self._listening(ours, begun), []
            else:
                told = {"directory": bubblewrap.WORK, "mapped": os.getuid() == 0}
                async with _in_time():
                    begun = await self._fork(ours, base.job, base.control, directory, launch.bounds, told, forks=True)
                    sockets = await self._listening(ours, begun)
                    await begun.job.placed
                directory = f"{base.directory}/slots/{directory}"
                given = [in_memory(ours, launch.source)]
            return await self._loading(ours, begun, sockets, directory, launch.bounds, order, given)

    async def _start_base(self, environment: Environment) -> Template:
        """What templates of this environment are forked from, ready. Errors: StartFailed, Unforkable, Unavailable."""
        with ExitStack() as ours:
            directory = self._confinement.directory("base")
            plan = replace(await self._plan_of(environment, directory), base=True, maps=os.getuid() == 0)
            begun = await self._begin(ours, plan, environment, directory, DEFAULT_BOUNDS, is_open=False)
            # Its limits would be those of all its templates together: its control group holds it.
            own = {"modules": MODULES, "mode": "base", "processes": 0, "memory": 0}
            own["left_open"] = [bubblewrap.MAPS_FD] if plan.maps else []
            order = self._order_of(environment, self._bases.given, DEFAULT_BOUNDS) | own
            base = await self._loading(ours, begun, [], directory, DEFAULT_BOUNDS, order, [])
        await base.ready(BASE_SECONDS)
        return base

    async def _loading(
        self, ours: ExitStack, begun: "_Begun", sockets: list[socket.socket], directory: str, bounds: Bounds,
        order: Mapping[str, Any], given: list[int],
    ) -> Template:  # fmt: skip
        """What has its order; `ours` lets go of all but `given`, which it is passed. Errors: Unavailable."""
        job, control, diagnosis = begun
        process, outputs = self._outputs(ours, sockets, directory)
        try:
            async with _in_time():
                await control.send(b"S", order, [*outputs, *given])
        except Crashed as crash:
            raise Unavailable(f"the sandbox doesn't start: {_printed(diagnosis) or crash}") from crash
        slot = partial(self._slot, job, control, directory, bounds, process.names)
        template = Template(job, control, process, diagnosis, directory, slot, self._spawner.kill)
        close_all(outputs)
        close_all(given)
        ours.pop_all()
        return template

    async def _begin(
        self, ours: ExitStack, plan: Plan, environment: Environment, directory: str, bounds: Bounds, *,
        is_open: bool = True,
    ) -> "_Begun":  # fmt: skip
        """Errors: Unavailable."""
        with ExitStack() as its:
            ours_end, its_end = socket.socketpair()
            control = ControlChannel(ours_end)
            ours.callback(control.close)
            its.callback(its_end.close)
            diagnosis, told = pipe(ours)
            its.callback(os.close, told)
            fds = {1: told, 2: told, bubblewrap.CONTROL_FD: its_end.fileno()}
            command = [str(environment.interpreter), "-u", self.entry]
            listen = self._doors if is_open else None
            job = await self._confinement.spawn(plan, command, fds, directory=directory, listen=listen, bounds=bounds)
        ours.callback(self._spawner.kill, job)
        return _Begun(job, control, diagnosis)

    async def _fork(
        self, ours: ExitStack, parent: Job, control: ControlChannel, directory: str, bounds: Bounds,
        order: Mapping[str, Any], *, forks: bool = False,
    ) -> "_Begun":  # fmt: skip
        """Has `parent` fork. Errors: Unavailable."""
        with ExitStack() as its:
            ours_end, its_end = socket.socketpair()
            channel = ControlChannel(ours_end)
            ours.callback(channel.close)
            its.callback(its_end.close)
            spawners, slots = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            # Now: the slot may speak before the spawner has taken it on.
            spawners.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            its.callback(spawners.close)
            its.callback(slots.close)
            job = self._spawner.adopt(parent, spawners, run=directory, listen=self._doors, bounds=bounds, forks=forks)
            ours.callback(self._spawner.kill, job)
            try:
                await control.send(b"F", {"slot": job.number, **order}, [its_end.fileno(), slots.fileno()])
            except Crashed as crash:
                raise Unavailable("the template is gone") from crash
        diagnosis = os.open(os.devnull, os.O_RDONLY)
        ours.callback(os.close, diagnosis)
        return _Begun(job, channel, diagnosis)

    async def _slot(
        self, template: Job, control: ControlChannel, directory: str, bounds: Bounds, names: Names, warm: bool
    ) -> BubblewrapSandbox:
        """A slot of a template: its shim is about to say that it is ready. Errors: Unavailable."""
        with ExitStack() as ours:
            name = self._confinement.directory("slot")
            order = {"directory": bubblewrap.WORK, "filter": self._filter, "warm": warm}
            async with _in_time():
                begun = await self._fork(ours, template, control, name, bounds, order)
                sockets = await self._listening(ours, begun)
                await begun.job.placed
            process, outputs = self._outputs(ours, sockets, f"{directory}/slots/{name}")
            process.names = names.copy()  # it may remember addresses that it was given while it was imported
            sandbox = BubblewrapSandbox(self._spawner, begun.job, process, begun.control, outputs, begun.diagnosis)
            ours.pop_all()
            return sandbox

    def _outputs(self, ours: ExitStack, sockets: list[socket.socket], directory: str) -> tuple[Process, list[int]]:
        """Pipes for what it prints, and their write ends."""
        (stdout, stdout_end), (stderr, stderr_end) = pipe(ours), pipe(ours)
        outputs = [stdout_end, stderr_end]
        ours.callback(close_all, outputs)
        ways = list(zip(sockets, [way.tls for way in self._ways], strict=False))
        places = self._confinement.places(directory)
        return Process(stdout, stderr, ways, sockets[len(ways) :], places=places), outputs

    async def _plan(self, launch: Launch, directory: str, *, template: bool = False) -> Plan:
        """Errors: Unavailable."""
        plan = await self._plan_of(launch.environment, directory, slots=template)
        binds, files = [*plan.binds], {**plan.files, _script(launch): launch.source}
        if launch.certificates is not None:
            shown = await self._confinement.show(launch.certificates)
            binds.append(replace(shown, target=bubblewrap.CERTIFICATES))
        return replace(plan, binds=binds, files=files, template=template)

    async def _plan_of(self, environment: Environment, directory: str, *, slots: bool = True) -> Plan:
        """What all sandboxes of an environment have. Errors: Unavailable."""
        confinement = self._confinement
        shown = [await confinement.show(environment.path)]
        if not environment.base_prefix.is_relative_to("/usr"):
            shown.append(await confinement.show(environment.base_prefix))
        shown += confinement.own(directory, bubblewrap.WORK)
        if slots:
            shown += confinement.slots(directory)
        return Plan(shown, self._files, _ENVIRONMENT, bubblewrap.WORK)

    async def _listening(self, ours: ExitStack, begun: "_Begun") -> list[socket.socket]:
        job = begun.job
        try:
            async with asyncio.timeout(LISTEN_SECONDS):
                sockets = await job.listening
        except (TimeoutError, Unavailable) as error:
            raise Unavailable(f"the sandbox doesn't start: {_printed(begun.diagnosis) or error}") from error
        except asyncio.CancelledError:
            job.hang_up()
            raise
        for sock in sockets:
            ours.callback(sock.close)
        return sockets

    def _order(self, launch: Launch, mode: str) -> dict[str, Any]:
        return self._order_of(launch.environment, launch.env, launch.bounds) | {
            "script": _script(launch),
            "argv": [],
            "file_bytes": launch.disk_bytes,
            "mode": mode,
            "serves_many": launch.isolation == "instance",
            "asks": launch.isolation == "check",
        }

    def _order_of(self, environment: Environment, env: Mapping[str, str], bounds: Bounds) -> dict[str, Any]:
        path = f"{environment.path}/bin:{env.get('PATH', _PATH)}"
        return {
            "env": {**env, "PATH": path, "VIRTUAL_ENV": str(environment.path)},
            "processes": max(PROCESSES, bounds.processes),
            # Of each process, where no control group limits them together.
            "memory": bounds.memory if self._spawner.no_cgroups else 0,
            "self_check": True,
        }


class _Begun(NamedTuple):
    """A shim that waits for its order, and where it is said what went wrong before."""

    job: Job
    control: ControlChannel
    diagnosis: int


@asynccontextmanager
async def _in_time() -> AsyncIterator[None]:
    """For what a process has to do that runs user code already. Errors: Unavailable, when it takes too long."""
    try:
        async with asyncio.timeout(LISTEN_SECONDS):
            yield
    except TimeoutError:
        raise Unavailable("the sandbox doesn't start: it doesn't answer") from None


def _script(launch: Launch) -> str:
    """The script keeps its own name where that is one."""
    name = launch.file_name if _SAFE_FILE.fullmatch(launch.file_name) else "workflow.py"
    return f"{bubblewrap.WORK}/{name}"


def _printed(diagnosis: int) -> str:
    """What bubblewrap said about its failure."""
    try:
        return os.read(diagnosis, 2000).decode("utf-8", "replace").strip()
    except OSError:
        return ""


async def until_lost(spawner: SpawnerClient) -> None:
    """Errors: Unavailable, when it is."""
    await spawner.lost.wait()
    raise Unavailable("the spawner is gone")


@asynccontextmanager
async def open_driver(
    home: Path, public_url: str, launched: Launched | None = None, imports: Imports | None = None
) -> AsyncIterator[BubblewrapDriver]:
    """The driver of this host; on leaving, everything that it started dies. Ends the process when the spawner dies.

    `launched` is the spawner that `executor.__main__` started; tests leave it to us. Errors: Unavailable.
    """
    needed = [home, Path(__file__).parent, Path(sys.base_prefix)]
    async with open_spawner(home / "runs", needed, launched) as spawner:
        driver = BubblewrapDriver(spawner, Confinement(spawner), public_url, imports)
        try:
            async with background(until_lost(spawner)):
                yield driver
        finally:
            driver.programs.close()
            await driver.bases.close()
