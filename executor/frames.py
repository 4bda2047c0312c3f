"""The frames that the executor and the shim in a sandbox exchange (shim.py says which), seen from outside.

What comes from inside is hostile: every length has a bound, every field a type; whatever breaks a rule is Crashed. What
an answer's head and body may say is the Receiver's business.
"""

import asyncio
import json
import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import unquote

from executor.loglines import clean
from executor.sandbox import AnswerEnd, Crashed, Event, Finished, Head, Said

MAX_CONTROL = 1 << 20
MAX_DATA = 256 << 10
MAX_HEAD = 256 << 10
MAX_HEADERS = 1000
MAX_ERROR = 1000
MAX_SAID = 16 << 10
# A body in very small frames: so many are taken at once, and after as many the other runs get their turn.
MAX_PIECES = 256
FLOOD_PAUSE_SECONDS = 0.005
_HEADER = struct.Struct("!Ic")
_LENGTHS = {b"H": MAX_HEAD, b"D": MAX_DATA, b"E": 0, b"Z": 16 << 10}
# Where the app seems to be reached: uvicorn trusts the x-forwarded-… headers of this address.
_CLIENT, _SERVER = ("127.0.0.1", 0), ("127.0.0.1", 8000)


class Gone(Crashed):
    """The other end has closed."""


def frame(kind: bytes, payload: bytes = b"") -> bytes:
    """One frame."""
    return _HEADER.pack(len(payload), kind) + payload


def json_frame(kind: bytes, content: Mapping[str, Any]) -> bytes:
    """One frame with a JSON payload."""
    return frame(kind, json.dumps(content).encode())


def request_frame(request: Head) -> bytes:
    """The request's head as the shim wants it."""
    content = {
        "method": request.method,
        "path": unquote(request.path),
        "raw_path": request.path,
        "query": request.query,
        "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in request.headers],
        "client": _CLIENT,
        "server": _SERVER,
        "scheme": "http",
        "metered": request.metered,
    }
    return json_frame(b"H", content)


class FrameSocket:
    """One end of a stream socket that carries frames.

    Not asyncio's streams: they throw away what had arrived when the other end closes with something unread.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._sock.setblocking(False)
        self._buffer = bytearray()
        self._sending = asyncio.Lock()

    async def send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Descriptors go along with the first byte. Errors: Gone."""
        async with self._sending:
            try:
                sent = socket.send_fds(self._sock, [data[:1]], fds) if fds else 0
                await asyncio.get_running_loop().sock_sendall(self._sock, data[sent:])
            except OSError as error:
                raise Gone("the sandbox is gone") from error

    async def receive(self, limit: Callable[[bytes], int]) -> tuple[bytes, bytes]:
        """The next frame's type and payload, of `limit(type)` bytes at most. A cancelled wait loses nothing.

        Errors: Crashed, Gone.
        """
        await self._fill(_HEADER.size)
        length, kind = _HEADER.unpack_from(self._buffer)
        if length > limit(kind):
            raise Crashed(f"the sandbox broke the protocol: a frame {kind!r} of {length} bytes")
        end = _HEADER.size + length
        await self._fill(end)
        payload = bytes(memoryview(self._buffer)[_HEADER.size : end])
        del self._buffer[:end]
        return kind, payload

    def at_hand(self, wanted: bytes, room: int) -> bytes | None:
        """The payload of the next frame if it is here, of this type and fits into `room` bytes."""
        if len(self._buffer) < _HEADER.size:
            return None
        length, kind = _HEADER.unpack_from(self._buffer)
        end = _HEADER.size + length
        if kind != wanted or length > room or len(self._buffer) < end:
            return None
        payload = bytes(memoryview(self._buffer)[_HEADER.size : end])
        del self._buffer[:end]
        return payload

    async def _fill(self, wanted: int) -> None:
        while len(self._buffer) < wanted:
            try:
                piece = await asyncio.get_running_loop().sock_recv(self._sock, MAX_DATA)
            except OSError:
                piece = b""
            if not piece:
                raise Gone("the sandbox is gone")
            self._buffer += piece

    def break_off(self) -> None:
        """Wakes whoever waits for a frame: none comes any more."""
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Idempotent."""
        self._sock.close()


class ControlChannel:
    """The control socket from outside."""

    def __init__(self, sock: socket.socket) -> None:
        self._frames = FrameSocket(sock)
        self.close = self._frames.close

    async def send(self, kind: bytes, content: Mapping[str, Any], fds: Sequence[int] = ()) -> None:
        """Errors: Gone."""
        await self._frames.send(json_frame(kind, content), fds)

    async def receive(self) -> tuple[bytes, dict[str, Any]]:
        """The next frame. Errors: Crashed, Gone."""
        kind, payload = await self._frames.receive(lambda _: MAX_CONTROL)
        return kind, _object(payload)


class AnswerFrames:
    """What the shim sends on a request's socket, checked: Head, bytes …, AnswerEnd, Finished, in this order; and Said,
    anywhere between, where it is metered.
    """

    def __init__(self, frames: FrameSocket, *, metered: bool = False) -> None:
        self._frames = frames
        self._metered = metered
        self._expected = b"HZ"

    async def next(self) -> Event:
        """Errors: Crashed, Gone."""
        kind, payload = await self._frames.receive(self._limit)
        if kind == b"M":
            return Said(payload)
        return await self._joined(payload) if kind == b"D" else self._event(kind, payload)

    async def _joined(self, payload: bytes) -> bytes:
        """Pieces of the body that are here already, as one: a flood of tiny ones would keep us from all other runs."""
        pieces, room = [payload], MAX_DATA - len(payload)
        while len(pieces) < MAX_PIECES and (piece := self._frames.at_hand(b"D", room)) is not None:
            pieces.append(piece)
            room -= len(piece)
        if len(pieces) == MAX_PIECES:
            await asyncio.sleep(FLOOD_PAUSE_SECONDS)
        return b"".join(pieces)

    def _limit(self, kind: bytes) -> int:
        if kind == b"M" and self._metered and self._expected:
            return MAX_SAID
        if kind not in self._expected:
            raise Crashed(f"the sandbox broke the protocol: a frame {kind!r} out of turn")
        return _LENGTHS[kind]

    def _event(self, kind: bytes, payload: bytes) -> Event:
        if kind == b"E":
            self._expected = b"Z"
            return AnswerEnd()
        content = _object(payload)
        if kind == b"H":
            self._expected = b"DEZ"
            return _head(content)
        self._expected = b""
        error = content.get("error", "")
        if not isinstance(error, str):
            raise Crashed("the sandbox broke the protocol: an error that is no text")
        return Finished("" if content.get("ok") is True else clean(error[:MAX_ERROR]) or "unknown error")


def _object(payload: bytes) -> dict[str, Any]:
    try:
        content = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise Crashed("the sandbox broke the protocol: no JSON") from error
    if not isinstance(content, dict):
        raise Crashed("the sandbox broke the protocol: no JSON object")
    return content


def _head(content: Mapping[str, Any]) -> Head:
    status, headers = content.get("status"), content.get("headers")
    if type(status) is not int or not isinstance(headers, list) or len(headers) > MAX_HEADERS:
        raise Crashed("the sandbox broke the protocol: no status or no headers")
    try:
        pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    except (AttributeError, TypeError, ValueError) as error:
        raise Crashed("the sandbox broke the protocol: headers that are none") from error
    return Head(status=status, headers=pairs)
