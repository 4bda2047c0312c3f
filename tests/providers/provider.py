"""The three vendors of models, protocol-true, on one server of this machine: `with provider() as vendor:`.

What they answer is decided by the last text of the request: `[status=429]`, `[slow=SECONDS]` before the answer and
between its events, `[break]` in the middle, `[no-usage]`, `[cached=N]`, `[long=WORDS]`. They know their own keys only.
"""

import json
import math
import re
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount

KEYS = {name: f"provider-key-of-{name}" for name in ("openai", "anthropic", "gemini")}
# What a search of the web finds.
FOUND = {"url": "https://found.example/page", "title": "Found"}
# A key of the platform's, or what it tells workflows: no business of a vendor's.
OURS = re.compile(
    r"^(x-request-id|x-correlation-id|codewords-.*|x-deadline|x-attempt|traceparent|cookie|x-runmesh-.*)$"
)
_DIRECTIVE = re.compile(r"\[(status|slow|break|no-usage|cached|long)(?:=([\d.]+))?\]")


@dataclass(frozen=True)
class Recorded:
    """A request as it came."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: Any


@dataclass
class Vendor:
    """The server: where it is, and what it was asked."""

    host: str = "127.0.0.1"
    port: int = 0
    requests: list[Recorded] = field(default_factory=list)
    # What OpenAI's chat completions say next, one answer each, before anything that the text asks for.
    script: list[Any] = field(default_factory=list)

    @property
    def last(self) -> Recorded:
        """The newest request."""
        return self.requests[-1]

    def base(self, name: str) -> str:
        """As the vendor's SDK wants it."""
        return f"http://{self.host}:{self.port}/{name}" + ("/v1" if name == "openai" else "")

    def settings(self) -> dict[str, str]:
        """Of the operator."""
        return {f"RUNMESH_{name.upper()}_BASE_URL": self.base(name) for name in KEYS} | {
            f"RUNMESH_{name.upper()}_API_KEY": key for name, key in KEYS.items()
        }


@dataclass(frozen=True)
class Plan:
    """What a request's text asks for."""

    text: str
    status: int = 200
    slow: float = 0
    breaks: bool = False
    tells_usage: bool = True
    cached: int = 0
    words: int = 0

    @property
    def answer(self) -> str:
        """What the model says."""
        return " ".join(["word"] * self.words) if self.words else f"You said: {self.text}"

    @property
    def pieces(self) -> list[str]:
        """Word by word, as it streams."""
        return re.findall(r"\S+\s*", self.answer)

    @property
    def tokens_in(self) -> int:
        """The vendors count more than the text."""
        return self.cached + 7 + math.ceil(len(self.text) / 4)

    @property
    def tokens_out(self) -> int:
        """A word is a token here."""
        return len(self.pieces)


def plan_of(text: str) -> Plan:
    """Reads the directives."""
    found = {match[1]: match[2] or "" for match in _DIRECTIVE.finditer(text)}
    return Plan(
        _DIRECTIVE.sub("", text).strip(),
        int(found.get("status", "200")),
        float(found.get("slow", "0")),
        "break" in found,
        "no-usage" not in found,
        int(found.get("cached", "0")),
        int(found.get("long", "0")),
    )


def text_of(value: Any) -> str:
    """The text of a message's content, in whatever parts it comes."""
    if isinstance(value, str):
        return value
    parts = value if isinstance(value, list) else [value]
    return "".join(str(part.get("text", "")) for part in parts if isinstance(part, dict))


def shaped(schema: dict[str, Any]) -> Any:
    """A value of this JSON schema."""
    kind = str(schema.get("type", "string")).lower()
    if kind == "object":
        return {name: shaped(each) for name, each in schema.get("properties", {}).items()}
    if kind == "array":
        return [shaped(schema.get("items", {}))]
    return {"integer": 3, "number": 0.5, "boolean": True}.get(kind, "text")


def as_json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """An answer in one."""
    return Response(json.dumps(value), status, headers, "application/json")


def event(data: Any, name: str = "") -> bytes:
    """A server-sent event."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {data if isinstance(data, str) else json.dumps(data)}\n\n".encode()


class Broken(Exception):
    """The connection goes in mid-stream, on purpose."""


class Breaking(Response):
    """A stream that may break off: uvicorn cuts the connection where its app raises."""

    def __init__(self, parts: AsyncIterator[bytes], media_type: str = "text/event-stream; charset=utf-8") -> None:
        super().__init__(media_type=media_type)
        del self.headers["content-length"]
        self._parts = parts

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            async for part in self._parts:
                await send({"type": "http.response.body", "body": part, "more_body": True})
        except Broken:
            return  # without an end: uvicorn closes the connection
        await send({"type": "http.response.body", "body": b""})


async def record(vendor: Vendor, request: Request) -> Any:
    """Writes the request down; its body as JSON, None where it has none. Fails what mustn't arrive here."""
    raw = await request.body()
    body = json.loads(raw) if raw else None
    headers = dict(request.headers)
    ours = [name for name in headers if OURS.match(name)] + [name for name, each in headers.items() if "cwk-" in each]
    vendor.requests.append(Recorded(request.method, request.url.path, request.url.query, headers, body))
    assert not ours, f"the vendor is told {ours}"
    return body


@contextmanager
def provider(host: str = "127.0.0.1") -> Iterator[Vendor]:
    """Serves until it is left."""
    from tests.providers import anthropic, gemini, openai  # noqa: PLC0415  # they need what is above

    vendor = Vendor(host)
    modules = {"openai": openai, "anthropic": anthropic, "gemini": gemini}
    app = Starlette(routes=[Mount(f"/{name}", routes=module.routes(vendor)) for name, module in modules.items()])
    with socket.socket() as sock:
        sock.bind((host, 0))
        vendor.port = sock.getsockname()[1]
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off", ws="none"))
        thread = threading.Thread(target=server.run, args=([sock],))
        thread.start()
        try:
            yield vendor
        finally:
            server.should_exit = True
            server.force_exit = True
            thread.join(10)
