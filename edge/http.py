"""One HTTP call as handlers see it. `async def handler(request: Request) -> Answer`; rpc.py does the rest.

Hanging up reaches a handler (and the iterator of its answer) as CancelledError, and sets `request.gone`; so does a key
that is revoked meanwhile.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from edge.model import Principal
from kit.errors import Invalid, Unauthenticated

MAX_JSON_BYTES = 2 * 1024 * 1024
BODILESS = frozenset({"GET", "HEAD", "DELETE", "OPTIONS"})
"""Methods whose requests seldom have a body."""


class Aborted(Exception):
    """Raised by the iterator of an answer whose head is out: the transfer breaks off, it never ends cleanly."""


async def no_body() -> AsyncIterator[bytes]:
    """The body of a call without one."""
    never: bytes
    for never in ():
        yield never


@dataclass(frozen=True)
class Request:
    """A caller's request.

    `path` is raw and percent-encoded, without the query; `query` raw, without "?". `headers` have lower-case names,
    latin-1 text as values, the order and repetitions of the wire, and no internal ones. `params` are the path's
    parameters by the name they have in the proto: decoded, except `path` (what follows the service id), which stays
    raw and starts with "/". `body` can be read once, lazily. `begun` gets the ids of the runs that the call starts,
    `told` the headers that its answer gets whatever that will be.
    """

    method: str
    path: str
    query: str = ""
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: AsyncIterator[bytes] = field(default_factory=no_body)
    principal: Principal | None = None
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    params: dict[str, str] = field(default_factory=dict)
    begun: list[str] = field(default_factory=list)
    told: list[tuple[str, str]] = field(default_factory=list)

    @property
    def who(self) -> Principal:
        """The principal of a call that needs a key."""
        if self.principal is None:
            raise Unauthenticated("this call needs an API key")
        return self.principal

    def header(self, name: str) -> str:
        """The first value, stripped; empty when it isn't there."""
        for key, value in self.headers:
            if key == name:
                return value.strip()
        return ""

    @property
    def length(self) -> int | None:
        """How long the body is, as announced; None when it isn't."""
        text = self.header("content-length")
        return int(text[:20]) if text.isascii() and text.isdigit() else None

    def parameter(self, name: str) -> str | None:
        """The first value of a query parameter, decoded; None when it isn't there."""
        pairs = parse_qsl(self.query, keep_blank_values=True, encoding="utf-8", errors="replace")
        return next((value for key, value in pairs if key == name), None)

    def page(self) -> tuple[int, str]:
        """`limit` (1 to 1000, else 100) and `after` of a list. Errors: Invalid."""
        text = self.parameter("limit")
        if text is not None and not (text.isascii() and text.isdigit() and len(text) <= 4 and 1 <= int(text) <= 1000):
            raise Invalid(f"limit is {text[:40]!r}; it must be a number from 1 to 1000")
        return int(text) if text else 100, self.parameter("after") or ""

    async def read(self, limit: int) -> bytes:
        """The whole body. Errors: Invalid (too_large) over `limit` bytes."""
        if self.length is not None and self.length > limit:
            raise too_large(limit)
        parts: list[bytes] = []
        size = 0
        async for part in self.body:
            size += len(part)
            if size > limit:
                raise too_large(limit)
            parts.append(part)
        return b"".join(parts)

    async def json(self, limit: int = MAX_JSON_BYTES) -> dict[str, Any]:
        """The body as a JSON object; {} for an absent, empty or `null` one. Errors: Invalid."""
        raw = await self.read(limit)
        if not raw.strip():
            return {}
        try:
            value = json.loads(raw)
            json.dumps(value, ensure_ascii=False, allow_nan=False).encode()  # refuses lone surrogates and NaN
        except (ValueError, RecursionError) as error:
            raise Invalid(f"the body isn't JSON: {error}") from error
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise Invalid("the body must be a JSON object")
        return value


@dataclass
class Answer:
    """What goes back. `headers` (any case, repeated ones kept) must not frame the body: no content-length,
    no transfer-encoding. Bytes are sent with their length; an iterator is sent chunk by chunk as it comes.
    """

    status: int
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes | AsyncIterator[bytes] = b""


Handler = Callable[[Request], Awaitable[Answer]]


def json_answer(value: Any, status: int = 200, headers: list[tuple[str, str]] | None = None) -> Answer:
    """A JSON answer of the platform's own."""
    body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    return Answer(status, [("content-type", "application/json"), *(headers or [])], body)


def too_large(limit: int) -> Invalid:
    """413, naming the limit and the way around it."""
    return Invalid(
        f"the body is larger than {limit} bytes; upload large data with POST /file and pass its download_uri",
        code="too_large",
    )
