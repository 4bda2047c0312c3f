"""/api/v1/run/{workflow_id} and its /stream (SPEC §4): published workflows, whose callers want a result and no HTTP.

The headers x-ratelimit-* are no business of ours: whoever admits the call says them of every answer under /api/v1.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Protocol

from edge.answers import Broken
from edge.calls import Call
from edge.deltas import Reader, reader_for
from edge.direct import framed
from edge.http import Answer, Request
from edge.problems import dressed, unsuccessful
from edge.record import render
from edge.run_model import INLINE_BYTES, AnswerHead, Outcome, Status

MAX_RESULT_BYTES = 10 * 1024 * 1024
MAX_DETAIL = 4000
NO_TEXT = "the workflow answered something that is no text: call it with /run"
NO_REASON = "the workflow failed, and says no reason"
TOO_MUCH = Outcome(Status.FAILED, "too_much_output", f"the result is larger than {MAX_RESULT_BYTES} bytes: use /run")
# What a status of the workflow's own means, where it names no code itself.
_CODES = {
    402: "payment_required", 403: "forbidden", 404: "not_found", 409: "conflict", 413: "too_large",
    424: "missing_secret", 429: "rate_limited", 503: "unavailable", 504: "timeout",
}  # fmt: skip
# What the platform, and not the workflow, is told by them.
_OURS = frozenset({"accept", "accept-encoding", "content-type", "range"})
_KEPT = frozenset({"x-request-id", "x-correlation-id", "error-origin", "retry-after"})


class Running(Protocol):
    """edge.runs.RunHandlers.called."""

    async def __call__(self, request: Request, *, published: bool) -> tuple[Call, Answer]:
        """Errors: Problem, while nothing was started."""
        ...


class Published:
    """Handlers of Runs.RunPublished and Runs.StreamPublished."""

    def __init__(self, running: Running) -> None:
        self._running = running

    async def run(self, request: Request) -> Answer:
        """{"success": true, "result", "citations"?}."""
        call, answer = await self._running(_asked(request, "application/json"), published=True)
        return await _whole(request, call, answer)

    async def stream(self, request: Request) -> Answer:
        """Server-sent events: `data: {"delta"}` …, `event: end` with the whole answer, or `event: error`."""
        call, answer = await self._running(_asked(request, "text/event-stream"), published=True)
        if answer.status >= 400:
            return await _whole(request, call, answer)
        headers = [("content-type", "text/event-stream"), ("cache-control", "no-store"), *_kept(answer)]
        return Answer(200, headers, _events(call, answer))


def _asked(request: Request, accept: str) -> Request:
    """As the workflow gets it: POST /."""
    headers = [(name, value) for name, value in request.headers if name not in _OURS]
    headers += [("accept", accept), ("content-type", "application/json")]
    return replace(request, headers=headers, params={"service_id": request.params["workflow_id"], "path": "/"})


async def _whole(request: Request, call: Call, answer: Answer) -> Answer:
    try:
        raw = await _gathered(answer)
    except Broken as broken:
        return dressed(request, _frame(call, answer).failed(broken.outcome))
    if answer.status >= 400:
        if ("error-origin", "service") in answer.headers:
            return Answer(answer.status, [_JSON, *_kept(answer)], render(_fault(answer, raw)))
        return dressed(request, Answer(answer.status, answer.headers, raw))
    try:
        if len(raw) <= INLINE_BYTES:
            status, told = _rendered(answer, raw)
        else:
            status, told = await asyncio.to_thread(_rendered, answer, raw)
    except Broken as broken:
        return dressed(request, _frame(call, answer).failed(broken.outcome))
    except (ValueError, RecursionError):
        return dressed(request, _frame(call, answer).failure("not_supported", NO_TEXT))
    origin = [] if status == 200 else [("error-origin", "service")]
    return Answer(status, [_JSON, *_kept(answer), *origin], told)


_JSON = ("content-type", "application/json")


def _rendered(answer: Answer, raw: bytes) -> tuple[int, bytes]:
    """(status, body); a stream of events may end in an error. Errors: ValueError, RecursionError, Broken."""
    reader = reader_for(_head(answer))
    for _ in reader.read(raw):
        pass
    if reader.fault is not None:
        return 502, render(_told(answer, reader.fault))
    return 200, render({"success": True, **reader.end()})


async def _gathered(answer: Answer) -> bytes:
    """Errors: Broken."""
    async with aclosing(_chunks(answer)) as chunks:
        return b"".join([chunk async for chunk in chunks])


async def _chunks(answer: Answer) -> AsyncGenerator[bytes, None]:
    """An answer's body, at most MAX_RESULT_BYTES. Errors: Broken."""
    size = 0
    async with aclosing(_body(answer.body)) as body:
        async for chunk in body:
            size += len(chunk)
            if size > MAX_RESULT_BYTES:
                raise Broken(TOO_MUCH)
            yield chunk


async def _body(body: bytes | AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    if isinstance(body, bytes):
        yield body
        return
    try:
        async for chunk in body:
            yield chunk
    finally:
        if isinstance(body, AsyncGenerator):
            await body.aclose()


async def _events(call: Call, answer: Answer) -> AsyncGenerator[bytes, None]:
    """The head is out: what goes wrong now is an event."""
    reader = reader_for(_head(answer))
    try:
        async with aclosing(_chunks(answer)) as chunks:
            async for chunk in chunks:
                for delta in reader.read(chunk):
                    yield _event({"delta": delta})
        if reader.fault is None:
            # All of an answer may be one JSON document: nobody else's call waits while it is read and written.
            yield await asyncio.to_thread(_end, reader)
            return
        fault = reader.fault
    except Broken as broken:
        fault = reader.fault or json.loads(bytes(_failed(call, answer, broken.outcome)))
    except (ValueError, RecursionError):
        fault = {"detail": NO_TEXT, "code": "not_supported"}
    yield _event(_told(answer, fault), "error")


def _told(answer: Answer, fault: Mapping[str, Any]) -> dict[str, Any]:
    """What a stream ended with in place of its end."""
    code = fault.get("code")
    code = code[:100] if isinstance(code, str) else "workflow_crashed"
    return unsuccessful(
        {"detail": _text(fault.get("detail") or NO_REASON), "code": code, "request_id": _run_id(answer)}
    )


def _failed(call: Call, answer: Answer, outcome: Outcome) -> bytes:
    body = _frame(call, answer).failed(outcome).body
    assert isinstance(body, bytes)
    return body


def _end(reader: Reader) -> bytes:
    """Errors: ValueError, RecursionError."""
    return _event({"success": True, **reader.end()}, "end")


def _event(value: Mapping[str, Any], name: str = "") -> bytes:
    """Errors: ValueError, RecursionError for what JSON can't hold."""
    return (f"event: {name}\n" if name else "").encode() + b"data: " + render(dict(value)) + b"\n\n"


def _fault(answer: Answer, raw: bytes) -> dict[str, Any]:
    """A workflow's own error."""
    try:
        value = json.loads(raw)
        said = value if isinstance(value, dict) else {}
    except (ValueError, RecursionError):
        said = {}
    text = said.get("detail") or said.get("error") or raw.decode(errors="replace")
    own = said.get("code")
    code = own[:100] if isinstance(own, str) and own else _CODES.get(answer.status, _any_code(answer.status))
    detail = _text(text) or f"the workflow answered {answer.status}"
    return unsuccessful({"detail": detail, "code": code, "request_id": _run_id(answer)})


def _any_code(status: int) -> str:
    return "bad_request" if status < 500 else "workflow_crashed"


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text.encode("utf-8", "replace").decode()[:MAX_DETAIL]


def _head(answer: Answer) -> AnswerHead:
    return AnswerHead(answer.status, tuple(answer.headers))


def _kept(answer: Answer) -> list[tuple[str, str]]:
    return [(name, value) for name, value in answer.headers if name.lower() in _KEPT]


def _run_id(answer: Answer) -> str:
    return next((value for name, value in answer.headers if name == "x-request-id"), "")


def _frame(call: Call, answer: Answer) -> Any:
    return framed(call, _run_id(answer), "")
