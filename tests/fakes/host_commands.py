"""`executor.commands.Commands` by asyncio's subprocesses: the real uv and bubblewrap without the spawner."""

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from executor.commands import MAX_OUTPUT, Completed
from executor.reach import Reach


class HostCommands:
    """Remembers what it ran, in `ran` and `sandboxed`."""

    def __init__(self) -> None:
        self.ran: list[list[str]] = []
        self.sandboxed: list[list[str]] = []

    async def run(self, argv: Sequence[str], *, env: Mapping[str, str], cwd: Path, timeout: float) -> Completed:
        self.ran.append(list(argv))
        return await _finish(list(argv), env, cwd, timeout)

    async def run_sandboxed(
        self,
        argv: Sequence[str],
        *,
        binds_ro: Sequence[Path],
        binds_rw: Sequence[Path],
        env: Mapping[str, str],
        cwd: Path,
        timeout: float,
    ) -> Completed:
        self.sandboxed.append(list(argv))
        bwrap = ["bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
        bwrap += ["--uid", "1000", "--gid", "1000", "--ro-bind", "/usr", "/usr", "--proc", "/proc", "--dev", "/dev"]
        for link in ("bin", "sbin", "lib", "lib64"):
            bwrap += ["--symlink", f"usr/{link}", f"/{link}"]
        bwrap += ["--tmpfs", "/tmp"]
        for option, paths in (("--ro-bind", binds_ro), ("--bind", binds_rw)):
            for path in paths:
                bwrap += [option, str(path), str(path)]
        return await _finish([*bwrap, "--chdir", str(cwd), "--", *argv], env, Path("/"), timeout)

    async def run_packager(
        self,
        argv: Sequence[str],
        *,
        reach: Reach | None,
        binds_ro: Sequence[Path],
        binds_rw: Sequence[Path],
        env: Mapping[str, str],
        cwd: Path,
        timeout: float,
    ) -> Completed:
        self.ran.append(list(argv))
        return await _finish(list(argv), env, cwd, timeout)

    @property
    def packager(self) -> int | None:
        return None


async def _finish(argv: list[str], env: Mapping[str, str], cwd: Path, timeout: float) -> Completed:
    process = await asyncio.create_subprocess_exec(
        *argv,
        env={"PATH": os.defpath, **env},
        cwd=cwd,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), timeout)
    except TimeoutError:
        return Completed(-signal.SIGKILL, b"", timed_out=True)
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    return Completed(process.returncode or 0, output[:MAX_OUTPUT])
