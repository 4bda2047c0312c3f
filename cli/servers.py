"""Which server a command speaks to, and by which key: `--profile`, the environment, the profile in use, or the mesh
that runs on this machine.

Profiles are kept in `$XDG_CONFIG_HOME/runmesh/profiles.json`, which only its owner can read: there are keys in it.
"""

import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cli.problem import UNREACHABLE, Misuse, Problem

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
HOW_TO_START = (
    "`runmesh up` starts one here (`make up` in the repository)",
    "`runmesh profiles add NAME --url URL` remembers one elsewhere; RUNMESH_URL and RUNMESH_API_KEY name one, too",
)


@dataclass(frozen=True)
class Server:
    """An address without a slash at its end, the key, and who says so."""

    url: str
    key: str = field(repr=False)
    source: str

    def __str__(self) -> str:
        return f"{self.url} ({self.source})"


@dataclass
class Profiles:
    """All that are known, by their names; `current` is the one in use, or empty."""

    current: str = ""
    servers: dict[str, dict[str, str]] = field(default_factory=dict)

    def server(self, name: str) -> Server:
        """Errors: Misuse."""
        if name not in self.servers:
            known = ", ".join(sorted(self.servers)) or "none"
            raise Misuse(f"there is no profile {name!r}; known: {known}")
        return Server(self.servers[name]["url"], self.servers[name]["key"], f"profile {name}")


def profiles_file() -> Path:
    """It need not exist."""
    config = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(config) / "runmesh" / "profiles.json"


def read_profiles() -> Profiles:
    """Errors: Misuse when the file can't be used."""
    path = profiles_file()
    try:
        told = json.loads(path.read_text())
        servers = {str(name): {part: str(of[part]) for part in ("url", "key")} for name, of in told["servers"].items()}
        return Profiles(str(told.get("current", "")), servers)
    except FileNotFoundError:
        return Profiles()
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise Misuse(f"can't read the profiles in {path}: {error!r}; mend or remove it") from error


def write_profiles(profiles: Profiles) -> None:
    """Whole or not at all, 0600. Errors: Misuse."""
    path = profiles_file()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent)  # 0600
        with os.fdopen(handle, "w") as file:
            json.dump(asdict(profiles), file, indent=2)
        Path(temporary).replace(path)
    except OSError as error:
        raise Misuse(f"can't write {path}: {error.strerror}") from error


def profile_name(text: str) -> str:
    """Errors: Misuse."""
    if not _NAME.fullmatch(text):
        raise Misuse(f"{text!r} can't be a profile's name: letters, digits, _ . - only, 64 at most")
    return text


def address(text: str) -> str:
    """Of a server, without a slash at its end. Errors: Misuse."""
    with suppress(ValueError):
        parts = urlsplit(text)
        if parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0 and not parts.query:
            if parts.username is not None:
                raise Misuse("the address has credentials in it; the key is asked for")
            return text.rstrip("/")
    raise Misuse(f"{text!r} is not an address such as https://runmesh.example.com")


def chosen(profile: str | None = None) -> Server:
    """By `--profile`; else RUNMESH_URL and RUNMESH_API_KEY; else RUNMESH_PROFILE or the profile in use; else the mesh
    of this machine. A key goes to the server that it is known to be for, no other. Errors: Misuse, Problem.
    """
    if profile:
        return read_profiles().server(profile)
    url, key = os.environ.get("RUNMESH_URL", ""), os.environ.get("RUNMESH_API_KEY", "")
    if url and key:
        return Server(address(url), key, "RUNMESH_URL")
    if url:
        return _of_address(address(url))
    known = read_profiles()
    name = os.environ.get("RUNMESH_PROFILE") or known.current
    found = known.server(name) if name else local()
    if found is None:
        raise Problem("no Runmesh runs here, and no other is known", UNREACHABLE, HOW_TO_START)
    return Server(found.url, key, f"{found.source}, key of RUNMESH_API_KEY") if key else found


def _of_address(url: str) -> Server:
    """RUNMESH_URL alone: its key is that of a profile, or of the local mesh, with just this address."""
    known = read_profiles()
    for name, one in known.servers.items():
        if one["url"] == url:
            return known.server(name)
    here = local()
    if here and here.url == url:
        return here
    raise Misuse(f"RUNMESH_API_KEY isn't set, and no profile is for {url}")


def local() -> Server | None:
    """The mesh that runs on RUNMESH_HOME, or on `.runmesh` here or in a folder above. None where there is no such
    folder. Errors: Problem when it isn't running or isn't ours.
    """
    for home in _homes():
        if (home / "admin.key").exists() or os.environ.get("RUNMESH_HOME"):
            return _running(home)
    return None


def _homes() -> Iterator[Path]:
    told = os.environ.get("RUNMESH_HOME")
    here = Path.cwd()
    yield from [Path(told).absolute()] if told else (folder / ".runmesh" for folder in (here, *here.parents))


def _running(home: Path) -> Server:
    from cli.lock import owner  # noqa: PLC0415  # only where a mesh may run
    from kit.settings import BadSettings, MeshSettings  # noqa: PLC0415

    key_file, told = home / "admin.key", MeshSettings(home=home).run_dir / "address"
    try:
        if {key_file.stat().st_uid, told.stat().st_uid} != {os.getuid()}:  # somebody else's would see what we send
            raise Problem(f"{home} belongs to another user", UNREACHABLE, HOW_TO_START[1:])
        if owner(home) is not None:
            return Server(told.read_text().strip(), key_file.read_text().strip(), f"the mesh on {home}")
    except FileNotFoundError:
        pass
    except PermissionError as error:
        raise Problem(f"{home} is readable by another user only", UNREACHABLE, HOW_TO_START[1:]) from error
    except (OSError, BadSettings) as error:
        raise Problem(f"can't use {home}: {error}", UNREACHABLE) from error
    raise Problem(f"no Runmesh runs on {home}, or it is still starting", UNREACHABLE, HOW_TO_START)


def as_json(profiles: Profiles) -> dict[str, Any]:
    """Without the keys."""
    items = [
        {"name": name, "url": one["url"], "in_use": name == profiles.current}
        for name, one in sorted(profiles.servers.items())
    ]
    return {"items": items, "next": None}
