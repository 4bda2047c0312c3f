"""Anthropic: messages, their count of tokens, models."""

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

# Besides what `Plan.cached` says was read.
CREATED = 2


def routes(vendor: Vendor) -> list[Route]:
    """Below /v1."""

    async def serve(request: Request) -> Response:
        body = await record(vendor, request)
        if request.headers.get("x-api-key") != KEYS["anthropic"] or "authorization" in request.headers:
            return error(401, "authentication_error", "invalid x-api-key")
        if "anthropic-version" not in request.headers:
            return error(400, "invalid_request_error", "anthropic-version: header is required")
        if request.method == "GET":
            return models(request.url.path.partition("/v1/models")[2].strip("/"))
        return await (count(body) if request.url.path.endswith("/count_tokens") else messages(body))

    return [
        Route(f"/v1{path}", serve, methods=methods)
        for path, methods in {
            "/messages": ["POST"],
            "/messages/count_tokens": ["POST"],
            "/models": ["GET"],
            "/models/{model}": ["GET"],
        }.items()
    ]


def error(status: int, kind: str, message: str) -> Response:
    """As Anthropic's."""
    headers = {"request-id": "req_vendor", "anthropic-organization-id": "the-operator"}
    headers |= {"retry-after": "7", "anthropic-ratelimit-requests-remaining": "0"} if status == 429 else {}
    told = {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_vendor"}
    return as_json(told, status, headers)


def models(name: str) -> Response:
    """A page of them, or one."""
    one = {
        "type": "model",
        "id": name or "claude-3-5-haiku",
        "display_name": "Test",
        "created_at": "2025-01-01T00:00:00Z",
    }
    page = {"data": [one], "has_more": False, "first_id": one["id"], "last_id": one["id"]}
    return as_json(one if name else page)


async def count(body: dict[str, Any]) -> Response:
    """For nothing."""
    return as_json({"input_tokens": plan_of(text_of(body["messages"][-1]["content"])).tokens_in})


async def messages(body: dict[str, Any]) -> Response:
    """With tools it calls the first one, unless the last message has a tool's result."""
    content = body["messages"][-1]["content"]
    plan = plan_of(text_of(content))
    if "max_tokens" not in body:
        return error(400, "invalid_request_error", "max_tokens: field required")
    if plan.status != 200:
        kinds = {429: "rate_limit_error", 529: "overloaded_error"}
        return error(plan.status, kinds.get(plan.status, "api_error"), f"status {plan.status}")
    await asyncio.sleep(plan.slow)
    result = isinstance(content, list) and any(part.get("type") == "tool_result" for part in content)
    block: dict[str, Any] = {"type": "text", "text": plan.answer, "citations": None}
    tool = (body.get("tools") or [{}])[0]
    if str(tool.get("type")).startswith("web_search_"):
        block["citations"] = [
            {"type": "web_search_result_location", "cited_text": "You", "encrypted_index": "x", **FOUND}
        ]
    elif tool and not result:
        block = {"type": "tool_use", "id": "toolu_1", "name": tool["name"], "input": shaped(tool["input_schema"])}
    if body.get("stream"):
        return Breaking(message_events(body, plan, block))
    return as_json(message(body, plan, [block], plan.tokens_out))


def usage(plan: Plan, tokens_out: int) -> dict[str, Any]:
    """What was read from the cache or put into it is no part of `input_tokens`."""
    return {
        "input_tokens": plan.tokens_in - plan.cached - CREATED,
        "cache_read_input_tokens": plan.cached,
        "cache_creation_input_tokens": CREATED,
        "output_tokens": tokens_out,
        "service_tier": "standard",
    }


def message(body: dict[str, Any], plan: Plan, content: list[Any], tokens_out: int) -> dict[str, Any]:
    """All of it."""
    reason = None if not content else "tool_use" if content[0]["type"] == "tool_use" else "end_turn"
    whole: dict[str, Any] = {"id": "msg_1", "type": "message", "role": "assistant", "model": body["model"]}
    return {
        **whole,
        "content": content,
        "stop_reason": reason,
        "stop_sequence": None,
        "usage": usage(plan, tokens_out),
    }


async def message_events(body: dict[str, Any], plan: Plan, block: dict[str, Any]) -> AsyncIterator[bytes]:
    """The start tells of the input, the end of the output."""

    def told(kind: str, **fields: Any) -> bytes:
        return event({"type": kind, **fields}, kind)

    yield told("message_start", message=message(body, plan, [], 1))
    empty = {"text": {"type": "text", "text": ""}, "tool_use": {**block, "input": {}}}[block["type"]]
    yield told("content_block_start", index=0, content_block=empty)
    yield told("ping")
    if block["type"] == "tool_use":
        delta = {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}
        yield told("content_block_delta", index=0, delta=delta)
    for number, piece in enumerate(plan.pieces if block["type"] == "text" else []):
        if plan.breaks and number == 2:
            raise Broken
        yield told("content_block_delta", index=0, delta={"type": "text_delta", "text": piece})
        await asyncio.sleep(plan.slow)
    for citation in block.get("citations") or ():
        yield told("content_block_delta", index=0, delta={"type": "citations_delta", "citation": citation})
    yield told("content_block_stop", index=0)
    reason = "end_turn" if block["type"] == "text" else "tool_use"
    end = {"stop_reason": reason, "stop_sequence": None}
    yield told("message_delta", delta=end, usage={"output_tokens": plan.tokens_out})
    yield told("message_stop")
