"""Settings: a frozen dataclass per service, read from the environment once, in `main`; all faults told together.

A field is declared with `env("RUNMESH_PORT", 8080, int)`. Key material is a file, never a variable: see `key_file`.
"""

import hashlib
import ipaddress
import logging
import math
import os
import re
import secrets
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl, quote, urlsplit

T = TypeVar("T")


class BadSettings(Exception):
    """All that is wrong with the environment, a line each."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


def env(name: str, default: Any, parse: Callable[[str], Any] = str, *, shown: bool = True) -> Any:
    """A dataclass field that reads the variable `name`; `parse` raises ValueError on a bad value. Not `shown`: it holds
    a password.
    """
    return field(default=default, metadata={"env": name, "parse": parse}, repr=shown)


def flag(text: str) -> bool:
    """on/off, true/false, yes/no, 1/0."""
    known = {"on": True, "true": True, "yes": True, "1": True, "off": False, "false": False, "no": False, "0": False}
    if text.lower() not in known:
        raise ValueError(f"{text!r} is neither on nor off")
    return known[text.lower()]


def words(text: str) -> tuple[str, ...]:
    """A comma-separated list."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def absolute(text: str) -> Path:
    """A path, taken from the working directory of the start."""
    return Path(text).absolute()


def port_number(text: str) -> int:
    """1 to 65535."""
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 65536):
        raise ValueError(f"{text!r} is not a port, 1 to 65535")
    return int(text)


def number(text: str) -> float:
    """NaN where it is none: no bounds take that."""
    with suppress(ValueError):
        return float(text)
    return math.nan


def seconds(text: str) -> float:
    """A duration, zero or more."""
    if not 0 <= number(text) < math.inf:
        raise ValueError(f"{text!r} is not a number of seconds")
    return float(text)


def ip_address(text: str) -> str:
    """An address to listen on; names aren't looked up."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise ValueError(f"{text!r} is not an IP address such as 127.0.0.1, or 0.0.0.0 for all") from None


def web_address(text: str) -> str:
    """A URL with a scheme and a host."""
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.port == 0:  # reading an odd port raises
        raise ValueError(f"{text!r} is not an address such as https://runmesh.example.com")
    return text


_POSTGRES_OPTIONS = {"host", "port", "passfile", "sslmode", "sslrootcert", "sslcert", "sslkey", "sslcrl", "pool_size"}


def postgres(text: str) -> str:
    """The URL of a PostgreSQL database. No error repeats it: a password may be in it."""
    form = "it must be of the form postgresql://user:password@host/database; leave it unset for SQLite"
    try:
        parts = urlsplit(text)
        options = dict(parse_qsl(parts.query, strict_parsing=True)) if parts.query else {}
        good = parts.scheme in {"postgresql", "postgres"} and parts.port != 0
    except ValueError:
        raise ValueError(f"{form}, and names one host; write @, / and the like in a password as %40, %2F") from None
    if not good or parts.fragment or parts.netloc.count("@") > 1:
        raise ValueError(form)
    if not re.fullmatch(r"/[^/]+", parts.path):
        raise ValueError(f"it names no database; {form}")
    if unknown := sorted(options.keys() - _POSTGRES_OPTIONS):
        raise ValueError(f"it has {', '.join(unknown)} in it; known are {', '.join(sorted(_POSTGRES_OPTIONS))}")
    if not re.fullmatch(r"[1-9]\d{0,3}", size := options.get("pool_size", "5")) or int(size) < 2:
        raise ValueError("pool_size is a number of connections, 2 or more")
    return "postgresql" + text.removeprefix(parts.scheme)


def level(text: str) -> str:
    """A level of the logging module."""
    if text.upper() not in logging.getLevelNamesMapping():
        raise ValueError(f"{text!r} is none of DEBUG, INFO, WARNING, ERROR")
    return text.upper()


def isolation(text: str) -> str:
    """How user code is kept apart."""
    if text not in {"bubblewrap", "gvisor", "none"}:
        raise ValueError(f"{text!r} is none of bubblewrap, gvisor and, for development only, none")
    return text


@dataclass(frozen=True)
class MeshSettings:
    """What every service of the mesh needs to know; each service's Settings extend it."""

    home: Path = env("RUNMESH_HOME", Path(".runmesh").absolute(), absolute)
    host: str = env("RUNMESH_HOST", "127.0.0.1", ip_address)
    port: int = env("RUNMESH_PORT", 8080, port_number)
    tls_cert: Path | None = env("RUNMESH_TLS_CERT", None, absolute)
    public_url_setting: str = env("RUNMESH_PUBLIC_URL", "", web_address)
    nats_url: str = env("RUNMESH_NATS_URL", "")
    database: str = env("RUNMESH_DATABASE_URL", "", postgres, shown=False)
    isolation: str = env("RUNMESH_ISOLATION", "bubblewrap", isolation)
    log_level: str = env("RUNMESH_LOG_LEVEL", "INFO", level)
    otlp_endpoint: str = env("OTEL_EXPORTER_OTLP_ENDPOINT", "")
    drain_seconds: float = env("RUNMESH_DRAIN_SECONDS", 10.0, seconds)

    @property
    def is_local(self) -> bool:
        """Whether nobody but this machine reaches the listener."""
        return ipaddress.ip_address(self.host).is_loopback

    @property
    def local_url(self) -> str:
        """The listener, from this machine."""
        address = ipaddress.ip_address(self.host)
        host = {4: "127.0.0.1", 6: "::1"}[address.version] if address.is_unspecified else self.host
        return f"{'https' if self.tls_cert else 'http'}://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def public_url(self) -> str:
        """Where callers reach us, without a trailing slash."""
        return (self.public_url_setting or self.local_url).rstrip("/")

    @property
    def run_dir(self) -> Path:
        """Where the sockets lie: in `home`, or under /tmp where its path is too long for a UNIX socket (107 bytes)."""
        inside = self.home / "run"
        if len(os.fsencode(inside)) <= 80:
            return inside
        digest = hashlib.sha256(os.fsencode(self.home)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"runmesh-{os.getuid()}-{digest}"

    def address(self, service: str) -> str:
        """The gRPC address of a service: `RUNMESH_<SERVICE>_ADDRESS`, or its socket on this host."""
        return os.environ.get(f"RUNMESH_{service.upper()}_ADDRESS") or f"unix:{self.run_dir / service}.sock"

    def database_url(self, service: str) -> str:
        """A schema of the PostgreSQL database per service, or else a SQLite file in `home`."""
        if self.database:
            return f"{self.database}{'&' if '?' in self.database else '?'}schema={service}"
        return f"sqlite+aiosqlite:///{quote(str(self.home / 'data' / service))}.db"

    def key_file(self, name: str) -> Path:
        """A file of 32 random bytes in `home/secrets`, made by whoever needs it first."""
        return self.home / "secrets" / name


S = TypeVar("S", bound=MeshSettings)


def load(cls: type[S], environ: Mapping[str, str]) -> S:
    """Reads `cls` from the environment. Errors: BadSettings with every fault."""
    values: dict[str, Any] = {}
    faults: list[str] = []
    for item in fields(cls):
        name = item.metadata.get("env")
        if name is None or not environ.get(name):
            if item.default is MISSING and item.default_factory is MISSING:
                faults.append(f"{name} is not set")
            continue
        try:
            values[item.name] = item.metadata["parse"](environ[name])
        except ValueError as error:
            faults.append(f"{name}: {error}")
    if faults:
        raise BadSettings(faults)
    return cls(**values)


def read_key(path: Path) -> bytes:
    """The 32 bytes of a key file, made (0600) when missing; safe when several processes start at once."""
    if not path.exists():
        private_dir(path.parent)
        handle, temporary = tempfile.mkstemp(dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(secrets.token_bytes(32))
                file.flush()
                os.fsync(file.fileno())
            with suppress(FileExistsError):  # another service was faster: its key counts
                os.link(temporary, path)
        finally:
            Path(temporary).unlink()
    key = path.read_bytes()
    if len(key) < 32:
        raise BadSettings([f"{path} holds {len(key)} bytes; a key needs 32"])
    return key


def private_dir(path: Path) -> Path:
    """A directory that only we may enter. Errors: BadSettings when it, or a link to it, is somebody else's."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if {path.stat().st_uid, path.lstat().st_uid} != {os.getuid()}:
        raise BadSettings([f"{path} belongs to another user; set RUNMESH_HOME to a directory of your own"])
    return path
