"""Warming up: what uvicorn and the framework would do lazily is done once, with an app of ours; user code isn't called.

Standard library only, beside shim.py in the sandbox.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import sys
import types
from contextlib import suppress
from typing import Any

from shim_exchange import Exchange  # type: ignore[import-not-found]  # it lies beside us in the sandbox


def warm_up(config: Any) -> None:
    """Makes uvicorn and the framework do once what they would do lazily; never calls the user's handlers."""
    _loop_factory(config)  # imports uvloop, where that is used; older versions of uvicorn set a policy
    touch_once(config.loaded_app)


def touch_once(app: Any) -> None:
    """In a loop of its own, and no policy is set."""
    loop = asyncio.SelectorEventLoop()  # uvloop's would leave a pipe open that all slots shared
    try:
        loop.run_until_complete(touch(app, times=3))
    finally:
        loop.close()


def _loop_factory(config: Any) -> Any:
    """None: by the policy, which older versions of uvicorn set."""
    return config.get_loop_factory() if hasattr(config, "get_loop_factory") else config.setup_event_loop()


async def touch(app: Any, *, times: int) -> None:
    """A dummy app of the same framework answers a dummy request, on the way that a real one takes."""
    if getattr(app, "middleware_stack", True) is None:
        app.middleware_stack = app.build_middleware_stack()
    dummy = _dummy()
    for _ in range(times):
        with suppress(Exception):  # a framework that doesn't like our dummy is merely not warm
            await _exchange(dummy)


_made: list[Any] = []


def _dummy() -> Any:
    """Made once, in the template."""
    if not _made:
        fastapi: Any = sys.modules.get("fastapi")
        _made.append(_bare if fastapi is None else _of_fastapi(fastapi))
    return _made[0]


def _of_fastapi(fastapi: Any) -> Any:
    pydantic: Any = sys.modules["pydantic"]
    model = pydantic.create_model("Dummy", name=(str, "x"))
    dummy = fastapi.FastAPI()

    async def answer(body: Any) -> dict[str, str]:
        return {"name": body.name}

    answer.__annotations__["body"] = model
    dummy.post("/")(answer)
    return dummy


async def _bare(_scope: Any, receive: Any, send: Any) -> None:
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"{}"})


async def _exchange(app: Any) -> None:
    config = types.SimpleNamespace(loaded_app=app, encoded_headers=[], asgi_version="3.0", root_path="")
    ours, its = socket.socketpair()
    with ours:
        ours.sendall(_REQUEST)
        exchange = Exchange(config, types.SimpleNamespace(state={}), its)
        await exchange.run()
        exchange.close()


def _frame(kind: bytes, payload: bytes) -> bytes:
    return struct.pack("!I", len(payload)) + kind + payload


_HEAD = {
    "method": "POST",
    "path": "/",
    "raw_path": "/",
    "query": "",
    "headers": [["content-type", "application/json"], ["content-length", "15"]],
    "client": ["127.0.0.1", 0],
    "server": ["127.0.0.1", 8000],
    "scheme": "http",
}
_REQUEST = _frame(b"H", json.dumps(_HEAD).encode()) + _frame(b"D", b'{"name":"warm"}') + _frame(b"E", b"")
