"""Builds a wheel of a source distribution. Runs INSIDE a sandbox, by the build environment's own interpreter: a file of
its own, standard library only, nothing of ours imported (it is copied there).

    python -I -S build_wheel.py describe ARCHIVE    described.json: requires, backend, path
    python -I    build_wheel.py build ARCHIVE       by recipe.json, which is such a description; either requires.json:
                                                    what the backend wants besides, or the wheel in dist/
    python -I    build_wheel.py finish ARCHIVE      without asking what it wants

This is all that PEP 517 asks of a frontend. Everything is written in the working directory.
"""

import importlib
import json
import os
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

MAX_UNPACKED = 2 << 30
MAX_MEMBERS = 200_000


def describe(archive: str) -> None:
    """Unpacks the archive and says what it is built with."""
    unpack(Path(archive), Path("source"))
    system: dict[str, Any] = {}
    project = root() / "pyproject.toml"
    if project.is_file():
        tomllib = importlib.import_module("tomllib")  # 3.11: describe runs by the platform's own interpreter
        system = tomllib.loads(project.read_text("utf-8")).get("build-system", {})
    described = {
        "requires": system.get("requires", ["setuptools>=40.8.0", "wheel"]),
        "backend": system.get("build-backend", "setuptools.build_meta:__legacy__"),
        "path": system.get("backend-path", []),
    }
    Path("described.json").write_text(json.dumps(described))


def unpack(archive: Path, target: Path) -> None:
    """Unpacks a tar or zip archive. Errors: ValueError when it is a bomb."""
    if archive.name.endswith(".zip"):
        with zipfile.ZipFile(archive) as package:
            check([member.file_size for member in package.infolist()])
            package.extractall(target)  # noqa: S202  # checked above, and we are in a sandbox
        return
    with tarfile.open(archive) as package:
        check([member.size for member in package])
        if hasattr(tarfile, "data_filter"):
            package.extractall(target, filter="data")
        else:  # Debian's 3.11.2
            package.extractall(target)  # noqa: S202  # checked above, and we are in a sandbox


def check(sizes: "list[int]") -> None:
    """Errors: ValueError for too many members or too many bytes."""
    if len(sizes) > MAX_MEMBERS or sum(sizes) > MAX_UNPACKED:
        raise ValueError(f"the archive unpacks to {len(sizes)} files of {sum(sizes)} bytes: too much")


def root() -> Path:
    """The one directory that a source distribution holds."""
    inside = [path for path in Path("source").iterdir() if path.is_dir()]
    return inside[0].resolve() if len(inside) == 1 else Path("source").resolve()


def backend() -> Any:
    """The build backend, with the source as the working directory."""
    described = json.loads(Path("recipe.json").read_text())
    here = root()
    sys.path[:0] = [str(here / part) for part in described["path"]]
    name, _, attribute = described["backend"].partition(":")
    os.chdir(here)
    found = importlib.import_module(name)
    for part in attribute.split(".") if attribute else ():
        found = getattr(found, part)
    return found


def build(archive: str) -> None:
    """Builds, unless the backend wants more first."""
    unpack(Path(archive), Path("source"))
    here = Path.cwd()
    chosen = backend()
    ask: Any = getattr(chosen, "get_requires_for_build_wheel", None)
    wanted = list(ask({})) if ask else []
    if wanted:
        (here / "requires.json").write_text(json.dumps(wanted))
    else:
        wheel(chosen, here)


def finish(archive: str) -> None:
    """Builds."""
    unpack(Path(archive), Path("source"))
    here = Path.cwd()
    wheel(backend(), here)


def wheel(chosen: Any, here: Path) -> None:
    """Lets the backend make the wheel; the working directory is the source."""
    target = here / "dist"
    target.mkdir()
    chosen.build_wheel(str(target), {})


if __name__ == "__main__":
    steps: dict[str, Any] = {"describe": describe, "build": build, "finish": finish}
    steps[sys.argv[1]](*sys.argv[2:])
