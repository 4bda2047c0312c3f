"""Wheels of packages that have only a source distribution: fetched here, built in bubblewrap without a network.

What executes, executes inside: unpacking, the build backend, setup.py. Elsewhere uv only installs wheels. A wheel is
kept as `RUNMESH_HOME/wheels/<sha256 of the archive>/<cp311>/NAME.whl`.
"""

import asyncio
import json
import os
import re
import shutil
import stat
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import Version

from executor.commands import Commands, Completed, Uv, open_tree, read_plain, readable
from executor.header import check_requirement
from executor.index import Index
from executor.index_page import Sdist, usable_tags
from executor.interpreters import Interpreter, Interpreters
from kit.errors import Invalid, Unavailable

BUILD_SECONDS = 300.0
MAX_WHEEL = 500 << 20
MAX_UNPACKED = 4 << 30
MAX_LISTING = 8 << 20  # some 50,000 files
_ZIP_END, _ZIP_LOCATOR = 22, 20  # bytes of what ends a ZIP file, and of what stands before it in ZIP64
_MAX_JSON = 64 << 10
_SCRIPT = Path(__file__).with_name("build_wheel.py")
_WHEEL_NAME = re.compile(r"[A-Za-z0-9_.!+-]{1,250}\.whl")


class SourceWheels:
    """Makes each wheel once."""

    def __init__(self, home: Path, commands: Commands, uv: Uv, index: Index, interpreters: Interpreters) -> None:
        self._kept = home / "wheels"
        self._commands = commands
        self._uv = uv
        self._index = index
        self._interpreters = interpreters
        self._one_build = asyncio.Lock()

    async def available(self, name: str, interpreter: Interpreter) -> list[Sdist]:
        """The package's versions that would have to be built. Errors: Unavailable."""
        return await self._index.sdists(name, interpreter)

    async def wheel_of(self, name: str, sha256: str, interpreter: Interpreter) -> Path:
        """The wheel of the archive with this hash. Errors: as `wheel`; Invalid when the index has it no longer."""
        kept = self._find(sha256, interpreter)
        if kept is not None:
            return kept
        for sdist in await self.available(name, interpreter):
            if sdist.sha256 == sha256:
                return await self.wheel(sdist, interpreter)
        raise _invalid(
            f"the package index no longer has the source distribution of {name} that this workflow is locked to"
        )

    async def wheel(self, sdist: Sdist, interpreter: Interpreter) -> Path:
        """Errors: Invalid (invalid_workflow) with the end of the build's output; Unavailable."""
        async with self._one_build:
            kept = self._find(sdist.sha256, interpreter)
            return kept or await self._build(sdist, interpreter)

    def _find(self, sha256: str, interpreter: Interpreter) -> Path | None:
        return next((self._kept / sha256 / _tag(interpreter)).glob("*.whl"), None)

    async def _build(self, sdist: Sdist, interpreter: Interpreter) -> Path:
        async with self._uv.workplace() as (here, own):
            archive = here / sdist.file_name
            await self._index.download(sdist, archive)
            plain = (await self._interpreters.present())[0]
            told = await self._step("describe", archive, plain.path, [plain.base_prefix])
            recipe = read_json(told.directory / "described.json")
            if not isinstance(recipe, dict):
                raise _invalid(f"{sdist.name} {sdist.version} doesn't say how it is built")
            wanted = _requirements(recipe.get("requires"))
            made = await self._try(sdist, archive, interpreter, wanted, recipe, "build", own)
            more = read_json(made.directory / "requires.json")
            if more:
                # A new environment: what wheels were installed may run code when its interpreter starts, so uv, which
                # runs outside, must never start it again.
                all_of_it = wanted + _requirements(more)
                made = await self._try(sdist, archive, interpreter, all_of_it, recipe, "finish", own)
            return await asyncio.to_thread(self._keep, sdist, interpreter, here, made)

    async def _try(
        self,
        sdist: Sdist,
        archive: Path,
        interpreter: Interpreter,
        wanted: list[str],
        recipe: dict[str, object],
        command: str,
        own: Path,
    ) -> "_Told":
        python = await self._install(sdist, interpreter, wanted, archive.with_name(f"{command}.txt"), own / command)
        return await self._step(command, archive, python, [interpreter.base_prefix, python.parent.parent], recipe)

    async def _install(
        self, sdist: Sdist, interpreter: Interpreter, wanted: list[str], listed: Path, target: Path
    ) -> Path:
        python = target / "bin" / "python"
        listed.write_text("".join(f"{entry}\n" for entry in wanted))
        listed.chmod(0o644)
        shown, cwd = [interpreter.base_prefix], target.parent
        made = await self._uv.run("venv", "--python", interpreter.path, target, cwd=cwd, shown=shown, online=False)
        if made.returncode != 0:
            raise Unavailable(f"an environment for a build can't be made: {readable(made.text)}")
        if wanted:
            install: list[str | Path] = ["pip", "install", "--python", python, "--no-build", "-r", listed]
            done = await self._uv.run(*install, cwd=cwd, shown=shown)
            if done.returncode != 0:
                raise _invalid(f"{sdist.name} {sdist.version} can't be built: its build needs {readable(done.text)}")
        if target.is_symlink():
            raise Unavailable("uv made no environment for a build")
        await asyncio.to_thread(open_tree, target)
        return python

    async def _step(
        self, command: str, archive: Path, python: Path, binds: Sequence[Path], recipe: object = None
    ) -> "_Told":
        """Runs build_wheel.py in a sandbox, in a directory of its own, since each sandbox has its own uid."""
        inside = archive.with_name(command)
        inside.mkdir()
        shutil.copyfile(_SCRIPT, inside / _SCRIPT.name)
        shutil.copyfile(archive, inside / archive.name)
        (inside / "recipe.json").write_text(json.dumps(recipe))
        for given in inside.iterdir():
            given.chmod(0o644)
        inside.chmod(0o777)
        isolated = ["-I", "-S"] if command == "describe" else ["-I"]
        done = await self._commands.run_sandboxed(
            [str(python), *isolated, str(inside / _SCRIPT.name), command, archive.name],
            binds_ro=binds,
            binds_rw=[inside],
            env={
                "PATH": f"{python.parent}:/usr/bin:/bin",
                "HOME": str(inside),
                "LANG": "C.UTF-8",
                "SOURCE_DATE_EPOCH": "315532800",  # 1980, the first year of zip: builds are the more alike
            },
            cwd=inside,
            timeout=BUILD_SECONDS,
        )
        if done.timed_out:
            raise _invalid(f"building {archive.name} took longer than {BUILD_SECONDS:.0f} s")
        if done.returncode != 0:
            told = _end(done).replace(f"{inside}/", "")
            raise _invalid(f"{archive.name}, which has no usable wheel, can't be built: {told}")
        return _Told(inside, done)

    def _keep(self, sdist: Sdist, interpreter: Interpreter, here: Path, made: "_Told") -> Path:
        ready = here / "kept"
        ready.mkdir()
        wheel = take_wheel(made.directory / "dist", ready)
        fault = _fault(wheel, sdist, interpreter) if wheel else f"it made no wheel: {_end(made.output)}"
        if wheel is None or fault:
            raise _invalid(f"{sdist.name} {sdist.version} can't be built: {fault}")
        target = self._kept / sdist.sha256 / _tag(interpreter)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.parent.chmod(0o755)  # whatever our umask is, uv reads it
        open_tree(ready)
        os.sync()
        ready.rename(target)
        return target / wheel.name


@dataclass(frozen=True)
class _Told:
    """What a step printed, and where it left its files: none of it is trusted."""

    directory: Path
    output: Completed


def read_json(path: Path, key: str = "") -> object:
    """A small file that the sandbox wrote. Errors: Invalid; it may be anything."""
    try:
        parsed = json.loads(read_plain(path, _MAX_JSON))
    except (OSError, ValueError, RecursionError):
        parsed = None
    return parsed.get(key) if key and isinstance(parsed, dict) else parsed


def take_wheel(dist: Path, target: Path) -> Path | None:
    """Copies the one wheel that the sandbox put into `dist`; None when there isn't just one, or it is no plain file."""
    try:
        directory = os.open(dist, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        names = [name for name in os.listdir(directory) if _WHEEL_NAME.fullmatch(name)]  # noqa: PTH208  # of a descriptor: no link
        if len(names) != 1:
            return None
        handle = os.open(names[0], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
        with os.fdopen(handle, "rb") as file:
            about = os.fstat(handle)
            if not stat.S_ISREG(about.st_mode) or about.st_size > MAX_WHEEL:
                return None
            with (target / names[0]).open("wb") as copy:
                shutil.copyfileobj(file, copy)
        return target / names[0]
    except OSError:
        return None
    finally:
        os.close(directory)


def _fault(wheel: Path, sdist: Sdist, interpreter: Interpreter) -> str:
    """What is wrong with a built wheel; empty: nothing."""
    try:
        name, version, _, tags = parse_wheel_filename(wheel.name)
        if (listing := _listing(wheel)) > MAX_LISTING:
            return f"it made a wheel that lists its files in {listing} bytes; {MAX_LISTING} are allowed"
        with zipfile.ZipFile(wheel) as package:
            unpacked = sum(member.file_size for member in package.infolist())
    except (InvalidWheelFilename, zipfile.BadZipFile) as error:
        return f"what it made is not a wheel: {error}"
    if (name, version) != (canonicalize_name(sdist.name), Version(sdist.version)):
        return f"it made a wheel of {name} {version}"
    if not tags & usable_tags(interpreter):
        return f"it made a wheel that doesn't fit this host: {wheel.name}"
    return f"it unpacks to {unpacked} bytes" if unpacked > MAX_UNPACKED else ""


def _listing(wheel: Path) -> int:
    """Bytes of the list of what it holds, as `zipfile` will find it and read all of it at once: of 500 MB that would be
    ten million files, minutes, and gigabytes of our memory. Errors: zipfile.BadZipFile; also for ZIP64, without which
    a wheel of a size that we take does.
    """
    with wheel.open("rb") as file:
        file.seek(max(0, wheel.stat().st_size - _ZIP_END - _ZIP_LOCATOR - 0xFFFF))
        tail = file.read()
    at = len(tail) - _ZIP_END
    if not (tail[max(0, at) :].startswith(b"PK\5\6") and tail.endswith(b"\0\0")):  # it has a comment
        at = tail.rfind(b"PK\5\6")
    if at < 0 or len(tail) - at < _ZIP_END or tail[max(0, at - _ZIP_LOCATOR) :].startswith(b"PK\6\7"):
        raise zipfile.BadZipFile("it has no end, or one of ZIP64")
    return int.from_bytes(tail[at + 12 : at + 16], "little")


def _requirements(found: object) -> list[str]:
    """Build requirements as the sandbox tells them: packages of the index or nothing. Errors: Invalid."""
    if not isinstance(found, list) or len(found) > 100 or not all(isinstance(entry, str) for entry in found):
        raise _invalid("a source distribution's build requirements can't be read")
    try:
        return [check_requirement(entry) for entry in found]
    except ValueError as error:
        raise _invalid(f"a source distribution's build requirements: {error}") from None


def _tag(interpreter: Interpreter) -> str:
    return f"cp{interpreter.version[0]}{interpreter.version[1]}"


def _end(done: Completed) -> str:
    return "\n".join(done.text.strip().splitlines()[-15:])[-2000:]


def _invalid(message: str) -> Invalid:
    return Invalid(message, code="invalid_workflow")
