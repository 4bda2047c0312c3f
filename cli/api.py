"""The way to the public API, without what takes a while to import: `connect` gives the client."""

import ipaddress
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from cli.servers import chosen

if TYPE_CHECKING:
    from cli.client import Api

CONNECT_SECONDS = 5.0
# Dependencies are fetched and, some of them, built; then the script is imported.
DEPLOY_SECONDS = 900.0


def connect(profile: str | None = None) -> "Api":
    """A client of the server that a command is for. Errors: Misuse, Problem."""
    server = chosen(profile)
    from cli.client import Api  # noqa: PLC0415  # takes a while

    return Api(server)


def run_path(target: str, *, door: str = "run") -> str:
    """`NAME[@VERSION][/PATH]` below /run or /run_async."""
    name, slash, rest = target.partition("/")
    return f"/{door}/{segment(name)}{slash}{quote(rest, safe='/?=&%:@!$,;+*()~')}"


def segment(text: str) -> str:
    """One part of a path; what stands in it can't lead elsewhere."""
    return {".": "%2E", "..": "%2E%2E"}.get(text, quote(text, safe="@:"))


def is_loopback(url: str) -> bool:
    """Whether it leads to this machine, where no proxy should stand in between."""
    host = urlsplit(url).hostname or ""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"
