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
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from executor import bubblewrap
from executor.bubblewrap import Plan
from executor.cgroups import Bounds
from executor.confinement import Confinement
from executor.conversation import BubblewrapSandbox, close_all, pipe
from executor.egress.names import Names
from executor.frames import ControlChannel
from executor.imports import Imports
from executor.netns import DNS_ADDRESS, ways_out
from executor.programs import Programs
from executor.sandbox import Crashed, Launch, Process
from executor.spawner_client import Job, Launched, SpawnerClient, open_spawner
from executor.template import Template
from kit.errors import Unavailable
from kit.lifecycle import background

PROCESSES = 512
LISTEN_SECONDS = 5.0
_SHIM_PARTS = ("", "_chance", "_check", "_control", "_exchange", "_landlock", "_template")
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

    @property
    def spawner(self) -> SpawnerClient:
        """What starts its processes."""
        return self._spawner

    async def start(self, launch: Launch) -> BubblewrapSandbox:
        """A new process from nothing. Errors: Unavailable."""
        with ExitStack() as ours:
            directory = self._confinement.directory(launch.run_id)
            control, diagnosis, job = await self._begin(ours, launch, directory, template=False)
            sockets = await self._listening(job, diagnosis)
            for sock in sockets:
                ours.callback(sock.close)
            process, outputs = self._outputs(ours, sockets, directory)
            sandbox = BubblewrapSandbox(self._spawner, job, process, control, outputs, diagnosis)
            try:
                await sandbox.begin(self._order(launch, "cold"))
            except Crashed as crash:
                raise Unavailable(f"the sandbox doesn't start: {_printed(diagnosis) or crash}") from crash
            ours.pop_all()
            return sandbox

    async def start_template(self, launch: Launch, timeout: float) -> Template:
        """One to fork slots from, ready. Errors: StartFailed, Unavailable."""
        with ExitStack() as ours:
            directory = self._confinement.directory("template")
            control, diagnosis, job = await self._begin(ours, launch, directory, template=True)
            sockets = await self._listening(job, diagnosis)
            for sock in sockets:
                ours.callback(sock.close)
            process, outputs = self._outputs(ours, sockets, directory)
            fork = partial(self._fork, job, control, directory, launch.bounds, process.names)
            spawner = self._spawner
            template = Template(job, control, process, diagnosis, fork, spawner.kill)
            try:
                await control.send(b"S", self._order(launch, "template"), outputs)
            except Crashed as crash:
                raise Unavailable(f"the sandbox doesn't start: {_printed(diagnosis) or crash}") from crash
            close_all(outputs)
            ours.pop_all()
        try:
            async with (
                self._imports.served(process, launch.egress, launch.contacts) if self._imports else nullcontext()
            ):
                await template.ready(timeout)
        finally:
            process.close_ways()
        return template

    async def _begin(
        self, ours: ExitStack, launch: Launch, directory: str, *, template: bool
    ) -> tuple[ControlChannel, int, Job]:
        """A shim that waits for its order: its control channel, where bubblewrap says what is wrong, its job."""
        with ExitStack() as its:
            ours_end, its_end = socket.socketpair()
            control = ControlChannel(ours_end)
            ours.callback(control.close)
            its.callback(its_end.close)
            diagnosis, told = pipe(ours)
            its.callback(os.close, told)
            fds = {1: told, 2: told, bubblewrap.CONTROL_FD: its_end.fileno()}
            job = await self._spawn(launch, fds, directory, template=template)
        ours.callback(self._spawner.kill, job)
        return control, diagnosis, job

    async def _fork(
        self,
        template: Job,
        control: ControlChannel,
        directory: str,
        bounds: Bounds,
        names: Names,
        warm: bool,
    ) -> BubblewrapSandbox:
        """A slot of a template: its shim is about to say that it is ready. Errors: Unavailable."""
        with ExitStack() as ours:
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
                listen = [(way.address, way.port) for way in self._ways]
                name = self._confinement.directory("slot")
                job = self._spawner.adopt(template, spawners, run=name, listen=listen, bounds=bounds)
                ours.callback(self._spawner.kill, job)
                filter_ = base64.b64encode(self._confinement.filter).decode()
                order = {"slot": job.number, "directory": bubblewrap.WORK, "filter": filter_, "warm": warm}
                try:
                    await control.send(b"F", order, [its_end.fileno(), slots.fileno()])
                except Crashed as crash:
                    raise Unavailable("the template is gone") from crash
            diagnosis = os.open(os.devnull, os.O_RDONLY)
            ours.callback(os.close, diagnosis)
            sockets = await self._listening(job, diagnosis)
            for sock in sockets:
                ours.callback(sock.close)
            await job.placed
            process, outputs = self._outputs(ours, sockets, f"{directory}/slots/{name}")
            process.names = names.copy()  # it may remember addresses that it was given while it was imported
            sandbox = BubblewrapSandbox(self._spawner, job, process, channel, outputs, diagnosis)
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

    async def _spawn(self, launch: Launch, fds: dict[int, int], directory: str, *, template: bool) -> Job:
        environment, confinement = launch.environment, self._confinement
        shown = [await confinement.show(environment.path)]
        if not environment.base_prefix.is_relative_to("/usr"):
            shown.append(await confinement.show(environment.base_prefix))
        if launch.certificates is not None:
            shown.append(replace(await confinement.show(launch.certificates), target=bubblewrap.CERTIFICATES))
        shown += confinement.own(directory, bubblewrap.WORK)
        if template:
            shown += confinement.slots(directory)
        files = {**self._files, _script(launch): launch.source}
        plan = Plan(shown, files, _ENVIRONMENT, bubblewrap.WORK, template=template)
        command = [str(environment.interpreter), "-u", self.entry]
        listen = [(way.address, way.port) for way in self._ways]
        return await confinement.spawn(plan, command, fds, directory=directory, listen=listen, bounds=launch.bounds)

    async def _listening(self, job: Job, diagnosis: int) -> list[socket.socket]:
        try:
            async with asyncio.timeout(LISTEN_SECONDS):
                return await job.listening
        except (TimeoutError, Unavailable) as error:
            raise Unavailable(f"the sandbox doesn't start: {_printed(diagnosis) or error}") from error
        except asyncio.CancelledError:
            job.hang_up()
            raise

    def _order(self, launch: Launch, mode: str) -> dict[str, Any]:
        path = f"{launch.environment.path}/bin:{launch.env.get('PATH', _PATH)}"
        own = {"PATH": path, "VIRTUAL_ENV": str(launch.environment.path)}
        return {
            "script": _script(launch),
            "argv": [],
            "env": {**launch.env, **own},
            "processes": max(PROCESSES, launch.bounds.processes),
            "file_bytes": launch.disk_bytes,
            # Of each process, where no control group limits them together.
            "memory": launch.bounds.memory if self._spawner.no_cgroups else 0,
            "self_check": True,
            "mode": mode,
            "serves_many": launch.isolation == "instance",
            "asks": launch.isolation == "check",
        }


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
