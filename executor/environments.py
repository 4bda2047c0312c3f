"""Dependency environments: one per distinct lock, built once, read-only, shared by all sandboxes that need it.

`RUNMESH_HOME/envs/<digest>` exists only when it is complete: it is built beside and renamed.
"""

import asyncio
import hashlib
import os
import platform
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from executor import lock as locks
from executor.commands import Commands, Completed, Uv, discard, open_tree, readable
from executor.index import Index
from executor.interpreters import Interpreter, Interpreters
from executor.reach import Reach, Target
from executor.resolve import Resolver
from executor.sandbox import Environment
from executor.sdist import SourceWheels
from kit.errors import Invalid, Unavailable
from kit.telemetry import span

__all__ = ["Commands", "Completed", "Environment", "Environments"]

BUILDS_AT_ONCE = 2
COMPILE_SECONDS = 300.0


class Environments:
    """Resolves and builds; one for a home. `environ` is the service's own: it says which index, proxy and certificates
    to use; `also` are the hosts, besides, to which the index sends for files.
    """

    def __init__(self, home: Path, commands: Commands, environ: Mapping[str, str], also: Sequence[Target] = ()) -> None:
        self._directory = home.absolute() / "envs"
        self._commands = commands
        reach = Reach.of(environ, also)
        self._uv = Uv(commands, home.absolute(), environ, reach)
        self.interpreters = Interpreters(commands, self._uv)
        self._wheels = SourceWheels(home.absolute(), commands, self._uv, Index(environ, reach), self.interpreters)
        self._resolver = Resolver(self._uv, self._wheels)
        self._known: dict[tuple[str, str], Environment] = {}
        self._building: dict[str, asyncio.Task[None]] = {}
        self._room = asyncio.Semaphore(BUILDS_AT_ONCE)
        self._sweep(home.absolute() / "builds")

    async def choose(self, requires_python: str) -> str:
        """The interpreter for a specifier, as the other methods take it: `3.11`. Errors: Invalid (invalid_workflow)."""
        interpreter = await self.interpreters.choose(requires_python)
        same_minor = await self.interpreters.find(interpreter.minor)
        return interpreter.minor if same_minor == interpreter else str(interpreter)

    async def resolve(self, python: str, requirements: list[str]) -> str:
        """The lock of the requirements for an interpreter, `3.11`. Errors: Invalid (invalid_workflow); Unavailable."""
        interpreter = await self.interpreters.find(python)
        async with self._room:
            return await self._resolver.resolve(interpreter, requirements)

    async def ensure(self, python: str, lock: str) -> Environment:
        """The environment of a lock, at once when it is built already. Errors: Invalid (invalid_workflow);
        Unavailable.
        """
        known = self._known.get((python, lock))
        if known is not None and known.interpreter.exists():
            return known
        interpreter = await self.interpreters.find(python)
        digest = digest_of(interpreter, lock)
        path = self._directory / digest
        if not (path / "bin" / "python").exists():
            await self._build_once(interpreter, lock, digest)
        environment = Environment(digest, path, path / "bin" / "python", interpreter.base_prefix)
        self._known[python, lock] = environment
        return environment

    async def close(self) -> None:
        """Ends the builds that still run."""
        tasks = list(self._building.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _sweep(self, builds: Path) -> None:
        """Makes the directories; removes what a dead executor left half-done."""
        self._directory.mkdir(parents=True, exist_ok=True)
        self._directory.chmod(0o755)  # whatever our umask is, sandboxes get in
        builds.mkdir(exist_ok=True)
        builds.chmod(0o711)
        self._uv.prepare()
        for leftover in [*self._directory.glob(".*"), *builds.iterdir()]:
            discard(leftover)

    async def _build_once(self, interpreter: Interpreter, lock: str, digest: str) -> None:
        """All who want it wait for one build, which outlives any of them."""
        task = self._building.get(digest)
        if task is None:
            task = asyncio.create_task(self._build(interpreter, lock, digest))
            self._building[digest] = task
            task.add_done_callback(lambda done: self._ended(digest, done))
        await asyncio.shield(task)

    def _ended(self, digest: str, task: asyncio.Task[None]) -> None:
        del self._building[digest]
        if not task.cancelled():
            task.exception()  # told to those who wait; nobody may be left

    async def _build(self, interpreter: Interpreter, lock: str, digest: str) -> None:
        try:
            pins = locks.load(lock)
        except ValueError as error:
            raise Invalid(str(error), code="invalid_workflow") from None
        async with self._room:
            with span("environment.build", digest=digest, packages=len(pins)):
                async with self._uv.workplace() as (here, uvs):
                    made = await self._install(interpreter, pins, here, uvs / "env")
                    await self._compile(interpreter, made, self._directory / digest)
                    await asyncio.to_thread(_seal, made, self._directory / digest)

    async def _install(self, interpreter: Interpreter, pins: list[locks.Pin], here: Path, venv: Path) -> Path:
        shown = [interpreter.base_prefix]
        making: list[str | Path] = ["venv", "--relocatable", "--no-project", "--python", interpreter.path, venv]
        done = await self._uv.run(*making, cwd=here, shown=shown, online=False)
        if done.returncode != 0:
            raise Unavailable(f"no environment can be made: {readable(done.text)}")
        if not pins:
            return venv
        links = here / "links"
        links.mkdir()
        listed = here / "requirements.txt"
        listed.write_text(locks.requirements(pins, await self._built_wheels(interpreter, pins, links)))
        listed.chmod(0o644)
        open_tree(links)
        python = venv / "bin" / "python"
        sync = ["pip", "sync", "--require-hashes", "--no-build", "--python", str(python), "--find-links", str(links)]
        done = await self._uv.run(*sync, listed, cwd=here, shown=shown)
        if done.returncode != 0:
            raise Invalid(f"the dependencies can't be installed: {readable(done.text)}", code="invalid_workflow")
        return venv

    async def _built_wheels(self, interpreter: Interpreter, pins: list[locks.Pin], links: Path) -> dict[str, str]:
        hashes = {}
        for pin in pins:
            if pin.is_sdist:
                wheel = await self._wheels.wheel_of(pin.name, pin.hashes[0], interpreter)
                (links / wheel.name).symlink_to(wheel)
                hashes[pin.name] = hashlib.sha256(wheel.read_bytes()).hexdigest()
        return hashes

    async def _compile(self, interpreter: Interpreter, made: Path, final: Path) -> None:
        """Byte code, by the bare interpreter with -S, in a sandbox without a network: packages may hold source that
        crashes the compiler. Not by `uv --compile-bytecode`: that starts the environment's
        interpreter, which runs the `.pth` files that a package may bring, outside of any sandbox.
        """
        argv = [
            interpreter.path,
            "-I",
            "-S",
            "-m",
            "compileall",
            "-q",
            "-j",
            "2",
            "-s",
            made,
            "-p",
            final,
            made / "lib",
        ]
        # Its status doesn't matter: packages ship templates that aren't Python, and what isn't compiled still runs.
        await self._commands.run_packager(
            [str(part) for part in argv],
            reach=None,
            binds_ro=[interpreter.base_prefix],
            binds_rw=[made.parent],
            env={"LANG": "C.UTF-8"},
            cwd=made,
            timeout=COMPILE_SECONDS,
        )


def digest_of(interpreter: Interpreter, lock: str) -> str:
    """Names an environment: the same interpreter, platform and lock make the same."""
    machine = f"{platform.system()} {platform.machine()} {' '.join(platform.libc_ver())}"
    text = "\n".join([str(interpreter), str(interpreter.path), machine, lock])
    return hashlib.sha256(text.encode()).hexdigest()


def _seal(made: Path, final: Path) -> None:
    """Readable for all, safe on disk, then in its place. Errors: Unavailable."""
    if made.is_symlink():
        raise Unavailable("uv made no environment")
    open_tree(made)
    os.sync()
    shutil.rmtree(final, ignore_errors=True)  # there is none, or its interpreter's link is broken
    made.rename(final)
