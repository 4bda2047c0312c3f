"""A file as an HTTP answer: its headers, and its bytes or the ranges of them that were asked for."""

import secrets
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from filestore.backend import CHUNK_BYTES, Reader
from filestore.model import Content, File, disposition
from filestore.ranges import Span, etag_matches, parse


def answer(
    request: Request,
    file: File,
    content: Content,
    reading: AbstractAsyncContextManager[Reader],
    link: Callable[[], str | None],
) -> Response:
    """200, 206, 304 or 416 by what `request` asks for; 307 to the link, if there is one and it can answer as well."""
    headers, size = _headers(file, content), content.stored.size
    if etag_matches(request.headers.get("if-none-match", ""), headers["etag"]):
        return Response(status_code=304, headers=headers)
    spans = _ranges(request, headers["etag"], size)
    if spans == []:
        return Response(status_code=416, headers={"content-range": f"bytes */{size}"})
    media_type = content.media_type
    if spans is None:
        parts: list[Span | bytes] = [Span(0, size)]
    elif len(spans) == 1:
        headers["content-range"] = spans[0].content_range(size)
        parts = [spans[0]]
    else:
        boundary = secrets.token_hex(16)
        parts = _multipart(spans, media_type, size, boundary)
        media_type = f"multipart/byteranges; boundary={boundary}"
    headers |= {"content-type": media_type, "content-length": str(sum(map(_length, parts)))}
    status = 200 if spans is None else 206
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers)
    # Elsewhere our ETag means nothing, and several ranges neither.
    if len(parts) == 1 and request.headers.get("if-range") != headers["etag"] and (elsewhere := link()):
        return RedirectResponse(elsewhere, 307, {"cache-control": "private, no-store"})
    return _Download(parts, reading, status, headers)


class _Download(StreamingResponse):
    """Closes the file with the answer, also when the reader hangs up half-way."""

    def __init__(
        self,
        parts: Sequence[Span | bytes],
        reading: AbstractAsyncContextManager[Reader],
        status: int,
        headers: dict[str, str],
    ) -> None:
        self._reading = reading
        self._parts = parts
        super().__init__((), status_code=status, headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._reading as reader, aclosing(_bytes_of(reader, self._parts)) as chunks:
            self.body_iterator = chunks
            await super().__call__(scope, receive, send)


async def _bytes_of(reader: Reader, parts: Sequence[Span | bytes]) -> AsyncGenerator[bytes, None]:
    for part in parts:
        if isinstance(part, bytes):
            yield part
            continue
        for offset in range(part.start, part.end, CHUNK_BYTES):
            yield await reader.read(offset, min(CHUNK_BYTES, part.end - offset))


def _headers(file: File, content: Content) -> dict[str, str]:
    """Whatever was uploaded, a browser saves it and never shows it as ours."""
    return {
        "etag": f'"{content.stored.digest}"',
        "accept-ranges": "bytes",
        "cache-control": "private",
        "content-disposition": disposition(file.name),
        "content-security-policy": "default-src 'none'; sandbox",
        "x-content-type-options": "nosniff",
    }


def _ranges(request: Request, etag: str, size: int) -> list[Span] | None:
    """None: send all. A range is for GET only, and not heeded when If-Range names another content."""
    header = request.headers.get("range")
    if header is None or request.method != "GET" or request.headers.get("if-range", etag) != etag:
        return None
    return parse(header, size)


def _multipart(spans: Sequence[Span], media_type: str, size: int, boundary: str) -> list[Span | bytes]:
    parts: list[Span | bytes] = []
    for span in spans:
        head = f"\r\n--{boundary}\r\nContent-Type: {media_type}\r\nContent-Range: {span.content_range(size)}\r\n\r\n"
        parts += [head.encode("latin-1"), span]
    return [*parts, f"\r\n--{boundary}--\r\n".encode()]


def _length(part: Span | bytes) -> int:
    return len(part) if isinstance(part, bytes) else part.end - part.start
