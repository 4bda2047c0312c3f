"""A POST to whoever a caller named. The address is a stranger's word: it is looked up here, once, every address that it
has must belong to the public internet, and the connection goes to one of those that were checked. Nothing is followed,
remembered or read but the status.
"""

import asyncio
import ipaddress
import os
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Protocol

import certifi
import h11

from edge.receiver import Receiver, receiver
from kit.addresses import Address, Network, is_in, is_own, not_public, plain
from kit.errors import Invalid

MAX_HEAD_BYTES = 64 * 1024
MAX_ANSWER_BYTES = 64 * 1024
MAX_ADDRESSES = 4
CONNECT_SECONDS = 3.0
# For the rest of an answer whose status is known, so that its sender isn't cut off.
REST_SECONDS = 1.0
LOOKUPS = 64  # a thread each, as many as records are sent at once
_CHUNK = 64 * 1024
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Refused(Exception):
    """This address may not be contacted, now or later."""


class Failed(Exception):
    """It can't be reached, or doesn't answer as a server does."""


class Connect(Protocol):
    """How a connection is made; tests have an internet of their own. `tls` as of asyncio.open_connection."""

    async def __call__(self, address: Address, port: int, **tls: Any) -> Streams:
        """Errors: OSError, ssl.SSLError."""


async def connect(address: Address, port: int, **tls: Any) -> Streams:
    """By TCP, with TLS where `tls` says so."""
    return await asyncio.open_connection(str(address), port, **tls)


def ask_host(name: str) -> list[Address]:
    """As any program on this host would: `2130706433` is 127.0.0.1. Blocks. Errors: OSError, UnicodeError."""
    found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(ipaddress.ip_address(str(info[4][0]).partition("%")[0]) for info in found))


def authorities() -> ssl.SSLContext:
    """Those that SSL_CERT_FILE names, else the system's, else certifi's."""
    paths = ssl.get_default_verify_paths()
    context = ssl.create_default_context(cafile=None if paths.cafile or paths.capath else certifi.where())
    context.set_alpn_protocols(["http/1.1"])
    return context


class Post:
    """Sends. `private`: what the operator allows although it isn't public."""

    def __init__(
        self,
        private: Sequence[Network] = (),
        *,
        tls: ssl.SSLContext | None = None,
        find: Callable[[str], Sequence[Address]] = ask_host,
        connect: Connect = connect,
        is_own: Callable[[Address], bool] = is_own,
    ) -> None:
        self._private = private
        self._tls = tls or authorities()
        self._find = find
        self._connect = connect
        self._is_own = is_own
        self._threads = ThreadPoolExecutor(LOOKUPS, "post-lookup")

    async def __call__(self, url: str, headers: Mapping[str, str], body: bytes) -> int:
        """The status of the answer. As long as it takes: who calls has a limit. Errors: Refused, Failed."""
        try:
            to = receiver(url)
        except Invalid as problem:
            raise Refused(problem.message) from None
        reader, writer = await self._reached(to, await self._checked(to.host))
        try:
            return await _exchange(reader, writer, _request(to, headers, body), body)
        except h11.ProtocolError:
            raise Failed("it doesn't speak HTTP, or hung up in the middle") from None
        except OSError as error:
            raise Failed(f"it broke off: {_reason(error)}") from None
        finally:
            writer.transport.abort()  # at once: whoever ends slowly would be kept

    async def _checked(self, host: str) -> list[Address]:
        """All that the name leads to. Errors: Refused when any of it is private; Failed."""
        try:
            found = await asyncio.get_running_loop().run_in_executor(self._threads, self._find, host)
        except (OSError, UnicodeError):
            raise Failed("its name can't be looked up") from None
        addresses = [plain(address) for address in found]
        for address in addresses:
            if is_in(address, self._private):
                continue
            if reason := not_public(address):
                raise Refused(f"its host is {reason}: records go to public addresses only")
            if self._is_own(address):
                raise Refused("its host is an address of the platform's own machine")
        if not addresses:
            raise Failed("its name has no address")
        return addresses

    async def _reached(self, to: Receiver, addresses: Sequence[Address]) -> Streams:
        tls = {"ssl": self._tls, "server_hostname": to.host} if to.secure else {}
        last = "no address"
        for address in addresses[:MAX_ADDRESSES]:
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    return await self._connect(address, to.port, **tls)
            except TimeoutError:
                last = "it can't be connected to in time"
            except ssl.SSLCertVerificationError as error:
                raise Failed(f"its certificate isn't valid: {error.verify_message}") from None
            except OSError as error:
                last = f"it can't be connected to: {_reason(error)}"
        raise Failed(last)

    def close(self) -> None:
        """Nothing is sent any more."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _request(to: Receiver, headers: Mapping[str, str], body: bytes) -> h11.Request:
    own = {"host": to.authority, "content-length": str(len(body)), "connection": "close"}
    return h11.Request(method="POST", target=to.target, headers=list({**own, **headers}.items()))


async def _exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: h11.Request, body: bytes
) -> int:
    """The status. A server may answer before it has all of the body, and needn't take the rest."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)

    async def send() -> None:
        with suppress(OSError):  # what it means is for the answer to say
            writer.write(connection.send(request) or b"")
            for start in range(0, len(body), _CHUNK):
                writer.write(connection.send(h11.Data(body[start : start + _CHUNK])) or b"")
                await writer.drain()
            writer.write(connection.send(h11.EndOfMessage()) or b"")
            await writer.drain()

    sending = asyncio.create_task(send())
    try:
        event = await _next(reader, connection)
        while isinstance(event, h11.InformationalResponse):
            event = await _next(reader, connection)
        if not isinstance(event, h11.Response):
            raise Failed("it hung up without an answer")
        await _rest(reader, connection)
        return event.status_code
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


async def _next(reader: asyncio.StreamReader, connection: h11.Connection) -> Any:
    while (event := connection.next_event()) is h11.NEED_DATA:
        connection.receive_data(await reader.read(_CHUNK))
    return event


async def _rest(reader: asyncio.StreamReader, connection: h11.Connection) -> None:
    """Whatever is wrong with it: the status is what counts."""
    left = MAX_ANSWER_BYTES
    with suppress(OSError, h11.ProtocolError, TimeoutError):
        async with asyncio.timeout(REST_SECONDS):
            while left > 0 and isinstance(event := await _next(reader, connection), h11.Data):
                left -= len(event.data)


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "no TLS").lower().replace("_", " ")
    return (os.strerror(error.errno) if error.errno else "the connection was lost").lower()
