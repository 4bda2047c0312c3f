"""OpenAI: chat completions, responses, embeddings, models."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.providers.provider import (
    FOUND,
    KEYS,
    Breaking,
    Broken,
    Plan,
    Vendor,
    as_json,
    event,
    plan_of,
    record,
    shaped,
    text_of,
)

MODELS = ("gpt-4o-mini", "gpt-other")


def routes(vendor: Vendor) -> list[Route]:
    """Below /v1."""

    async def serve(request: Request) -> Response:
        body = await record(vendor, request)
        if request.headers.get("authorization") != f"Bearer {KEYS['openai']}":
            return error(401, "Incorrect API key provided", "invalid_api_key")
        path = request.url.path.removeprefix("/openai/v1")
        if request.method == "GET":
            return models(path)
        if path == "/embeddings":
            return embeddings(body)
        if path == "/chat/completions":
            return await chat(body, vendor.script.pop(0) if vendor.script else None)
        return await responses(body)

    return [
        Route(f"/v1{path}", serve, methods=methods)
        for path, methods in {
            "/chat/completions": ["POST"],
            "/responses": ["POST"],
            "/embeddings": ["POST"],
            "/models": ["GET"],
            "/models/{model}": ["GET"],
        }.items()
    ]


def error(status: int, message: str, code: str | None = None) -> Response:
    """As OpenAI's."""
    headers = {"x-request-id": "req_vendor", "openai-organization": "the-operator"}
    if status == 429:
        headers |= {"retry-after": "7", "x-ratelimit-remaining-requests": "0"}
    told = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    return as_json({"error": told}, status, headers)


def models(path: str) -> Response:
    """A list, or one."""
    known = [{"id": name, "object": "model", "created": 1, "owned_by": "test"} for name in MODELS]
    name = path.removeprefix("/models").strip("/")
    if not name:
        return as_json({"object": "list", "data": known})
    one = next((model for model in known if model["id"] == name), None)
    return as_json(one) if one else error(404, "no such model", "model_not_found")


def embeddings(body: dict[str, Any]) -> Response:
    """base64 is what the SDK asks for by itself."""
    texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
    vector: Any = "AACAPwAAAEA=" if body.get("encoding_format") == "base64" else [1.0, 2.0]
    data = [{"object": "embedding", "index": index, "embedding": vector} for index, _ in enumerate(texts)]
    used = sum(plan_of(text).tokens_in for text in texts)
    usage = {"prompt_tokens": used, "total_tokens": used}
    return as_json({"object": "list", "data": data, "model": body["model"], "usage": usage})


async def chat(body: dict[str, Any], said_next: Any = None) -> Response:
    """With tools it calls the first one, unless the last message is a tool's result. `said_next`: in place of all that
    the text asks for, as JSON.
    """
    message = body["messages"][-1]
    plan = plan_of(text_of(message["content"]))
    if plan.status != 200 and said_next is None:
        return error(plan.status, f"status {plan.status}", "made_up")
    await asyncio.sleep(plan.slow)
    wanted: dict[str, Any] = body.get("response_format") or {}
    form: dict[str, Any] | None = wanted.get("json_schema")
    if form:
        plan = Plan(json.dumps(shaped(form["schema"]) if said_next is None else said_next), cached=plan.cached)
    call = tool_call(body) if body.get("tools") and message["role"] != "tool" else None
    if body.get("stream"):
        return Breaking(chat_events(body, plan, call))
    said: dict[str, Any] = {"role": "assistant", "content": plan.text if form else plan.answer, "refusal": None}
    if call:
        said = {"role": "assistant", "content": None, "refusal": None, "tool_calls": [call]}
    choice = {"index": 0, "message": said, "logprobs": None, "finish_reason": "tool_calls" if call else "stop"}
    whole = {**_chunk(body, "chat.completion"), "choices": [choice], "usage": chat_usage(plan)}
    if not plan.tells_usage:
        del whole["usage"]
    return as_json(whole)


def tool_call(body: dict[str, Any]) -> dict[str, Any]:
    """Of the first tool."""
    name = body["tools"][0]["function"]["name"]
    return {"id": "call_1", "type": "function", "function": {"name": name, "arguments": '{"city":"Paris"}'}}


def chat_usage(plan: Plan) -> dict[str, Any]:
    """As chat completions tell it."""
    return {
        "prompt_tokens": plan.tokens_in,
        "completion_tokens": plan.tokens_out,
        "total_tokens": plan.tokens_in + plan.tokens_out,
        "prompt_tokens_details": {"cached_tokens": plan.cached, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def _chunk(body: dict[str, Any], kind: str) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "object": kind, "created": 1, "model": body["model"], "system_fingerprint": "fp_1"}


async def chat_events(body: dict[str, Any], plan: Plan, call: dict[str, Any] | None) -> AsyncIterator[bytes]:
    """The usage comes in an event of its own, without choices, if it is asked for; the others say null then."""
    asks = bool((body.get("stream_options") or {}).get("include_usage"))
    extra = {"usage": None} if asks else {}

    def chunk(delta: dict[str, Any], reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return event({**_chunk(body, "chat.completion.chunk"), "choices": [choice], **extra})

    yield chunk({"role": "assistant", "content": "", "refusal": None})
    if call:
        yield chunk({"tool_calls": [{"index": 0, **call}]})
    for number, piece in enumerate([] if call else plan.pieces):
        if plan.breaks and number == 2:
            raise Broken
        yield chunk({"content": piece})
        await asyncio.sleep(plan.slow)
    yield chunk({}, "tool_calls" if call else "stop")
    if asks and plan.tells_usage:
        yield event({**_chunk(body, "chat.completion.chunk"), "choices": [], "usage": chat_usage(plan)})
    yield event("[DONE]")


async def responses(body: dict[str, Any]) -> Response:
    """The newer API."""
    given = body["input"]
    last: Any = given if isinstance(given, str) else given[-1]
    plan = plan_of(given if isinstance(given, str) else text_of(last.get("content", last.get("output", ""))))
    if plan.status != 200:
        return error(plan.status, f"status {plan.status}", "made_up")
    await asyncio.sleep(plan.slow)
    result = isinstance(last, dict) and last.get("type") == "function_call_output"
    tool = (body.get("tools") or [{}])[0].get("type")
    output = response_call(body) if tool == "function" and not result else response_text(plan, tool == "web_search")
    if body.get("stream"):
        return Breaking(response_events(body, plan, output))
    return as_json(response(body, plan, [output]))


def response_text(plan: Plan, searched: bool) -> dict[str, Any]:
    """A message."""
    notes = [{"type": "url_citation", "start_index": 0, "end_index": 3, **FOUND}] if searched else []
    part = {"type": "output_text", "text": plan.answer, "annotations": notes, "logprobs": []}
    return {"id": "msg_1", "type": "message", "status": "completed", "role": "assistant", "content": [part]}


def response_call(body: dict[str, Any]) -> dict[str, Any]:
    """A call of the first tool."""
    name, said = body["tools"][0]["name"], '{"city":"Paris"}'
    return {
        "id": "fc_1",
        "type": "function_call",
        "status": "completed",
        "call_id": "call_1",
        "name": name,
        "arguments": said,
    }


def response(body: dict[str, Any], plan: Plan, output: list[Any], status: str = "completed") -> dict[str, Any]:
    """The object that stands for all of it; it has its usage when it is complete."""
    usage = {
        "input_tokens": plan.tokens_in,
        "input_tokens_details": {"cached_tokens": plan.cached},
        "output_tokens": plan.tokens_out,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": plan.tokens_in + plan.tokens_out,
    }
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "status": status,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "model": body["model"],
        "output": output,
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": body.get("tools", []),
        "usage": usage if status == "completed" else None,
        "metadata": {},
    }


async def response_events(body: dict[str, Any], plan: Plan, output: dict[str, Any]) -> AsyncIterator[bytes]:
    """Numbered; the last one has the whole response."""
    number = -1

    def told(kind: str, **fields: Any) -> bytes:
        nonlocal number
        number += 1
        return event({"type": kind, "sequence_number": number, **fields}, kind)

    begun = response(body, plan, [], "in_progress")
    yield told("response.created", response=begun)
    yield told("response.in_progress", response=begun)
    place: dict[str, Any] = {"output_index": 0}
    if output["type"] == "function_call":
        yield told("response.output_item.added", item={**output, "arguments": "", "status": "in_progress"}, **place)
        yield told("response.function_call_arguments.delta", item_id="fc_1", delta=output["arguments"], **place)
        done: dict[str, Any] = {"arguments": output["arguments"], "name": output["name"], "item_id": "fc_1"}
        yield told("response.function_call_arguments.done", **done, **place)
    else:
        part = {**place, "item_id": "msg_1", "content_index": 0}
        empty = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        yield told("response.output_item.added", item={**output, "content": [], "status": "in_progress"}, **place)
        yield told("response.content_part.added", part=empty, **part)
        for count, piece in enumerate(plan.pieces):
            if plan.breaks and count == 2:
                raise Broken
            yield told("response.output_text.delta", delta=piece, logprobs=[], **part)
            await asyncio.sleep(plan.slow)
        for count, note in enumerate(output["content"][0]["annotations"]):
            yield told("response.output_text.annotation.added", annotation=note, annotation_index=count, **part)
        yield told("response.output_text.done", text=plan.answer, logprobs=[], **part)
        yield told("response.content_part.done", part=output["content"][0], **part)
    yield told("response.output_item.done", item=output, **place)
    yield told("response.completed", response=response(body, plan, [output]))
