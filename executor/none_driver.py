"""The driver without a sandbox, for development only (`RUNMESH_ISOLATION=none`): `executor.sandbox.Driver`.

A workflow is a plain process of the user that runs Runmesh, in a directory of its own, on the host's network. What it
starts in a session of its own outlives it. Its way to the runtime, where it acts as its run, is a port of the loopback
that anybody on this host may use while it runs.
"""

import os
import re
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

from executor.commands import Completed
from executor.conversation import BubblewrapSandbox, close_all
from executor.egress.fixed import NEAR
from executor.frames import ControlChannel
from executor.programs import Programs
from executor.reach import Reach
from executor.sandbox import Crashed, Launch, Process
from executor.spawner_client import Job, Launched, SpawnerClient, open_spawner
from kit.errors import Precondition, Unavailable
from kit.lifecycle import background

_CONTROL_FD = 3
_SAFE_FILE = re.compile(r"(?!\.)[^/\0]{1,200}")
_RUNTIME_NAMES = ("CODEWORDS_RUNTIME_URI", "RUNTIME_URI")


class NoPrograms:
    """`executor.commands.Commands` without a sandbox: builds run as we do too."""

    def __init__(self, programs: Programs) -> None:
        self._programs = programs

    async def run(self, argv: Sequence[str], *, env: Mapping[str, str], cwd: Path, timeout: float) -> Completed:
        """Errors: Unavailable."""
        return await self._programs.run(argv, env=env, cwd=cwd, timeout=timeout)

    async def run_sandboxed(
        self,
        argv: Sequence[str],
        *,
        binds_ro: Sequence[Path],  # noqa: ARG002  # it sees everything, as it is
        binds_rw: Sequence[Path],  # noqa: ARG002
        env: Mapping[str, str],
        cwd: Path,
        timeout: float,
    ) -> Completed:
        """Errors: Unavailable."""
        with tempfile.TemporaryDirectory(prefix="runmesh-") as own:
            env = {"HOME": own, "TMPDIR": own, **env}
            return await self._programs.run(argv, env=env, cwd=cwd, timeout=timeout)

    async def run_packager(
        self,
        argv: Sequence[str],
        *,
        reach: Reach | None,  # noqa: ARG002  # it has our network
        binds_ro: Sequence[Path],  # noqa: ARG002
        binds_rw: Sequence[Path],  # noqa: ARG002
        env: Mapping[str, str],
        cwd: Path,
        timeout: float,
    ) -> Completed:
        """Errors: Unavailable."""
        return await self._programs.run(argv, env=env, cwd=cwd, timeout=timeout)

    def close(self) -> None:
        """Nothing is started any more."""
        self._programs.close()

    @property
    def packager(self) -> int | None:
        """Always us."""
        return None


class NoneDriver:
    """Starts processes. `shim` is a directory with the shim's files, and no others, in it."""

    def __init__(self, spawner: SpawnerClient, runs: Path, shim: Path) -> None:
        self.programs = NoPrograms(Programs(spawner, None))
        self._spawner = spawner
        self._runs = runs
        self._shim = shim
        self._numbers = count(1)

    @property
    def spawner(self) -> SpawnerClient:
        """What starts its processes."""
        return self._spawner

    @property
    def lost(self) -> bool:
        """As executor.sandbox.Driver."""
        return self._spawner.lost.is_set()

    async def start(self, launch: Launch) -> BubblewrapSandbox:
        """A new process, whatever isolation it asks for. Errors: Unavailable; Precondition for one with fill-ins."""
        if launch.certificates is not None:
            raise Precondition(
                "the egress proxy fills in secrets with hosts, and records runs; RUNMESH_ISOLATION=none has none",
                code="not_supported",
            )
        with ExitStack() as ours:
            control, diagnosis, job, place = await self._begin(ours, launch)
            way_out = socket.create_server(("127.0.0.1", 0))
            ours.callback(way_out.close)
            stdout, stdout_end = _pipe(ours)
            stderr, stderr_end = _pipe(ours)
            outputs = [stdout_end, stderr_end]
            ours.callback(close_all, outputs)
            script = place / "work" / (launch.file_name if _SAFE_FILE.fullmatch(launch.file_name) else "workflow.py")
            process = Process(stdout, stderr, [(way_out, False)])
            sandbox = BubblewrapSandbox(self._spawner, job, process, control, outputs, diagnosis)
            try:
                script.write_bytes(launch.source)
                await sandbox.begin(_order(launch, script, place / "tmp", way_out.getsockname()[1]))
            except (Crashed, OSError) as error:
                raise Unavailable(f"the workflow's process doesn't start: {error}") from error
            ours.pop_all()
            return sandbox

    async def _begin(self, ours: ExitStack, launch: Launch) -> tuple[ControlChannel, int, Job, Path]:
        """A shim that waits for its order, and its directory."""
        name = f"{re.sub(r'[^A-Za-z0-9_-]', '_', launch.run_id)[:60]}-{self._spawner.pid}-{next(self._numbers)}"
        with ExitStack() as its:
            ours_end, its_end = socket.socketpair()
            control = ControlChannel(ours_end)
            ours.callback(control.close)
            its.callback(its_end.close)
            diagnosis, told = _pipe(ours)
            its.callback(os.close, told)
            job = await self._spawner.spawn(
                [str(launch.environment.interpreter), "-u", str(self._shim / "shim.py")],
                {1: told, 2: told, _CONTROL_FD: its_end.fileno()},
                confined=False,
                env={"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1", "LANG": "C.UTF-8"},
                cwd=f"{self._runs}/{name}/work",
                run=name,
            )
        ours.callback(self._spawner.kill, job)
        return control, diagnosis, job, self._runs / name


def _order(launch: Launch, script: Path, own: Path, port: int) -> dict[str, Any]:
    environment = launch.environment.path
    path = f"{environment}/bin:{launch.env.get('PATH', os.defpath)}"
    env = {**launch.env, "HOME": str(own), "TMPDIR": str(own), "PATH": path, "VIRTUAL_ENV": str(environment)}
    env |= {name: f"http://127.0.0.1:{port}" for name in _RUNTIME_NAMES if name in launch.env}
    env |= {name: env[name].replace(NEAR, "127.0.0.1") for name in env if re.fullmatch(r"RUNMESH_\w+_URL", name)}
    return {
        "script": str(script),
        "argv": [],
        "env": env,
        "processes": 0,
        "self_check": False,
        "mode": "cold",
        "serves_many": False,
    }


def _pipe(stack: ExitStack) -> tuple[int, int]:
    """A pipe whose read end is `stack`'s to close, and doesn't block."""
    reading, writing = os.pipe()
    stack.callback(os.close, reading)
    os.set_blocking(reading, False)
    return reading, writing


async def _until_lost(spawner: SpawnerClient) -> None:
    await spawner.lost.wait()
    raise Unavailable("the spawner is gone")


@asynccontextmanager
async def open_none(home: Path, launched: Launched | None = None) -> AsyncIterator[NoneDriver]:
    """On leaving, everything that it started dies; the process ends when the spawner dies. Errors: Unavailable."""
    runs, here = home / "runs", Path(__file__).parent
    async with open_spawner(runs, [home, here, Path(sys.base_prefix)], launched) as spawner:
        with tempfile.TemporaryDirectory(prefix="shim-", dir=home) as shim:
            for file in here.glob("shim*.py"):
                Path(shim, file.name).write_bytes(file.read_bytes())
            driver = NoneDriver(spawner, runs, Path(shim))
            try:
                async with background(_until_lost(spawner)):
                    yield driver
            finally:
                driver.programs.close()
