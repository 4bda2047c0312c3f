"""A run's way to the runtime: what it connects to inside its own network is carried to Envoy, with who it is.

A pure pipe of bytes: no HTTP is read here. The identity goes first, in a PROXY protocol v2 header that the executor
writes and that nothing inside the sandbox can touch. https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt
"""

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from executor.arrivals import Arrivals, accepted
from kit.telemetry import log

IDENTITY_TLV = 0xE0
MAX_CONNECTIONS = 256
CHUNK_BYTES = 64 * 1024
_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
_VERSION_2_PROXY = 0x21
_TCP_OVER_IPV4 = 0x11


def proxy_header(token: bytes) -> bytes:
    """A PROXY v2 header of a connection on loopback, with `token` as its only TLV."""
    addresses = struct.pack("!4s4sHH", b"\x7f\x00\x00\x01", b"\x7f\x00\x00\x01", 1, 80)
    payload = addresses + struct.pack("!BH", IDENTITY_TLV, len(token)) + token
    return _SIGNATURE + struct.pack("!BBH", _VERSION_2_PROXY, _TCP_OVER_IPV4, len(payload)) + payload


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Nested(Protocol):
    """Who carries the connections of a recorded run, or answers those of one that is offline."""

    async def carry(self, inside: Streams, reach: Callable[[], Awaitable[Streams]], *, tls: bool) -> None:
        """`reach` connects to Envoy, and says who speaks. Errors: OSError."""


class WayOut:
    """`async with WayOut(listeners, plain, tls, token):` carries until it is left. `token` is asked per connection.
    `nested`: who carries instead.
    """

    def __init__(
        self,
        listeners: list[tuple[socket.socket, bool]],
        plain: Path,
        tls: Path,
        token: Callable[[], bytes],
        nested: Nested | None = None,
    ) -> None:
        self._listeners = listeners
        self._plain = plain
        self._tls = tls
        self._token = token
        self._nested = nested
        self._arrivals = Arrivals()
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def connections(self) -> int:
        """Those that are open."""
        return len(self._connections)

    async def __aenter__(self) -> Self:
        for listener, is_tls in self._listeners:
            self._arrivals.watch(listener, partial(self._accept, self._tls if is_tls else self._plain))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._arrivals.close()
        for connection in self._connections:
            connection.cancel()
        if self._connections:
            await asyncio.gather(*self._connections, return_exceptions=True)

    def _accept(self, target: Path, listener: socket.socket) -> None:
        for sock in accepted(listener):
            if len(self._connections) >= MAX_CONNECTIONS:
                sock.close()
                continue
            connection = asyncio.create_task(self._carry(sock, target))
            self._connections.add(connection)
            connection.add_done_callback(self._connections.discard)
            # Here, not in the task: one that is cancelled before its first step would never close it.
            connection.add_done_callback(partial(_end, sock))

    async def _carry(self, sock: socket.socket, target: Path) -> None:
        reader, writer = await asyncio.open_connection(sock=sock)
        try:
            if self._nested is None:
                await self._carry_to(target, reader, writer)
                return
            with suppress(OSError):  # one side is gone; so is the other then
                await self._nested.carry((reader, writer), partial(self._reach, target), tls=target == self._tls)
        finally:
            writer.transport.abort()

    async def _reach(self, target: Path) -> Streams:
        reader, writer = await asyncio.open_unix_connection(target)
        writer.write(proxy_header(self._token()))
        return reader, writer

    async def _carry_to(self, target: Path, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            outer_reader, outer_writer = await asyncio.open_unix_connection(target)
        except OSError as error:
            log().warning("wayout.unreachable", target=str(target), reason=str(error))
            return
        try:
            outer_writer.write(proxy_header(self._token()))
            async with asyncio.TaskGroup() as both:
                both.create_task(_pipe(reader, outer_writer))
                both.create_task(_pipe(outer_reader, writer))
            writer.close()
            await writer.wait_closed()  # what is still buffered goes out
        except* OSError:
            pass  # one side is gone; so is the other, below
        finally:
            outer_writer.transport.abort()


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(CHUNK_BYTES):
        writer.write(chunk)
        await writer.drain()
    if not writer.is_closing():
        writer.write_eof()


def _end(sock: socket.socket, _: object) -> None:
    sock.close()
