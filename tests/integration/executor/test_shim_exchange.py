"""The shim's half of ASGI, over a socket whose reader is slower than the app."""

import asyncio
import json
import socket
import struct
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from executor.shim_exchange import Exchange

Send = Callable[[dict[str, Any]], Awaitable[None]]
App = Callable[[Any, Callable[[], Awaitable[dict[str, Any]]], Send], Awaitable[None]]
REQUEST = json.dumps({
    "method": "GET", "path": "/", "raw_path": "/", "query": "", "headers": [],
    "client": ["127.0.0.1", 0], "server": ["127.0.0.1", 80], "scheme": "http",
}).encode()  # fmt: skip
START = {"type": "http.response.start", "status": 200, "headers": []}


def body(data: bytes, *, more: bool = True) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


async def answered(app: App, pause: float = 0.001) -> list[tuple[bytes, bytes]]:
    """The frames that come of one call of the app, read slowly."""
    ours, its = socket.socketpair()
    its.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    ours.setblocking(False)
    loop = asyncio.get_running_loop()
    with ours:
        await loop.sock_sendall(
            ours, b"".join((struct.pack("!Ic", len(REQUEST), b"H"), REQUEST, struct.pack("!Ic", 0, b"E")))
        )
        config = SimpleNamespace(loaded_app=app, encoded_headers=[], asgi_version="3.0", root_path="")
        exchange = Exchange(config, SimpleNamespace(state={}), its)

        async def serve() -> None:
            assert await exchange.run() == ""
            await exchange.frame(b"Z", b"{}")
            exchange.close()

        serving = asyncio.create_task(serve())
        received = b""
        while piece := await loop.sock_recv(ours, 8192):
            received += piece
            await asyncio.sleep(pause)
        await serving
    frames = []
    while received:
        length, kind = struct.unpack_from("!Ic", received)
        frames.append((kind, received[5 : 5 + length]))
        received = received[5 + length :]
    return frames


@pytest.mark.parametrize("size", [1000, 100_000])
async def test_a_stream_that_is_cancelled_when_all_is_said_keeps_its_end(size: int) -> None:
    """As Starlette's streaming answers are, by the disconnect that follows their last byte."""

    async def app(_scope: Any, receive: Callable[[], Awaitable[dict[str, Any]]], send: Send) -> None:
        async def stream() -> None:
            await send(START)
            for _ in range(50):
                await send(body(b"x" * size))
            await send(body(b"x" * size, more=False))

        streaming = asyncio.create_task(stream())
        while (await receive())["type"] != "http.disconnect":
            pass
        streaming.cancel()
        await asyncio.gather(streaming, return_exceptions=True)

    head, *data, end, last = await answered(app)
    assert [head[0], end[0], last[0]] == [b"H", b"E", b"Z"]
    assert b"".join(payload for _, payload in data) == b"x" * size * 51


async def test_who_gives_up_sending_leaves_no_half_of_a_frame() -> None:
    async def app(_scope: Any, _receive: Any, send: Send) -> None:
        await send(START)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await send(body(b"x" * 200_000))
        await send(body(b"y", more=False))

    frames = await answered(app, pause=0.002)
    assert [kind for kind, _ in frames] == [b"H", b"D", b"D", b"E", b"Z"]
    assert frames[1][1] + frames[2][1] == b"x" * 200_000 + b"y"


async def test_a_head_whose_body_takes_its_time_goes_ahead() -> None:
    told = asyncio.Event()

    async def app(_scope: Any, _receive: Any, send: Send) -> None:
        await send(START | {"headers": [(b"content-length", b"1")]})
        await told.wait()
        await send(body(b"x", more=False))

    ours, its = socket.socketpair()
    ours.setblocking(False)
    loop = asyncio.get_running_loop()
    with ours:
        await loop.sock_sendall(ours, struct.pack("!Ic", len(REQUEST), b"H") + REQUEST)
        config = SimpleNamespace(loaded_app=app, encoded_headers=[], asgi_version="3.0", root_path="")
        exchange = Exchange(config, SimpleNamespace(state={}), its)
        running = asyncio.create_task(exchange.run())
        assert (await loop.sock_recv(ours, 1000))[4:5] == b"H"
        told.set()
        assert await running == ""
        assert (await loop.sock_recv(ours, 1000))[4:6] == b"Dx"
        exchange.close()
