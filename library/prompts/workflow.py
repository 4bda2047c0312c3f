# /// script
# requires-python = ">=3.11"
# dependencies = ["starlette>=0.46", "uvicorn[standard]>=0.34", "httpx>=0.28,<1", "jinja2>=3.1.6,<4"]
# [tool.runmesh]
# egress = []
# ///
"""A prompt workflow: its template filled in, a model asked, what it said given back.

The deploy writes the prompt into a copy of this file (scheduler/prompt.py). Whatever the template and the values are,
this runs in a sandbox of its own run, with what its caller may do and no more.

POST / {"inputs": {NAME: value}}, or the values at the top, gives {"result", "citations"?: [{"url", "title"}]}
With `Accept: text/event-stream` as server-sent events: `data: {"delta"}` …, then `event: end` with the whole of it; or
`event: error` with {"detail", "code"}, after which the transfer breaks off.
"""

import json
import os
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any
from urllib.parse import quote

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from library.prompts.language import Filling, Refused

# fmt: off
PROMPT: dict[str, Any] = json.loads('{"template": "{{ x }}", "model": "openai/m", "parameters": {}, "web_search": false}')  # noqa: E501  # one line: it is replaced
# fmt: on

MAX_ANSWER = 4 << 20  # characters of what comes back
MAX_LINE = 16 << 20
# Anthropic's API must be told how much it may say.
ANTHROPIC_TOKENS = 4096


# ── The model: one streamed call of the platform's own service, whatever the caller wants.

Piece = str | dict[str, str]  # a part of the text, or a citation
Event = dict[str, Any]


def _known(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _openai(model: str, text: str, given: dict[str, Any], search: bool) -> tuple[str, dict[str, str], Event]:
    effort = given.get("reasoning_effort")
    body = _known(
        model=model,
        input=text,
        stream=True,
        instructions=given.get("system"),
        temperature=given.get("temperature"),
        top_p=given.get("top_p"),
        max_output_tokens=given.get("max_tokens"),
        reasoning={"effort": effort} if effort else None,
        tools=[{"type": "web_search"}] if search else None,
    )
    return "/run/openai/v1/responses", {}, body


def _anthropic(model: str, text: str, given: dict[str, Any], search: bool) -> tuple[str, dict[str, str], Event]:
    body = _known(
        model=model,
        messages=[{"role": "user", "content": text}],
        stream=True,
        max_tokens=given.get("max_tokens", ANTHROPIC_TOKENS),
        system=given.get("system"),
        temperature=given.get("temperature"),
        top_p=given.get("top_p"),
        top_k=given.get("top_k"),
        stop_sequences=given.get("stop"),
        tools=[{"type": "web_search_20250305", "name": "web_search"}] if search else None,
    )
    return "/run/anthropic/v1/messages", {"anthropic-version": "2023-06-01"}, body


def _gemini(model: str, text: str, given: dict[str, Any], search: bool) -> tuple[str, dict[str, str], Event]:
    settings = _known(
        temperature=given.get("temperature"),
        topP=given.get("top_p"),
        topK=given.get("top_k"),
        maxOutputTokens=given.get("max_tokens"),
        stopSequences=given.get("stop"),
    )
    system = given.get("system")
    body = _known(
        contents=[{"role": "user", "parts": [{"text": text}]}],
        systemInstruction={"parts": [{"text": system}]} if system else None,
        generationConfig=settings or None,
        tools=[{"google_search": {}}] if search else None,
    )
    return f"/run/gemini/v1beta/models/{quote(model, safe='')}:streamGenerateContent?alt=sse", {}, body


def _said_openai(event: Event) -> Iterator[Piece | None]:
    kind = event.get("type", "")
    if kind in {"response.output_text.delta", "response.refusal.delta"}:
        yield event["delta"]
    elif kind in {"response.completed", "response.incomplete"}:
        for item in event["response"].get("output") or ():
            for part in item.get("content") or ():
                for note in part.get("annotations") or ():
                    if note.get("type") == "url_citation":
                        yield {"url": note["url"], "title": note.get("title") or ""}
        yield None
    elif kind in {"response.failed", "error"}:
        fault = event.get("error") or event.get("response", {}).get("error") or event
        raise _failed(fault.get("message"))


def _said_anthropic(event: Event) -> Iterator[Piece | None]:
    kind, delta = event.get("type"), event.get("delta") or {}
    if kind == "content_block_delta" and delta.get("type") == "text_delta":
        yield delta["text"]
    elif kind == "content_block_delta" and delta.get("type") == "citations_delta":
        if url := delta["citation"].get("url"):
            yield {"url": url, "title": delta["citation"].get("title") or ""}
    elif kind == "message_stop":
        yield None
    elif kind == "error":
        raise _failed(event["error"].get("message"))


def _said_gemini(event: Event) -> Iterator[Piece | None]:
    if "error" in event:
        raise _failed(event["error"].get("message"))
    if reason := (event.get("promptFeedback") or {}).get("blockReason"):
        raise _failed(f"it refused the prompt: {reason}")
    for candidate in (event.get("candidates") or ())[:1]:
        for part in (candidate.get("content") or {}).get("parts") or ():
            if part.get("text") and not part.get("thought"):
                yield part["text"]
        for chunk in (candidate.get("groundingMetadata") or {}).get("groundingChunks") or ():
            if url := (chunk.get("web") or {}).get("uri"):
                yield {"url": url, "title": chunk["web"].get("title") or ""}
        if candidate.get("finishReason"):
            yield None


VENDORS = {
    "openai": (_openai, _said_openai),
    "anthropic": (_anthropic, _said_anthropic),
    "gemini": (_gemini, _said_gemini),
}


def _failed(why: Any) -> Refused:
    return Refused(502, "workflow_crashed", f"the model didn't answer to the end: {str(why)[:1000]}")


def client() -> httpx.AsyncClient:
    """The way to the platform. The key is a placeholder, which means something on this way only."""
    return httpx.AsyncClient(
        base_url=os.environ.get("CODEWORDS_RUNTIME_URI", "http://127.0.0.1:8080"),
        headers={"Authorization": f"Bearer {os.environ.get('CODEWORDS_API_KEY', '')}"},
        timeout=httpx.Timeout(None, connect=10),
    )


async def ask(text: str) -> AsyncIterator[Piece]:
    """The parts of the answer as they come, each citation once. Errors: Refused."""
    vendor, _, model = PROMPT["model"].partition("/")
    wanted, said = VENDORS[vendor]
    path, headers, body = wanted(model, text, PROMPT["parameters"], PROMPT["web_search"])
    length, cited, whole = 0, set[str](), False
    try:
        async with CLIENT.stream("POST", path, json=body, headers=headers) as answer:
            if answer.status_code >= 400:
                raise _refusal(answer, await answer.aread())
            async for event in _events(answer.aiter_bytes()):
                for piece in said(event):
                    if piece is None:
                        whole = True
                    elif isinstance(piece, str):
                        length = _longer(length, piece)
                        yield piece
                    elif piece["url"] not in cited:
                        cited.add(piece["url"])
                        yield piece
    except httpx.HTTPError as error:
        raise _failed(error) from None
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise _failed(f"what it sent isn't as {vendor} sends it ({type(error).__name__})") from None
    if not whole:
        raise _failed("the stream broke off")


def _longer(length: int, piece: str) -> int:
    """With the piece. Errors: Refused."""
    if length + len(piece) > MAX_ANSWER:
        raise _failed(f"it says more than {MAX_ANSWER} characters")
    return length + len(piece)


async def _events(chunks: AsyncIterator[bytes]) -> AsyncIterator[Event]:
    """The JSON of server-sent events, each on a line of its own."""
    held = b""
    async for chunk in chunks:
        *lines, held = (held + chunk).split(b"\n")
        if len(held) > MAX_LINE:
            raise _failed("a line without an end")
        for line in lines:
            if line.startswith(b"data:") and (text := line[5:].strip()) != b"[DONE]":
                yield json.loads(text)


def _refusal(answer: httpx.Response, body: bytes) -> Refused:
    """What the model service answered in place of an answer. A caller, or the prompt's author, can do something about a
    few of these only.
    """
    code = ""
    try:
        told = json.loads(body)
        code = told.get("code")
        fault = told.get("error")
        detail = told.get("detail") or (fault.get("message") if isinstance(fault, dict) else fault) or body.decode()
    except (ValueError, AttributeError):
        detail = body.decode(errors="replace")
    codes = {402: "payment_required", 413: "too_large", 424: "missing_secret", 429: "rate_limited"}
    status = answer.status_code if answer.status_code in codes else 502
    if code == "unknown_price":
        return Refused(400, code, f"the prompt's model can't be used: {detail}")
    told = f"the model's service answered {answer.status_code}: {str(detail)[:1000]}"
    return Refused(status, codes.get(status, "workflow_crashed"), told)


# ── The app.


async def _asked(request: Request) -> str:
    """The prompt's text. Errors: Refused."""
    try:
        body = json.loads(await request.body() or b"{}")
    except (ValueError, RecursionError):
        raise Refused(400, "bad_request", "the body isn't JSON") from None
    if not isinstance(body, dict):
        raise Refused(400, "bad_request", 'the body must be a JSON object: {"inputs": {…}}, or the inputs themselves')
    inputs = body["inputs"] if set(body) == {"inputs"} and isinstance(body["inputs"], dict) else body
    if told := mismatch(inputs, FILLING.variables):
        raise Refused(400, "bad_request", told)
    text = FILLING(inputs)
    if not text.strip():
        raise Refused(400, "bad_request", "with these inputs the prompt is empty")
    return text


def mismatch(inputs: Iterable[str], variables: Iterable[str]) -> str:
    """How inputs differ from the variables; empty when they don't. As edge/inputs.py says it."""
    given, wanted = set(inputs), list(variables)
    missing, unknown = [name for name in wanted if name not in given], sorted(given - set(wanted))
    faults = {"missing": missing, "unknown": unknown}
    told = [
        f"{fault}: {', '.join(repr(name[:100]) for name in names[:20])}" for fault, names in faults.items() if names
    ]
    return f"the inputs don't match the prompt's variables; {'; '.join(told)}" if told else ""


def _whole(pieces: list[Piece]) -> dict[str, Any]:
    result = {"result": "".join(piece for piece in pieces if isinstance(piece, str))}
    citations = [piece for piece in pieces if isinstance(piece, dict)]
    return result | ({"citations": citations} if citations or PROMPT["web_search"] else {})


async def run(request: Request) -> Response:
    pieces = ask(await _asked(request))
    if "text/event-stream" in request.headers.get("accept", ""):
        return await _streamed(pieces)
    return JSONResponse(_whole([piece async for piece in pieces]))


async def _streamed(pieces: AsyncIterator[Piece]) -> Response:
    """What fails before anything was said has a status of its own."""
    first = await anext(pieces, None)

    async def events() -> AsyncIterator[str]:
        said: list[Piece] = []
        try:
            if first is not None:
                said.append(first)
                yield _delta(first)
            async for piece in pieces:
                said.append(piece)
                yield _delta(piece)
        except Refused as refused:
            yield f"event: error\ndata: {json.dumps({'detail': refused.detail, 'code': refused.code})}\n\n"
            raise  # so that the run has failed, and isn't charged
        yield f"event: end\ndata: {json.dumps(_whole(said))}\n\n"

    return StreamingResponse(events(), media_type="text/event-stream", headers={"cache-control": "no-store"})


def _delta(piece: Piece) -> str:
    return f"data: {json.dumps({'delta': piece})}\n\n" if isinstance(piece, str) else ""


def refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return JSONResponse({"detail": error.detail, "code": error.code}, error.status)


def openapi() -> dict[str, Any]:
    """The deploy reads the variables here."""
    inputs = {
        "type": "object",
        "properties": {name: {} for name in FILLING.variables},
        "required": FILLING.variables,
        "additionalProperties": False,
    }
    schema = {"type": "object", "properties": {"inputs": inputs}, "required": ["inputs"]}
    body = {"required": True, "content": {"application/json": {"schema": schema}}}
    answers = {"200": {"description": "The model's text", "content": {"application/json": {}}}}
    post = {"requestBody": body, "responses": answers}
    return {"openapi": "3.1.0", "info": {"title": "Prompt", "version": "1"}, "paths": {"/": {"post": post}}}


FILLING = Filling(PROMPT["template"])
CLIENT = client()
app = Starlette(
    routes=[Route("/", run, methods=["POST"])],
    exception_handlers={Refused: refused},
)
app.openapi = openapi  # type: ignore[attr-defined]  # as FastAPI's apps have it

if __name__ == "__main__":
    uvicorn.run(app, host="0.0.0.0", port=int(os.environ.get("PORT", "8000")))
