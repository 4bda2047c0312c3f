"""What `runmesh` reads from the environment, and what it refuses before anything starts."""

import errno
import os
import re
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kit.settings import BadSettings, MeshSettings, absolute, env, flag, load, words

_HOW_TO_LISTEN = {
    errno.EADDRINUSE: "it is taken; set RUNMESH_PORT to a free one",
    errno.EACCES: "that needs root; set RUNMESH_PORT to one above 1023",
    errno.EADDRNOTAVAIL: "this machine has no such address; set RUNMESH_HOST",
}
_STAY_LOCAL = "leave RUNMESH_HOST alone, which is 127.0.0.1 then, or unset RUNMESH_ISOLATION"
MOST_CALLS = 1_000_000


def origins(text: str) -> tuple[str, ...]:
    """A comma-separated list of origins as browsers send them: scheme, host, port."""
    for origin in words(text):
        if not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/\s*]+", origin):
            raise ValueError(f"{origin!r} is not an origin such as https://app.example.com")
    return words(text)


def calls_from(least: int) -> Callable[[str], int]:
    """A parser of a number of calls in a second."""

    def parse(text: str) -> int:
        number = int(text)
        if not least <= number <= MOST_CALLS:
            raise ValueError(f"{text!r} is not a number of calls from {least} to {MOST_CALLS}")
        return number

    return parse


@dataclass(frozen=True)
class Settings(MeshSettings):
    """What the front needs besides: for whom it listens, and how."""

    tls_key: Path | None = env("RUNMESH_TLS_KEY", None, absolute)
    cors_origins: tuple[str, ...] = env("RUNMESH_CORS_ORIGINS", (), origins)
    # What the public listener lets through in a second, whoever calls; and from one address, 0: as much.
    flood_per_second: int = env("RUNMESH_FLOOD_PER_SECOND", 5000, calls_from(1))
    flood_per_address: int = env("RUNMESH_FLOOD_PER_ADDRESS", 0, calls_from(0))
    # Where the library's services are; scheduler/settings.py reads the same variable.
    library: Path = env("RUNMESH_LIBRARY", Path(__file__).parent.parent / "library", absolute)
    # Whether the first organization is given the workflow `hello`.
    example: bool = env("RUNMESH_EXAMPLE", True, flag)


def read_settings() -> Settings:
    """Errors: BadSettings with every fault; what names files is looked at only when the rest is good."""
    settings = load(Settings, os.environ)
    if set("%?#\n") & set(str(settings.home)):
        raise BadSettings([f"RUNMESH_HOME: {settings.home} has %, ? or # in it, which gRPC and uv read as a URL's"])
    if settings.isolation == "none" and not settings.is_local:
        raise BadSettings(
            [f"RUNMESH_ISOLATION=none is for development: it is refused on {settings.host}; {_STAY_LOCAL}"]
        )
    if settings.tls_cert or settings.tls_key:
        _refuse_bad_certificate(settings.tls_cert, settings.tls_key)
    return settings


def refuse_taken_port(settings: Settings) -> None:
    """Errors: BadSettings when we can't listen where we should."""
    with socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
            probe.listen()  # two may bind before either listens
        except OSError as error:
            how = _HOW_TO_LISTEN.get(error.errno or 0, f"{error.strerror}; set RUNMESH_HOST or RUNMESH_PORT")
            raise BadSettings([f"can't listen on {settings.host} port {settings.port}: {how}"]) from error


def _refuse_bad_certificate(cert: Path | None, key: Path | None) -> None:
    if not (cert and key):
        raise BadSettings(["RUNMESH_TLS_CERT and RUNMESH_TLS_KEY go together: set both, or neither"])
    for name, path in (("RUNMESH_TLS_CERT", cert), ("RUNMESH_TLS_KEY", key)):
        try:
            path.read_bytes()
        except OSError as error:
            raise BadSettings([f"{name}: can't read {path}: {error.strerror}"]) from error
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password="")
    except ssl.SSLError as error:
        why = f" ({error.reason.lower().replace('_', ' ')})" if error.reason else ""
        raise BadSettings(
            [f"RUNMESH_TLS_CERT, RUNMESH_TLS_KEY: not a PEM certificate and its key without a passphrase{why}"]
        ) from error
