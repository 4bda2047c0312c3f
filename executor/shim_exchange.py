"""One request and its answer between the executor's frames and an ASGI app; the half of the shim that speaks ASGI.

Standard library only, and it lies beside shim.py in the sandbox, which says what the frames are.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import socket
import struct
import traceback
from typing import Any

MAX_DATA = 256 * 1024
MAX_HEAD = 256 * 1024
BODY_AHEAD = 256 * 1024
MAX_DOCUMENT = 1023 * 1024  # a control frame holds it

_HEADER = struct.Struct("!Ic")
_BAD_NAME = re.compile(rb'[\x00-\x1f\x7f()<>@,;:\[\]={} \t\\"]')
_BAD_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


def one_line(error: BaseException) -> str:
    """`ValueError: it says so`, at most 1000 characters."""
    return " ".join("".join(traceback.format_exception_only(type(error), error)).split())[-1000:]


def openapi_of(app: Any) -> dict[str, Any]:
    """The document of a FastAPI app, also when wrapped in middleware."""
    for _ in range(20):
        if callable(getattr(app, "openapi", None)):
            try:
                document = app.openapi()
                if len(json.dumps(document)) > MAX_DOCUMENT:
                    return {"document": None, "error": "the OpenAPI document is over 1 MiB"}
            except Exception as error:  # noqa: BLE001  # user code
                return {"document": None, "error": one_line(error)}
            return {"document": document, "error": ""}
        app = getattr(app, "app", None)
    return {"document": None, "error": ""}


class Meter:
    """`scope["extensions"]["runmesh.meter"]` of the library's services: what they may use of models, and have used."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._last = 0
        self._closed = False

    async def afford(self, model: str, tokens_in: int, tokens_out: int | None) -> dict[str, Any]:
        """{"call", "granted": the most tokens to be produced} or {"refused": why, "code"}. Errors: ConnectionError."""
        said = {"op": "afford", "model": model, "tokens_in": tokens_in, "tokens_out": tokens_out}
        answer = await self._ask(said)
        return {"call": answer.pop("id"), **answer}

    async def so_far(self, call: int, tokens_in: int, tokens_out: int) -> None:
        """An estimate that counts if nothing better comes."""
        await self._exchange.frame(b"M", json.dumps(_so_far(call, tokens_in, tokens_out)).encode())

    async def used(self, call: int, tokens_in: int, tokens_out: int, cached: int = 0) -> None:
        """As the provider counts; `cached` are part of `tokens_in`. Errors: ConnectionError."""
        await self._ask({**_so_far(call, tokens_in, tokens_out), "op": "used", "cached": cached})

    async def _ask(self, said: dict[str, Any]) -> dict[str, Any]:
        if self._closed:
            raise ConnectionError("the executor is gone")
        self._last += 1
        number = self._last
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        try:
            await self._exchange.frame(b"M", json.dumps({"id": number, **said}).encode())
            return dict(await answer)
        finally:
            del self._asked[number]

    def hear(self, payload: bytes) -> None:
        """An answer of the executor's."""
        told = json.loads(payload)
        waiting = self._asked.get(told["id"])
        if waiting is not None and not waiting.done():
            waiting.set_result(told)

    def hang_up(self) -> None:
        """None comes any more."""
        self._closed = True
        for waiting in self._asked.values():
            if not waiting.done():
                waiting.set_exception(ConnectionError("the executor is gone"))


def _so_far(call: int, tokens_in: int, tokens_out: int) -> dict[str, Any]:
    return {"op": "so_far", "call": call, "in": tokens_in, "out": tokens_out}


class Exchange:
    """One request and its answer by ASGI; follows uvicorn's httptools protocol in what is an error."""

    def __init__(self, config: Any, lifespan: Any, sock: socket.socket) -> None:
        """`sock` is ours from now on. Not asyncio's streams: in a fork each line of Python costs pages of memory."""
        self._config = config
        self._lifespan = lifespan
        self._sock = sock
        self._sock.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self._log = logging.getLogger("uvicorn.error")
        self._writing = asyncio.Lock()
        self._changed = asyncio.Event()
        self._received = bytearray()
        self._reads = False
        self._head: bytes | None = None
        self._body = bytearray()
        self._more_body = True
        self._told_all = False
        self._gone = False
        self._method = ""
        self._started = False
        self._complete = False
        self._left: int | None = None  # bytes that content-length still promises
        self._held = b""  # the head of such an answer: it goes out with the body, where that comes at once
        self._unsent = bytearray()
        self._flushing: asyncio.Future[None] | None = None
        self._meter = Meter(self)

    async def run(self) -> str:
        """Calls the app. Returns what it raised, in one line, else nothing."""
        self._read_on()
        while self._head is None:
            if self._gone:
                return "the request broke off"
            await self._change()
        error = ""
        try:
            result = await self._config.loaded_app(self._scope(json.loads(self._head)), self.receive, self.send)
            if result is not None:
                error = f"ASGI callable should return None, but returned '{result}'."
            elif not self._started and not self._gone:
                error = "ASGI callable returned without starting response."
            elif not self._complete and not self._gone:
                error = "ASGI callable returned without completing response."
            if error:
                self._log.error(error)
        except BaseException as raised:  # noqa: BLE001  # as uvicorn: the caller has to be told, whatever it was
            self._log.error("Exception in ASGI application\n", exc_info=raised)
            error = one_line(raised)
        if error and not self._started:
            await self._send_500()
        self._pause()
        return error

    def close(self) -> None:
        """Nothing more is said."""
        self._pause()
        self._sock.close()

    def _read_on(self) -> None:
        if not self._reads:
            self._reads = True
            self._loop.add_reader(self._sock.fileno(), self._hear)

    def _pause(self) -> None:
        if self._reads:
            self._reads = False
            self._loop.remove_reader(self._sock.fileno())

    def _hear(self) -> None:
        try:
            data = self._sock.recv(BODY_AHEAD)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._received += data
        self._take_frames()
        self._gone = self._gone or not data
        if not data:
            self._meter.hang_up()
        if not data or len(self._body) > BODY_AHEAD:  # the app reads slowly, or never
            self._pause()
        self._changed.set()

    def _take_frames(self) -> None:
        while len(self._received) >= _HEADER.size:
            length, kind = _HEADER.unpack_from(self._received)
            end = _HEADER.size + length
            if len(self._received) < end:
                return
            payload = bytes(self._received[_HEADER.size : end])
            del self._received[:end]
            if kind == b"H":
                self._head = payload
            elif kind == b"D":
                self._body += payload
            elif kind == b"E":
                self._more_body = False
            elif kind == b"G":
                self._gone = True
            elif kind == b"M":
                self._meter.hear(payload)

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _scope(self, head: dict[str, Any]) -> dict[str, Any]:
        config = self._config
        self._method = head["method"]
        state = getattr(self._lifespan, "state", None)
        return {
            "type": "http",
            "asgi": {"version": config.asgi_version, "spec_version": "2.3"},
            "http_version": "1.1",
            "server": tuple(head["server"]),
            "client": tuple(head["client"]),
            "scheme": head["scheme"],
            "method": head["method"],
            "root_path": config.root_path,
            "path": config.root_path + head["path"],
            "raw_path": config.root_path.encode("ascii") + head["raw_path"].encode("latin-1"),
            "query_string": head["query"].encode("latin-1"),
            "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in head["headers"]],
            **({"extensions": {"runmesh.meter": self._meter}} if head.get("metered") else {}),
            **({} if state is None else {"state": state.copy()}),
        }

    async def receive(self) -> dict[str, Any]:
        """ASGI's receive."""
        while not (self._gone or self._complete or self._body or (not self._more_body and not self._told_all)):
            await self._change()
        if self._gone or self._complete:
            return {"type": "http.disconnect"}
        body = bytes(self._body)
        self._body.clear()
        self._read_on()
        self._told_all = not self._more_body
        return {"type": "http.request", "body": body, "more_body": self._more_body}

    async def send(self, message: dict[str, Any]) -> None:
        """ASGI's send."""
        kind = message["type"]
        if self._gone:
            return
        if not self._started:
            if kind != "http.response.start":
                raise RuntimeError(f"Expected ASGI message 'http.response.start', but got '{kind}'.")
            head = _framed(b"H", self._answer_head(message))
            self._started = True
            if self._left is None:
                await self._write(head)
            else:
                self._held = head
                self._loop.call_soon(self._let_go)
        elif self._complete:
            raise RuntimeError(f"Unexpected ASGI message '{kind}' sent, after response already completed.")
        elif kind != "http.response.body":
            raise RuntimeError(f"Expected ASGI message 'http.response.body', but got '{kind}'.")
        else:
            await self._send_body(bytes(message.get("body", b"")), message.get("more_body", False))

    def _answer_head(self, message: dict[str, Any]) -> bytes:
        status = int(message["status"])
        configured = [item for item in self._config.encoded_headers if item != (b"server", b"uvicorn")]
        headers = []
        for name, value in [*configured, *message.get("headers", [])]:
            if _BAD_NAME.search(name) or not name:
                raise RuntimeError("Invalid HTTP header name.")
            if _BAD_VALUE.search(value):
                raise RuntimeError("Invalid HTTP header value.")
            if name.lower() == b"content-length":
                self._left = int(value)
            headers.append([name.lower().decode("latin-1"), value.decode("latin-1")])
        if self._method == "HEAD" or status in (204, 304):
            self._left = 0
        head = json.dumps({"status": status, "headers": headers}).encode()
        if len(head) > MAX_HEAD:
            raise RuntimeError("The response's headers are too large.")
        return head

    async def _send_body(self, body: bytes, more: bool) -> None:
        if self._method == "HEAD":
            body = b""
        if self._left is not None:
            if len(body) > self._left:
                raise RuntimeError("Response content longer than Content-Length")
            self._left -= len(body)
        for start in range(0, len(body) - MAX_DATA, MAX_DATA):
            await self.frame(b"D", body[start : start + MAX_DATA])
        rest = body[(len(body) - 1) // MAX_DATA * MAX_DATA :]
        last = _framed(b"D", rest) if rest else b""
        if not more:
            if self._left:
                await self._write(last)
                raise RuntimeError("Response content shorter than Content-Length")
            self._complete = True
            self._changed.set()
            last += _framed(b"E", b"")
        if last:
            await self._write(last)

    async def _send_500(self) -> None:
        self._left = None
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"21")]
        await self.send({"type": "http.response.start", "status": 500, "headers": headers})
        await self.send({"type": "http.response.body", "body": b"Internal Server Error"})

    async def frame(self, kind: bytes, payload: bytes) -> None:
        """Writes one frame; a reader who has gone is no error of the app's."""
        await self._write(_framed(kind, payload))

    async def _write(self, frames: bytes) -> None:
        """Whole frames are taken before anything is waited for, and go out in order: whoever is cancelled while it
        waits, as Starlette does with what streams, leaves no half of one, and the next sends what it has left.
        """
        self._unsent += self._held + frames
        self._held = b""
        async with self._writing:
            while self._unsent:
                try:
                    del self._unsent[: self._sock.send(self._unsent)]
                except BlockingIOError:
                    await self._room()
                except OSError:
                    self._unsent.clear()
                    self._gone = True
                    self._changed.set()

    async def _room(self) -> None:
        there = asyncio.Event()
        self._loop.add_writer(self._sock.fileno(), there.set)
        try:
            await there.wait()
        finally:
            self._loop.remove_writer(self._sock.fileno())

    def _let_go(self) -> None:
        """No body came with the head."""
        if self._held:
            self._flushing = asyncio.ensure_future(self._write(b""))


def _framed(kind: bytes, payload: bytes) -> bytes:
    return _HEADER.pack(len(payload), kind) + payload
