"""A port of this machine that leads to one workflow, so that a browser or curl reaches it without a key.

Whoever reaches it acts with the key: so it listens on the loopback only, and refuses what a page of another origin, or
a foreign name that leads here (DNS rebinding), sends.
"""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import unquote, urlsplit

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from cli.api import CONNECT_SECONDS, is_loopback, segment
from cli.problem import Misuse
from cli.servers import Server

_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]
# Of one connection only, or ours to say.
_NOT_ON = {
    *("host", "authorization", "x-api-key", "x-goog-api-key", "proxy-authorization"),
    *(
        "connection",
        "keep-alive",
        "te",
        "trailer",
        "upgrade",
        "transfer-encoding",
        "proxy-connection",
        "date",
        "server",
    ),
}
_HERE = {"127.0.0.1", "localhost", "::1"}


@contextmanager
def relaying(server: Server, service_id: str, port: int) -> Iterator[str]:
    """Serves while the block runs; gives the address. Errors: Misuse when the port can't be had."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
        listener.listen()
    except OSError as error:
        listener.close()
        raise Misuse(f"can't listen on 127.0.0.1 port {port}: {error.strerror}; --port 0 takes a free one") from error
    timeout = httpx.Timeout(None, connect=CONNECT_SECONDS)
    client = httpx.AsyncClient(timeout=timeout, trust_env=not is_loopback(server.url))
    # Without a lifespan: uvicorn leaves it open where it is forced to exit, which prints a traceback.
    config = uvicorn.Config(application(server, service_id, client), log_level="error", lifespan="off", ws="none")
    serving = uvicorn.Server(config)

    async def serve() -> None:
        async with client:
            await serving.serve(sockets=[listener])

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    finally:
        serving.should_exit = serving.force_exit = True
        thread.join(5)
        listener.close()


def application(server: Server, service_id: str, client: httpx.AsyncClient) -> Starlette:
    """What is served."""

    async def forward(request: Request) -> Response:
        if foreign(request):
            told = {"detail": "only pages and programs of this machine may call this", "code": "forbidden"}
            return JSONResponse(told, 403)
        path, query = (request.scope[name].decode("ascii", "replace") for name in ("raw_path", "query_string"))
        if not {".", ".."}.isdisjoint(unquote(path).replace("\\", "/").split("/")):  # they lead out of the workflow
            return JSONResponse({"detail": "the path has . or .. in it", "code": "bad_request"}, 400)
        target = f"{server.url}/run/{segment(service_id)}{path}"
        headers = [(name, value) for name, value in request.headers.items() if name not in _NOT_ON]
        sent = client.build_request(
            request.method,
            target + (f"?{query}" if query else ""),
            headers=[*headers, ("authorization", f"Bearer {server.key}")],
            content=request.stream() if _has_body(request) else None,
        )
        try:
            answer = await client.send(sent, stream=True)
        except httpx.HTTPError as error:
            return JSONResponse({"detail": f"can't reach {server.url}: {error!r}", "code": "unavailable"}, 503)
        answered = StreamingResponse(answer.aiter_raw(), answer.status_code, background=BackgroundTask(answer.aclose))
        home = f"/run/{segment(service_id)}".encode()
        kept = (pair for pair in answer.headers.raw if pair[0].decode().lower() not in _NOT_ON)
        answered.raw_headers = [(name, _here(name, value, home)) for name, value in kept]
        return answered

    return Starlette(routes=[Route("/{path:path}", forward, methods=_METHODS)])


def foreign(request: Request) -> bool:
    """Whether a page from elsewhere, or by another name than ours, sends this."""
    if urlsplit(f"//{request.headers.get('host', '')}").hostname not in _HERE:
        return True
    origin = request.headers.get("origin")
    if origin is None:  # a picture, a script or a link of a page elsewhere: browsers say no more than this
        return request.headers.get("sec-fetch-site") == "cross-site"
    return urlsplit(origin).hostname not in _HERE


def _here(name: bytes, value: bytes, home: bytes) -> bytes:
    """A header of an answer, as it is; a cookie is for the workflow's paths, which begin at the root here."""
    told, _, path = value.rpartition(b"; Path=")
    if name.lower() != b"set-cookie" or not path.startswith(home):
        return value
    return told + b"; Path=" + (path[len(home) :] or b"/")


def _has_body(request: Request) -> bool:
    return "transfer-encoding" in request.headers or request.headers.get("content-length", "0") != "0"
