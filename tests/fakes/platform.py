"""The platform's public API as far as services of the library call it, on this machine: `with platform() as fake:`."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.providers.apis import served
from tests.providers.provider import Recorded

RUN = "run_1"
RECORD = {"id": RUN, "serviceId": "greet", "status": "succeeded", "responseStatus": 200}
KEY = "cwk-run-placeholder"


@dataclass
class Platform:
    """Where it is, what it was asked, and what it keeps."""

    port: int = 0
    requests: list[Recorded] = field(default_factory=list)
    kept: dict[str, dict[str, Any]] = field(default_factory=dict)
    # What it refuses all with: {"status", "code", "detail"}.
    refuses: dict[str, Any] | None = None

    @property
    def last(self) -> Recorded:
        """The newest request."""
        return self.requests[-1]

    def settings(self) -> dict[str, str]:
        """What a sandbox is told."""
        return {"CODEWORDS_RUNTIME_URI": f"http://127.0.0.1:{self.port}", "CODEWORDS_API_KEY": KEY}


def refusal(status: int, code: str, detail: str, **more: Any) -> Response:
    """As the platform's."""
    told = {"detail": detail, "code": code, **more}
    return JSONResponse(told, status, {"error-origin": "runtime", "x-request-id": RUN})


@contextmanager
def platform() -> Iterator[Platform]:
    """Serves until it is left."""
    fake = Platform()

    async def serve(request: Request) -> Response:
        raw = await request.body()
        body = json.loads(raw) if raw else None
        fake.requests.append(Recorded(request.method, request.url.path, request.url.query, dict(request.headers), body))
        if request.headers.get("authorization") != f"Bearer {KEY}":
            return refusal(401, "unauthenticated", "this call needs an API key")
        if fake.refuses:
            return refusal(**fake.refuses)
        return await answer(fake, request, body)

    methods = ["GET", "POST", "PUT", "PATCH", "DELETE"]
    with served(Starlette(routes=[Route("/{path:path}", serve, methods=methods)])) as fake.port:
        yield fake


async def answer(fake: Platform, request: Request, body: Any) -> Response:
    """By the first part of the path."""
    kind, _, rest = request.url.path[1:].partition("/")
    if kind in {"run", "logs"}:
        log_of = StreamingResponse(log(), media_type="application/x-ndjson")
        return log_of if kind == "logs" else await run(request, rest, body)
    if kind in {"secrets", "schedules", "hooks"}:
        return keep(fake, request, kind, rest, body)
    if kind == "deploy" and "bad" in body["code"]:
        report = [{"check": "syntax", "passed": False, "detail": "no Python", "line": 1}]
        return refusal(422, "invalid_workflow", "deploy refused", report=report)
    if rest == "run_slow":
        running = JSONResponse({**RECORD, "id": rest, "status": "running"})
        return refusal(504, "timeout", "not yet") if kind == "result" else running
    told: dict[str, Any] = {
        "validate": {"all_passed": True, "report": []},
        "deploy": {"service_id": "greet", "version": 1, "url": "…", "report": []},
        "workflows": {"service_id": rest, "schema": {}} if rest else {"items": [{"service_id": "greet"}], "next": None},
        "templates": {"id": rest, "code": "app = 1"} if rest else {"items": [{"id": "monitor"}], "next": None},
        "run_async": {"request_id": RUN},
        "result": {**RECORD, "responseContent": "x" * 300_000 if rest == "run_long" else "hello"},
        "requests": {"items": [RECORD], "next": None},
        "request": {"request_id": rest},
    }
    return JSONResponse(told[kind]) if kind in told else refusal(404, "not_found", "no such path")


async def run(request: Request, rest: str, body: Any) -> Response:
    """Workflows: greet, broken (answers 500), slow, missing, page."""
    name = rest.partition("/")[0]
    headers = {"x-request-id": RUN}
    if name == "missing":
        return refusal(404, "not_found", "no such workflow")
    if name == "broken":
        return JSONResponse({"detail": "oh"}, 500, headers | {"error-origin": "service"})
    if name == "page":
        return Response("é" * 300_000, headers=headers, media_type="text/html")
    await asyncio.sleep(0.5 if name == "slow" else 0)
    return JSONResponse({"path": rest, "query": request.url.query, "method": request.method, "got": body}, 200, headers)


async def log() -> AsyncIterator[bytes]:
    """Of a run that goes on."""
    for number in range(3):
        yield (
            json.dumps({"createdAt": f"2026-01-01T00:00:0{number}.000Z", "message": f"line {number}"}).encode() + b"\n"
        )
    while True:
        await asyncio.sleep(0.2)
        yield b"\n"


def keep(fake: Platform, request: Request, kind: str, name: str, body: Any) -> Response:
    """Things that are made, listed and deleted."""
    known = fake.kept.setdefault(kind, {})
    if request.method == "GET":
        return JSONResponse({"items": list(known.values()), "next": None})
    if request.method == "DELETE":
        if known.pop(name, None) is None:
            return refusal(404, "not_found", f"no such thing: {name}")
        return JSONResponse({"id": name, "deleted": True})
    if kind == "hooks":
        name = f"hok_{len(known) + 1}"
        own = {} if body.get("secret") else {"secret": "whsec_made"}
        known[name] = {"id": name, "kind": body["kind"], "service_id": body["service_id"], "created_at": "2026-01-01"}
        shown = {"url": f"https://mesh.test/hooks/cwh-{name}"} | own
        shown |= {"verify_token": body.get("verify_token", "made")} if body["kind"] == "whatsapp" else {}
        return JSONResponse(known[name] | shown)
    name = name or "sch_1"
    known[name] = {"name": name} if kind == "secrets" else {"id": name, **body}
    return JSONResponse(known[name])
