"""The gVisor driver (`RUNMESH_ISOLATION=gvisor`): `executor.sandbox.Driver`.

All of it is the bubblewrap driver's but what bubblewrap starts: runsc, and the workflow in there, whose system calls a
kernel in user space answers instead of the host's. A gVisor isn't forked: every run is a new process from nothing.
"""

import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from executor import bubblewrap, gvisor
from executor.bubblewrap import Plan
from executor.cgroups import Bounds
from executor.confinement import Confinement
from executor.driver import BubblewrapDriver, until_lost
from executor.gvisor import Runsc
from executor.programs import Programs
from executor.sandbox import Launch, Unforkable
from executor.spawner_client import UNBOUND, Job, Launched, SpawnerClient, open_spawner
from executor.template import Template
from kit.errors import Unavailable
from kit.lifecycle import background

ASKING_SECONDS = 10.0
NO_TEMPLATES = "gVisor's sandboxes can't be forked"


class GvisorConfinement(Confinement):
    """Puts a gVisor into each bubblewrap."""

    def __init__(self, spawner: SpawnerClient, runsc: Runsc) -> None:
        """Errors: Unavailable when this host can't confine."""
        super().__init__(spawner)
        self.runsc = runsc
        self._plain = Confinement(spawner)

    async def spawn(
        self,
        plan: Plan,
        command: Sequence[str],
        fds: Mapping[int, int],
        *,
        directory: str,
        listen: Sequence[tuple[str, int]] | None = None,
        bounds: Bounds = UNBOUND,
    ) -> Job:
        """runsc hands over standard descriptors only: the control socket is standard input. uv is no user code, and is
        confined by bubblewrap alone. Errors: Unavailable.
        """
        if plan.packager:
            return await self._plain.spawn(plan, command, fds, directory=directory, listen=listen, bounds=bounds)
        inner = {0 if number == bubblewrap.CONTROL_FD else number: fd for number, fd in fds.items()}
        bounds = gvisor.bounded(bounds)
        return await super().spawn(plan, command, inner, directory=directory, listen=listen, bounds=bounds)

    def _start(self, plan: Plan, command: Sequence[str]) -> tuple[Mapping[int, bytes], Sequence[str]]:
        plan = replace(plan, files={**plan.files, gvisor.CONFIG: gvisor.config(plan, command)})
        options = bubblewrap.encoded(gvisor.arguments(self._system, plan, self.runsc))
        files = dict(enumerate(plan.files.values(), bubblewrap.FIRST_FILE_FD))
        return {bubblewrap.ARGUMENTS_FD: options, **files}, gvisor.command(self.runsc)


class GvisorDriver(BubblewrapDriver):
    """Starts sandboxes; builds run in gVisor too."""

    entry = gvisor.SHIM

    def __init__(self, spawner: SpawnerClient, confinement: GvisorConfinement, public_url: str) -> None:
        super().__init__(spawner, confinement, public_url)
        self.runsc = confinement.runsc
        own = (Path(__file__).parent / Path(gvisor.SHIM).name).read_bytes()
        self._files = {**self._files, gvisor.SHIM: own, gvisor.FILTER: confinement.filter}

    async def start_template(self, launch: Launch, timeout: float) -> Template:  # noqa: ARG002  # it is never started
        """Errors: Unforkable, always."""
        raise Unforkable(NO_TEMPLATES)

    def _order(self, launch: Launch, mode: str) -> dict[str, Any]:
        return {**super()._order(launch, mode), "asks": False}


async def ask_runsc(spawner: SpawnerClient, path: str) -> Runsc:
    """Which it is; `path` as a sandbox's uid reaches it. Errors: Unavailable."""
    done = await Programs(spawner, None).run([path, "--version"], env={}, cwd=Path("/"), timeout=ASKING_SECONDS)
    if done.returncode or done.timed_out:
        raise Unavailable(f"{path} --version fails, with {done.returncode}: gVisor can't be had")
    return Runsc.saying(await spawner.stage(Path(path)), done.text)


@asynccontextmanager
async def open_gvisor(home: Path, public_url: str, launched: Launched | None = None) -> AsyncIterator[GvisorDriver]:
    """On leaving, everything that it started dies; the process ends when the spawner dies. Errors: Unavailable."""
    path = gvisor.find_runsc()
    if path is None:
        raise Unavailable("gVisor (runsc) isn't installed: RUNMESH_ISOLATION=gvisor can't be had. See `runmesh doctor`")
    needed = [home, Path(__file__).parent, Path(sys.base_prefix), Path(path).resolve()]
    async with open_spawner(home / "runs", needed, launched) as spawner:
        runsc = await ask_runsc(spawner, path)
        driver = GvisorDriver(spawner, GvisorConfinement(spawner, runsc), public_url)
        try:
            async with background(until_lost(spawner)):
                yield driver
        finally:
            driver.programs.close()
