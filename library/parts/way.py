"""Where a service that is told addresses may go: written into each when that is deployed (scheduler/library.py)."""

import asyncio
import ipaddress
import os
import socket
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import SplitResult, urlsplit

from library.parts.refusals import Refused

_PORTS = {"http": 80, "https": 443}
_LISTENS = "0A"  # in /proc/net/tcp


async def place_of(url: str) -> SplitResult:
    """The parts of an address that may be gone to: of the web, and not the platform's own.

    A connection to the platform from inside a sandbox says which run it is: a page, or a redirect, has no business
    there, although nothing is done without the run's key. Errors: Refused.
    """
    try:
        parts = urlsplit(url.strip())
        host, port = parts.hostname, parts.port
    except ValueError:
        parts, host, port = urlsplit(""), None, None
    if parts.scheme not in _PORTS or not host:
        raise Refused(400, "bad_url", f"{url[:200]!r} is no address of a web page, such as https://example.com/page")
    await open_to(host, port or _PORTS[parts.scheme])
    return parts


async def open_to(host: str, port: int) -> None:
    """Errors: Refused for what leads to the platform, and for a name that there isn't."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise Refused(424, "no_such_host", f"{host[:200]} isn't known: no such host, or it may not be asked") from None
    own = _own_listeners()
    for *_, address in found:
        where = _plain(str(address[0]))
        if own and (where.is_loopback or where.is_unspecified or (where, port) in own):
            raise Refused(403, "forbidden", f"{host[:200]} leads to the platform itself, whose pages aren't visited")


def _plain(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    address = ipaddress.ip_address(text.partition("%")[0])
    return (address.ipv4_mapped or address) if isinstance(address, ipaddress.IPv6Address) else address


def in_a_sandbox() -> bool:
    """Whether this is a run of the platform's: only there is such a key."""
    return os.environ.get("CODEWORDS_API_KEY", "").startswith("cwk-run-")


def _own_listeners() -> set[tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int]]:
    """What listens inside of this sandbox: ways to the platform. None outside of one."""
    if not in_a_sandbox():
        return set()
    found = set()
    for file in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(file).read_text().splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            address, _, port = local.partition(":")
            if state == _LISTENS:
                words = [int(address[at : at + 8], 16).to_bytes(4, "little") for at in range(0, len(address), 8)]
                found.add((_plain(str(ipaddress.ip_address(b"".join(words)))), int(port, 16)))
    return found


class Gate:
    """All of the browser's ways to the net (SOCKS 5, RFC 1928): to everywhere but the platform."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        outer: asyncio.StreamWriter | None = None
        try:
            _, methods = await reader.readexactly(2)
            await reader.readexactly(methods)
            writer.write(b"\x05\x00")
            _, _, _, kind = await reader.readexactly(4)
            size = {1: 4, 4: 16}.get(kind) or (await reader.readexactly(1))[0]
            raw = await reader.readexactly(size)
            port = int.from_bytes(await reader.readexactly(2), "big")
            host = raw.decode("ascii") if kind == 3 else _literal(raw)
            try:
                await open_to(host, port)
                outer_reader, outer = await asyncio.open_connection(host, port)
            except (Refused, OSError) as refused:
                code = 2 if isinstance(refused, Refused) and refused.status == 403 else 4
                writer.write(bytes([5, code, 0, 1, 0, 0, 0, 0, 0, 0]))
                return
            writer.write(b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00")
            await asyncio.gather(_pipe(reader, outer), _pipe(outer_reader, writer))
        except (OSError, EOFError, UnicodeError):
            pass  # one side is gone; so is the other, below
        except asyncio.CancelledError:
            pass  # it ends here: Python 3.11 would log it
        finally:
            for each in (writer, outer):
                if each is not None:
                    each.close()


def _literal(raw: bytes) -> str:
    return str(ipaddress.ip_address(raw))


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(65536):
        writer.write(chunk)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
