"""The Python interpreters that this host has; none is ever downloaded."""

import asyncio
import json
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.specifiers import SpecifierSet

from executor.commands import Commands, Uv
from kit.errors import Invalid

OLDEST = (3, 10)
_LOOK_UP_SECONDS = 60.0
# Asks an interpreter about itself: a shim or a link answers for the real one.
_ASK = (
    "import json, os, sys; print(json.dumps([os.path.realpath(getattr(sys, '_base_executable', 0) or sys.executable),"
    " os.path.realpath(sys.base_prefix), list(sys.version_info[:3]), sys.implementation.name, sys.version_info[3],"
    " sys.abiflags]))"
)
_NAME = re.compile(r"python(\d+)\.(\d+)")


@dataclass(frozen=True)
class Interpreter:
    """A real CPython: no link, no shim, no virtual environment."""

    path: Path
    base_prefix: Path
    version: tuple[int, int, int]

    @property
    def minor(self) -> str:
        """Such as `3.11`: what a version of a workflow is pinned to, as hosts differ in the rest."""
        return f"{self.version[0]}.{self.version[1]}"

    def __str__(self) -> str:
        return ".".join(map(str, self.version))


class Interpreters:
    """Looks once and remembers, if there are any."""

    def __init__(self, commands: Commands, uv: Uv) -> None:
        self._commands = commands
        self._uv = uv
        self._found: list[Interpreter] = []
        self._looking = asyncio.Lock()

    async def present(self) -> list[Interpreter]:
        """The platform's own first, then from the newest to the oldest."""
        async with self._looking:
            if not self._found:
                self._found = await self._look()
            return self._found

    async def choose(self, requires_python: str) -> Interpreter:
        """The best that fits the specifier. Errors: Invalid (invalid_workflow) that lists those present."""
        fitting = SpecifierSet(requires_python)
        present = await self.present()
        for interpreter in present:
            if fitting.contains(str(interpreter), prereleases=True):
                return interpreter
        raise _missing(f"no interpreter here fits requires-python {requires_python!r}", present)

    async def find(self, python: str) -> Interpreter:
        """The one for `3.11`. Errors: Invalid (invalid_workflow) that lists those present."""
        present = await self.present()
        for interpreter in present:
            if python in (interpreter.minor, str(interpreter)):
                return interpreter
        raise _missing(f"Python {python[:50]} is not on this host", present)

    async def _look(self) -> list[Interpreter]:
        asked = await asyncio.gather(*(self._ask(path) for path in _candidates(self._uv.env["PATH"])))
        found = {(one.base_prefix, one.version): one for one in asked if one is not None}
        own = (Path(sys.base_prefix).resolve(), tuple(sys.version_info[:3]))
        order = sorted(found, key=lambda key: (key != own, *(-part for part in key[1])))
        return [found[key] for key in order]

    async def _ask(self, path: str) -> Interpreter | None:
        answer = await self._commands.run(
            [path, "-I", "-S", "-c", _ASK], env={"PATH": self._uv.env["PATH"]}, cwd=Path("/"), timeout=_LOOK_UP_SECONDS
        )
        if answer.returncode != 0:
            return None
        real, prefix, version, name, stage, flags = json.loads(answer.text.splitlines()[-1])
        if name != "cpython" or stage != "final" or flags or tuple(version) < OLDEST:  # flags: a build with another ABI
            return None
        return Interpreter(Path(real), Path(prefix), (version[0], version[1], version[2]))


def _candidates(search_path: str) -> list[str]:
    """The platform's own first; no file twice. An installed CPython has a file with its version in the name."""
    own = getattr(sys, "_base_executable", None) or sys.executable
    return list(dict.fromkeys(map(os.path.realpath, [own, *_named(search_path)])))


def _named(search_path: str) -> Iterator[str]:
    for directory in search_path.split(os.pathsep):
        try:
            names = sorted(os.listdir(directory))  # noqa: PTH208  # names are all that is asked for
        except OSError:  # isn't there, or isn't for us
            continue
        for name in names:
            if (version := _NAME.fullmatch(name)) and (int(version[1]), int(version[2])) >= OLDEST:
                yield os.path.join(directory, name)  # noqa: PTH118  # as above


def _missing(problem: str, present: list[Interpreter]) -> Invalid:
    known = ", ".join(str(interpreter) for interpreter in present) or "none"
    return Invalid(f"{problem}; present: {known}", code="invalid_workflow")
