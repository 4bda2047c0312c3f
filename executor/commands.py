"""The port to programs that the executor runs beside sandboxes (uv, an sdist's build), and what uv's environment is.

The executor itself never forks (grpcio and fork in one process hang): the spawner implements `Commands`.
"""

import asyncio
import os
import re
import stat
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import Protocol

import uv

from executor import staging
from executor.reach import ELSEWHERE, Reach
from kit.errors import Unavailable
from kit.telemetry import log

MAX_OUTPUT = 1 << 20
"""Bytes of a command's output that are kept; the rest is read and dropped."""

UV_SECONDS = 300.0

_PASSED_ON = (
    "UV_INDEX_URL",
    "UV_DEFAULT_INDEX",
    "UV_EXTRA_INDEX_URL",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NO_PROXY",
)
_NO_ANSWER = re.compile(
    r"error sending request|request failed after|failed to fetch|dns error|timed out|no space left|status server error",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Completed:
    """How a command ended. `returncode` is negative for a signal; `output` is stdout and stderr as they came."""

    returncode: int
    output: bytes
    timed_out: bool = False
    # What it tried to connect to and mustn't, a sentence each.
    refused: Sequence[str] = ()

    @property
    def text(self) -> str:
        """The output, whatever its encoding."""
        return self.output.decode("utf-8", "replace")


class Commands(Protocol):
    """Runs a command to its end: stdin is /dev/null, the environment is `env` and nothing else, `timeout` in seconds.

    One that passes its timeout, or whose caller is cancelled, is killed with all its children.
    """

    async def run(self, argv: Sequence[str], *, env: Mapping[str, str], cwd: Path, timeout: float) -> Completed:
        """Runs it as we are. Errors: kit.errors.Unavailable when no process can be had."""

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
        """Runs it in bubblewrap without a network: the system's /usr and libraries and these paths (each at its own
        path inside), nothing else. The command may have another uid each time: all may read what is bound, and write
        into `binds_rw`. `cwd` lies in one of those or is /tmp, which is empty and its own.
        """

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
        """As `run_sandboxed`, but with one uid for all of them: `packager`. It can connect to what `reach` has, and to
        nothing else; None: to nothing. Errors: kit.errors.Unavailable.
        """

    @property
    def packager(self) -> int | None:
        """The uid of `run_packager`; None: ours."""


class Uv:
    """uv, with an environment of its own: no download of interpreters, no configuration files, the operator's index
    and proxy. It runs in a sandbox from which only the index can be reached. No package's code ever runs there: it
    must not be asked to build anything, nor to start an environment's interpreter once something is installed.

    Its cache and what it makes lie below one directory, which is one mount inside: a file can't be hard-linked from
    one mount to another. They lie on the same filesystem as the environments.
    """

    def __init__(self, commands: Commands, home: Path, environ: Mapping[str, str], reach: Reach | None = None) -> None:
        self._commands = commands
        self._binary = Path(uv.find_uv_bin())
        self._reach = reach or Reach.of(environ)
        self._place = home / "packages"
        self._making = self._place / "making"
        self._cache = self._place / "cache"
        self._wheels = home / "wheels"
        self.env = {name: environ[name] for name in _PASSED_ON if environ.get(name)} | {
            "PATH": search_path(environ),
            "HOME": str(self._cache),
            "UV_CACHE_DIR": str(self._cache),
            "UV_LINK_MODE": "hardlink",
            "UV_PYTHON_DOWNLOADS": "never",
            "UV_NO_CONFIG": "1",
            "UV_NO_PROGRESS": "1",
            "NO_COLOR": "1",
        }

    def prepare(self) -> None:
        """Makes the directories; removes what a dead executor left half-done, and a cache that is another's."""
        for place, mode in ((self._place, 0o711), (self._making, 0o711), (self._wheels, 0o755)):
            place.mkdir(parents=True, exist_ok=True)
            place.chmod(mode)
        for leftover in self._making.iterdir():
            discard(leftover)
        owner = os.getuid() if self._commands.packager is None else self._commands.packager
        if self._cache.exists() and self._cache.stat().st_uid != owner:
            discard(self._cache)
        if not self._cache.exists():
            self._give(self._cache)
        self._cache.chmod(0o700)

    @asynccontextmanager
    async def workplace(self) -> AsyncIterator[tuple[Path, Path]]:
        """A directory of ours, and one in it that uv writes to, where nothing may be trusted to be what it seems."""
        async with workplace(self._making) as here:
            made = here / "made"
            self._give(made)
            yield here, made

    async def run(
        self, *arguments: str | Path, cwd: Path, shown: Sequence[Path] = (), online: bool = True
    ) -> Completed:
        """`shown` is what it may read besides; `cwd` lies in a `workplace`. Errors: Unavailable when uv doesn't come to
        an end or the index doesn't answer.
        """
        done = await self._commands.run_packager(
            [str(self._binary), *map(str, arguments)],
            reach=self._reach if online else None,
            binds_ro=[self._binary, *shown, self._wheels, *self._reach.paths],
            binds_rw=[self._place],
            env=self.env,
            cwd=cwd,
            timeout=UV_SECONDS,
        )
        if done.timed_out:
            raise Unavailable(f"uv {arguments[0]} took longer than {UV_SECONDS:.0f} s")
        if done.returncode != 0 and done.refused:
            raise Unavailable(f"packages can't be had: {done.refused[0]}, {ELSEWHERE}")
        if done.returncode != 0 and _NO_ANSWER.search(done.text):
            raise Unavailable(f"packages can't be had now: {readable(done.text)}")
        return done

    def _give(self, directory: Path) -> None:
        """Makes a directory of the packager's."""
        directory.mkdir(mode=0o711)
        directory.chmod(0o711)
        if self._commands.packager is not None:
            os.chown(directory, self._commands.packager, self._commands.packager)


def search_path(environ: Mapping[str, str]) -> str:
    """PATH, with pyenv's versions in place of its shims: a shim answers only for the version that is switched on."""
    root = Path(environ.get("PYENV_ROOT") or Path(environ.get("HOME") or "/nonexistent") / ".pyenv")
    given = [part for part in environ.get("PATH", os.defpath).split(os.pathsep) if part]
    real = [part for part in given if Path(part) != root / "shims"]
    versions = sorted(glob(str(root / "versions" / "*" / "bin")))  # noqa: PTH207  # silent where we may not look
    return os.pathsep.join([*real, *versions])


@asynccontextmanager
async def workplace(parent: Path, prefix: str = "") -> AsyncIterator[Path]:
    """A new directory in `parent` (0711) that a sandbox's uid can pass through but nobody can list or guess. Removed
    with all that is in it, however much or deep that is: by a thread.
    """
    here = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    here.chmod(0o711)
    try:
        yield here
    finally:
        await asyncio.to_thread(discard, here)


def read_plain(path: Path, most: int) -> bytes:
    """A file that a sandbox wrote. Errors: OSError when it is no plain file, or longer than `most` bytes."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode) or len(data := file.read(most + 1)) > most:
            raise OSError(f"{path.name} is no plain file of at most {most} bytes")
        return data


def discard(directory: Path) -> None:
    """Removes what may be left of a build; what resists stays, and is tried again at the next start."""
    try:
        staging.remove(directory)
    except OSError as error:
        log().warning("build.left_over", directory=str(directory), reason=str(error))


def open_tree(root: Path) -> None:
    """Makes what lies in `root` readable for every uid and writable for none, whatever our umask is.

    Not by `os.walk`: a package may hold directories deeper than its recursion goes.
    """
    waiting = [root]
    while waiting:
        directory = waiting.pop()
        directory.chmod(0o755)
        for path in directory.iterdir():
            if path.is_symlink():
                continue
            if path.is_dir():
                waiting.append(path)
            else:
                path.chmod(0o555 if path.stat().st_mode & 0o100 else 0o444)


def readable(output: str, limit: int = 2000) -> str:
    """uv's message as one paragraph: no `error:`, no hint about our own options, single spaces."""
    start = output.find("error:")
    body = output[start:] if start >= 0 else output
    lines = [re.sub(r"^\s*(error|cause):\s*", "", line).strip() for line in body.split("hint:")[0].splitlines()]
    return " ".join(line for line in lines if line)[:limit]
