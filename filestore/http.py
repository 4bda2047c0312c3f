"""The plain HTTP door to the bytes of files. Envoy routes `/files/…` here, past the transcoder. Addresses are signed.

PUT        /files/ID?expires=…&signature=…     one upload, streamed to the backend
GET, HEAD  /files/ID/NAME?signature=…          the bytes, ranges of them; or where a backend elsewhere has them
"""

import asyncio
import math
from collections.abc import AsyncIterator
from functools import partial

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from filestore import download
from filestore.files import Files
from kit.errors import Conflict, Denied, Invalid, NotFound, Problem, Unavailable
from kit.names import new_id
from kit.telemetry import current_traceparent, log, span, valid_traceparent

# An uploader that sends nothing for so long has gone, whatever its connection says.
STALL_SECONDS = 120.0
MAX_CORRELATION_LENGTH = 200
# Envoy's word that a sandbox asks. Its way leads to us, whatever else it may reach, so it gets the bytes here.
NESTED = "x-runmesh-nested"

_STATUS: dict[type[Problem], int] = {Invalid: 400, Denied: 403, NotFound: 404, Conflict: 409, Unavailable: 503}


def app(files: Files, *, stall_seconds: float = STALL_SECONDS) -> ASGIApp:
    """The ASGI application."""
    routes = [
        Route("/files/{file_id}", partial(_put, files, stall_seconds), methods=["PUT"]),
        Route("/files/{file_id}/{name:path}", partial(_get, files), methods=["GET"]),
    ]
    handlers = {Problem: _problem, HTTPException: _http_exception, Exception: _bug}
    starlette = Starlette(routes=routes, exception_handlers=handlers)  # type: ignore[arg-type]  # narrower handlers
    starlette.router.redirect_slashes = False
    return partial(_traced, partial(_drained, starlette))


async def _put(files: Files, stall_seconds: float, request: Request) -> Response:
    query = request.query_params
    file = await files.open_upload(request.path_params["file_id"], query.get("expires", ""), query.get("signature", ""))
    if "content-range" in request.headers:
        raise Invalid("a file is uploaded whole: Content-Range is not supported")
    length = request.headers.get("content-length", "")
    size = int(length) if length.isdecimal() else 0
    kind = request.headers.get("content-type", "")
    try:
        content = await files.fill(file, kind, _chunks(request, stall_seconds), size)
    except ClientDisconnect:
        log().info("upload.broken", file_id=file.id)
        return _error(400, "bad_request", "the upload broke off")  # nobody is there to read it
    return Response(headers={"etag": f'"{content.stored.digest}"'})


async def _get(files: Files, request: Request) -> Response:
    file, content = await files.readable(request.path_params["file_id"], request.query_params.get("signature", ""))

    def link() -> str | None:
        return None if NESTED in request.headers else files.link(file, content)

    response = download.answer(request, file, content, files.open(file), link)
    if response.status_code == 416:
        detail = f"the file has {content.stored.size} bytes; none of the ranges lies within"
        return _error(416, "bad_request", detail, dict(response.headers))
    return response


async def _chunks(request: Request, stall_seconds: float) -> AsyncIterator[bytes]:
    """The body as it comes. Errors: Invalid when it stalls, ClientDisconnect when it breaks off."""
    stream = aiter(request.stream())
    while True:
        try:
            async with asyncio.timeout(stall_seconds):
                chunk = await anext(stream, None)
        except TimeoutError:
            raise Invalid(f"the upload stalled for {stall_seconds:g} seconds; start it again") from None
        if chunk is None:
            return
        yield chunk


async def _traced(inner: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """A span around the call; its `traceparent` is in the answer, with an id of the call and the caller's own."""
    if scope["type"] != "http":
        return await inner(scope, receive, send)
    sent = Headers(scope=scope)
    request_id = new_id("req")
    correlation_id = sent.get("x-correlation-id", "")[:MAX_CORRELATION_LENGTH] or request_id
    with span("filestore.request", parent=valid_traceparent(sent.get("traceparent", "")), method=scope["method"]):
        ids = {"x-request-id": request_id, "x-correlation-id": correlation_id, "traceparent": current_traceparent()}
        added = [(name.encode(), value.encode("latin-1")) for name, value in ids.items() if value]

        async def send_traced(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *added]
            await send(message)

        return await inner(scope, receive, send_traced)


async def _drained(inner: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Only the end of a drain cancels a call: it is told so, unless its answer has begun (then it is broken off)."""
    started = False

    async def send_noting(message: Message) -> None:
        nonlocal started
        started = True
        await send(message)

    try:
        await inner(scope, receive, send_noting)
    except asyncio.CancelledError:
        if started:
            raise
        answer = _error(503, "unavailable", "the file store is restarting; try again", {"retry-after": "1"})
        await answer(scope, receive, send)


async def _problem(_request: Request, problem: Problem) -> Response:
    status = 413 if problem.code == "too_large" else _STATUS.get(type(problem), 500)
    after = problem.retry_after
    headers = {"retry-after": str(math.ceil(after.total_seconds()))} if after else None
    return _error(status, problem.code, problem.message, headers)


async def _http_exception(request: Request, error: HTTPException) -> Response:
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = allowed = ", ".join(sorted(headers["Allow"].split(", ")))
        return _error(405, "method_not_allowed", f"{request.method[:20]} isn't possible here; {allowed} is", headers)
    if error.status_code == 404:
        return _error(404, "not_found", "no such address", headers)
    return _error(error.status_code, "bad_request", error.detail, headers)


async def _bug(_request: Request, error: Exception) -> Response:
    log().error("http.failed", exc_info=error)
    return _error(500, "runtime_error", "internal error")


def _error(status: int, code: str, detail: str, headers: dict[str, str] | None = None) -> Response:
    """SPEC §2."""
    headers = {name: value for name, value in (headers or {}).items() if name.lower() != "content-length"}
    return JSONResponse({"detail": detail, "code": code}, status, {**headers, "error-origin": "runtime"})
