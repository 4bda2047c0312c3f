# /// script
# requires-python = ">=3.11"
# dependencies = ["starlette>=0.45", "uvicorn[standard]>=0.34", "httpx>=0.28"]
# [tool.env-checker]
# env_vars = ["RUNMESH_ANTHROPIC_API_KEY", "RUNMESH_ANTHROPIC_BASE_URL=https://api.anthropic.com"]
# [tool.runmesh]
# isolation = "instance"
# timeout = "10m"
# egress = []
# ///
"""Anthropic's models by the operator's key: {"model", "prompt", "example_output"?} gives {"response"}; Anthropic's own
API is under /v1. A call starts only if its worst case can be paid; tokens are charged as Anthropic counts them.
"""

import os
import re
from typing import Any

import uvicorn

from library.models.service import Refused, Service, Spending, Vendor, number, object_in, positive, schema_of, text_in

FREE = re.compile(r"GET /models(/(?!\.)[\w.:@-]+)?|POST /messages/count_tokens")
# Tools that cost tokens only: the caller's own, those that the caller runs, searches. Others have a price of their own.
TOOLS = ("custom", "bash_", "text_editor_", "computer_", "memory_", "web_search_", "web_fetch_", "tool_search_")
OTHERWISE_PRICED = ("container", "speed", "inference_geo", "fallbacks")


def place(method: str, path: str) -> tuple[str, str]:
    """The kind of call, `free` where no tokens are used, and its path below the vendor's address. Errors: Refused."""
    path = path.removeprefix("/v1").rstrip("/")
    if FREE.fullmatch(f"{method} {path}"):
        return "free", f"/v1{path}"
    if (method, path) == ("POST", "/messages"):
        return "messages", "/v1/messages"
    told = "POST /v1/messages, /v1/messages/count_tokens and GET /v1/models are"
    raise Refused(404, "not_found_error", f"{method} {path} isn't offered: {told}")


def model_of(path: str, body: dict[str, Any]) -> str:
    """Errors: Refused."""
    model = body.get("model")
    if not isinstance(model, str) or not 0 < len(model) <= 200 or not model.isprintable():
        raise Refused(400, "invalid_request_error", "model: it is missing")
    return model


def tools_of(body: dict[str, Any]) -> list[dict[str, Any]]:
    """Those that are any."""
    return [tool for tool in body["tools"] if isinstance(tool, dict)] if isinstance(body.get("tools"), list) else []


def wanted(kind: str, body: dict[str, Any], parts: list[dict[str, Any]]) -> tuple[int | None, int]:
    """How many tokens each of how many answers may have; None: the caller doesn't say. Errors: Refused."""
    refused = [str(tool["type"]) for tool in tools_of(body) if not str(tool.get("type", "custom")).startswith(TOOLS)]
    refused += [name for name in OTHERWISE_PRICED if body.get(name)]
    # Sources that others have left in the operator's account.
    refused += ["file_id" for part in parts if part.get("type") == "file" or part.get("file_id")]
    if refused:
        raise Refused(400, "not_supported", f"{refused[0][:100]} isn't supported here")
    if body.get("service_tier") not in (None, "auto", "standard_only"):
        raise Refused(400, "not_supported", "service_tier must be auto or standard_only")
    return None if body.get("max_tokens") is None else positive("max_tokens", body["max_tokens"]), 1


def attached(part: dict[str, Any]) -> tuple[str, str]:
    """The data of an image, and what is named by its address: image, file or nothing."""
    source = object_in(part.get("source"))
    if source.get("type") == "url":
        return "", "image" if part.get("type") == "image" else "file"
    is_image = part.get("type") == "image" and source.get("type") == "base64" and isinstance(source.get("data"), str)
    return source["data"] if is_image else "", ""


def searches(body: dict[str, Any]) -> bool:
    """Whether the vendor may look for more input by itself."""
    found = [tool for tool in tools_of(body) if str(tool.get("type")).startswith(("web_search", "web_fetch", "mcp"))]
    return bool(found or body.get("mcp_servers"))


def thinks(body: dict[str, Any]) -> bool:
    """Whether it may produce what its stream doesn't show."""
    thinking = body.get("thinking")
    return isinstance(thinking, dict) and thinking.get("type") != "disabled"


def prepare(kind: str, body: dict[str, Any], most: int | None) -> bool:
    """Sets what the caller leaves open. Whether a stream's event without choices is for us alone."""
    if most is not None:
        body["max_tokens"] = most
    return False


def hear(spending: Spending, said: dict[str, Any]) -> None:
    """An answer, or an event of one: a message's start tells of the input, each of its deltas of all output so far."""
    spending.failed |= said.get("type") == "error"
    if said.get("type") == "content_block_delta" and isinstance(said.get("delta"), dict):
        spending.text += text_in({name: each for name, each in said["delta"].items() if name != "type"})
    spending.text += text_in(said.get("content") if said.get("type") == "message" else None)
    usage = (object_in(said.get("message")) or said).get("usage")
    if not isinstance(usage, dict):
        return
    if "input_tokens" in usage:
        read, made = number(usage.get("cache_read_input_tokens")), number(usage.get("cache_creation_input_tokens"))
        spending.tokens_in, spending.cached = number(usage["input_tokens"]) + read + made, read
        spending.told = True
    spending.tokens_out = number(usage.get("output_tokens"))
    spending.counted = said.get("type") != "message_start"


def question(model: str, prompt: str, example: Any) -> tuple[str, str, dict[str, Any]]:
    """The kind, path and body of the call that answers a prompt."""
    body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": prompt}]}
    if example is not None:
        schema = schema_of({"response": example})
        body["tools"] = [{"name": "answer", "description": "Gives the answer.", "input_schema": schema}]
        body["tool_choice"] = {"type": "tool", "name": "answer"}
    return "messages", "/v1/messages", body


def reply(answer: Any, as_object: bool) -> Any:
    """What the model says to `question`. Errors: ValueError, LookupError, TypeError."""
    if as_object:
        given = [part["input"] for part in answer["content"] if part["type"] == "tool_use"]
        return given[0]["response"]
    return "".join(part["text"] for part in answer["content"] if part["type"] == "text")


def error_of(refused: Refused) -> dict[str, Any]:
    """As Anthropic's."""
    kinds = {400: "invalid_request_error", 402: "billing_error", 404: "not_found_error", 504: "timeout_error"}
    return {"type": "error", "error": {"type": kinds.get(refused.status, "api_error"), "message": refused.message}}


VENDOR = Vendor(
    base=os.environ["RUNMESH_ANTHROPIC_BASE_URL"].rstrip("/"),
    credentials={"x-api-key": os.environ["RUNMESH_ANTHROPIC_API_KEY"]},
    usual={"accept-encoding": "identity", "anthropic-version": "2023-06-01"},
    passed_on={"accept", "user-agent", "anthropic-version", "anthropic-beta"},
    unpriced=r",?\s*context-1m[\w-]*",
    query={"limit", "after_id", "before_id", "beta"},
    account={"anthropic-organization-id", "x-request-id"},
    within=("messages", "content", "system", "source"),
    place=place,
    model_of=model_of,
    wanted=wanted,
    attached=attached,
    searches=searches,
    thinks=thinks,
    prepare=prepare,
    hear=hear,
    question=question,
    reply=reply,
    error_of=error_of,
)
service = Service(VENDOR)
app = service.app

if __name__ == "__main__":
    uvicorn.run(app, host="0.0.0.0", port=int(os.environ.get("PORT", "8000")))
