"""The Gemini API: generateContent, streamGenerateContent, embeddings, countTokens, models."""

import asyncio
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

# Beside the text's own.
THOUGHTS = 3


def routes(vendor: Vendor) -> list[Route]:
    """Below /v1beta and /v1."""

    async def serve(request: Request) -> Response:
        body = await record(vendor, request)
        if request.headers.get("x-goog-api-key") != KEYS["gemini"] or "key" in request.query_params:
            return error(400, "INVALID_ARGUMENT", "API key not valid")
        model, _, what = request.url.path.partition("/models/")[2].partition(":")
        match what:
            case "":
                one = {"name": f"models/{model or 'gemini-2.0-flash'}", "version": "1", "displayName": "Test"}
                return as_json(one if model else {"models": [one]})
            case "countTokens":
                return as_json({"totalTokens": plan_of(text_of(body["contents"][-1]["parts"])).tokens_in})
            case "embedContent":
                return as_json({"embedding": {"values": [1.0, 2.0]}})
            case "batchEmbedContents":
                return as_json({"embeddings": [{"values": [1.0, 2.0]} for _ in body["requests"]]})
        return await generate(body, model, streams=what == "streamGenerateContent", query=request.url.query)

    return [Route(f"/{version}/{{path:path}}", serve, methods=["GET", "POST"]) for version in ("v1beta", "v1")]


def error(status: int, kind: str, message: str) -> Response:
    """As Google's."""
    headers = {"retry-after": "7"} if status == 429 else {}
    return as_json({"error": {"code": status, "message": message, "status": kind}}, status, headers)


async def generate(body: dict[str, Any], model: str, *, streams: bool, query: str) -> Response:
    """With tools it calls the first function, unless the last turn has a function's result."""
    parts = body["contents"][-1]["parts"]
    plan = plan_of(text_of(parts))
    if plan.status != 200:
        kinds = {429: "RESOURCE_EXHAUSTED", 500: "INTERNAL"}
        return error(plan.status, kinds.get(plan.status, "UNAVAILABLE"), f"status {plan.status}")
    await asyncio.sleep(plan.slow)
    options = body.get("generationConfig") or {}
    said: dict[str, Any] = {"text": plan.answer}
    if "responseJsonSchema" in options:
        said = {"text": str(as_json(shaped(options["responseJsonSchema"])).body, "utf-8")}
    elif any("functionDeclarations" in tool for tool in body.get("tools") or ()) and not any(
        "functionResponse" in part for part in parts
    ):
        name = body["tools"][0]["functionDeclarations"][0]["name"]
        said = {"functionCall": {"name": name, "args": {"city": "Paris"}}}
    if streams and query == "alt=sse":
        return Breaking(answers(model, plan, said, found_by(body)))
    whole = answer(model, plan, said, "STOP")
    whole["candidates"][0] |= found_by(body)
    return as_json([whole] if streams else whole)


def found_by(body: dict[str, Any]) -> dict[str, Any]:
    """What a candidate says of a search of the web."""
    searched = any("google_search" in tool or "googleSearch" in tool for tool in body.get("tools") or ())
    web = {"uri": FOUND["url"], "title": FOUND["title"]}
    return {"groundingMetadata": {"groundingChunks": [{"web": web}]}} if searched else {}


def answer(
    model: str, plan: Plan, said: dict[str, Any], reason: str | None, tokens_out: int | None = None
) -> dict[str, Any]:
    """One answer, or a part of one."""
    candidate = {"content": {"parts": [said], "role": "model"}, "index": 0}
    if reason:
        candidate["finishReason"] = reason
    out = plan.tokens_out if tokens_out is None else tokens_out
    usage = {
        "promptTokenCount": plan.tokens_in,
        "candidatesTokenCount": out,
        "totalTokenCount": plan.tokens_in + out + THOUGHTS,
        "cachedContentTokenCount": plan.cached,
        "thoughtsTokenCount": THOUGHTS,
    }
    return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": model, "responseId": "response_1"}


async def answers(model: str, plan: Plan, said: dict[str, Any], found: dict[str, Any]) -> AsyncIterator[bytes]:
    """Each tells of all that was used so far. Lines end as Google's do."""
    pieces = [{"text": piece} for piece in plan.pieces] if said.get("text") == plan.answer else [said]
    for number, piece in enumerate(pieces):
        if plan.breaks and number == 2:
            raise Broken
        is_last = number == len(pieces) - 1
        out = plan.tokens_out if is_last else number + 1
        part = answer(model, plan, piece, "STOP" if is_last else None, out)
        part["candidates"][0] |= found if is_last else {}
        yield event(part).replace(b"\n", b"\r\n")
        await asyncio.sleep(plan.slow)
