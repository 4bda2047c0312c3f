# /// script
# requires-python = ">=3.11"
# dependencies = ["starlette>=0.45", "uvicorn[standard]>=0.34", "httpx>=0.28"]
# [tool.env-checker]
# env_vars = ["RUNMESH_OPENAI_API_KEY", "RUNMESH_OPENAI_BASE_URL=https://api.openai.com/v1"]
# [tool.runmesh]
# isolation = "instance"
# timeout = "10m"
# egress = []
# ///
"""OpenAI's models by the operator's key: {"model", "prompt", "example_output"?} gives {"response"}; OpenAI's own API is
under /v1 or without it. A call starts only if its worst case can be paid; tokens are charged as OpenAI counts them.
"""

import json
import os
import re
from typing import Any

import uvicorn

from library.models.service import Refused, Service, Spending, Vendor, number, object_in, positive, schema_of, text_in

KINDS = {"/chat/completions": "chat", "/responses": "responses", "/embeddings": "embeddings"}
MODELS = re.compile(r"/models(/(?!\.)[\w.:@-]+)*")
# Tools that cost tokens only: the caller's own, those that the caller runs, searches. Others have a price of their own,
# or hold what others have left in the operator's account.
TOOLS = {"function", "custom", "namespace", "mcp", "local_shell", "apply_patch", "computer", "computer_use_preview"}
SEARCHES = ("web_search", "tool_search")
STORED = ("previous_response_id", "conversation", "background", "prompt")
ITEMS = ("item_reference", "file_search_call", "code_interpreter_call", "image_generation_call")
# Models that think before they speak, unseen in a stream of chat.
THINKING = re.compile(r"(ft:)?(o\d|gpt-[5-9]|codex)")


def place(method: str, path: str) -> tuple[str, str]:
    """The kind of call, `free` where no tokens are used, and its path below the vendor's address. Errors: Refused."""
    path = path.removeprefix("/v1").rstrip("/")
    if method == "GET" and MODELS.fullmatch(path):
        return "free", path
    if method == "POST" and path in KINDS:
        return KINDS[path], path
    raise Refused(404, "not_found", f"{method} {path} isn't offered: POST {', '.join(KINDS)} and GET /models are")


def model_of(path: str, body: dict[str, Any]) -> str:
    """Errors: Refused."""
    model = body.get("model")
    if not isinstance(model, str) or not 0 < len(model) <= 200 or not model.isprintable():
        raise Refused(400, "bad_request", "model is missing")
    return model


def tools_of(body: dict[str, Any]) -> list[dict[str, Any]]:
    """Those that are any."""
    return [tool for tool in body["tools"] if isinstance(tool, dict)] if isinstance(body.get("tools"), list) else []


def priced(tool: dict[str, Any]) -> bool:
    """Whether its tokens are all that it costs; the vendor judges one without a type."""
    kind, inner = tool.get("type"), tools_of(tool)
    known = not isinstance(kind, str) or kind in TOOLS or kind.startswith(SEARCHES)
    return known and all(map(priced, inner))


def wanted(kind: str, body: dict[str, Any], parts: list[dict[str, Any]]) -> tuple[int | None, int]:
    """How many tokens each of how many answers may have; None: the caller doesn't say. Errors: Refused."""
    if kind == "embeddings":
        return 0, 1
    items = body["input"] if kind == "responses" and isinstance(body.get("input"), list) else []
    items = [item for item in items if isinstance(item, dict)]
    refused = [str(tool["type"]) for within in (body, *items) for tool in tools_of(within) if not priced(tool)]
    refused += [name for name in STORED if kind == "responses" and body.get(name)]
    refused += [name for part in parts for name in stored(part)]
    refused += ["item_reference" for item in items if not item.get("type") and not item.get("role")]
    if refused:
        raise Refused(
            400, "not_supported", f"{refused[0][:100]} isn't supported here: nothing is kept between two calls"
        )
    if body.get("service_tier") not in (None, "auto", "default", "flex"):
        raise Refused(400, "not_supported", "service_tier must be auto, default or flex")
    names = ("max_output_tokens",) if kind == "responses" else ("max_completion_tokens", "max_tokens")
    limits = [positive(name, body[name]) for name in names if body.get(name) is not None]
    answers = 1 if kind == "responses" or body.get("n") is None else positive("n", body["n"])
    return max(limits, default=None), answers


def stored(part: dict[str, Any]) -> list[str]:
    """What it names that the operator's account has: everybody's meet there."""
    file, audio = object_in(part.get("file")), object_in(part.get("audio"))
    found = ["file_id"] if part.get("file_id") or file.get("file_id") else []
    found += ["audio.id"] if audio.get("id") else []
    return found + ([part["type"]] if part.get("type") in ITEMS else [])


def attached(part: dict[str, Any]) -> tuple[str, str]:
    """The data of an image, and what is named by its address: image, file or nothing."""
    image = part.get("image_url") if part.get("type") in ("image_url", "input_image", "computer_screenshot") else None
    image = image.get("url") if isinstance(image, dict) else image
    if isinstance(image, str):
        return (image, "") if image.startswith("data:image/") else ("", "image")
    return "", "file" if part.get("file_url") else ""


def searches(body: dict[str, Any]) -> bool:
    """Whether the vendor may look for more input by itself."""
    found = [tool for tool in tools_of(body) if str(tool.get("type")).startswith(("web_search", "mcp"))]
    return bool(found) or body.get("web_search_options") is not None or "-search" in str(body.get("model"))


def thinks(body: dict[str, Any]) -> bool:
    """Whether it may produce what its stream doesn't show."""
    options = object_in(body.get("reasoning"))
    effort = body.get("reasoning_effort") or options.get("effort")
    return effort != "none" and (bool(effort) or bool(THINKING.match(str(body.get("model")).lower())))


def prepare(kind: str, body: dict[str, Any], most: int | None) -> bool:
    """Sets what the caller leaves open. Whether a stream's event without choices is for us alone."""
    if most is not None:
        body["max_output_tokens" if kind == "responses" else "max_completion_tokens"] = most
    if kind == "responses" or "store" in body:
        body["store"] = False
    options = object_in(body.get("stream_options"))
    if kind != "chat" or not body.get("stream") or options.get("include_usage"):
        return False
    body["stream_options"] = {**options, "include_usage": True}
    return True


def hear(spending: Spending, said: dict[str, Any]) -> None:
    """An answer, or an event of one."""
    spending.failed |= bool(said.get("error")) or said.get("type") in {"error", "response.failed"}
    delta = said.get("delta") if isinstance(said.get("delta"), str) else ""
    choices = [each for each in said.get("choices") or [] if isinstance(each, dict)]
    spending.left -= sum(bool(each.get("finish_reason")) for each in choices)
    parts = [part for each in choices if isinstance(part := each.get("delta") or each.get("message"), dict)]
    spending.text += text_in([delta, *({name: part[name] for name in part if name != "role"} for part in parts)])
    item = object_in(said.get("item"))
    spending.thinks |= item.get("type") == "reasoning"
    usage = (object_in(said.get("response")) or said).get("usage")
    if isinstance(usage, dict):
        details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or {}
        spending.tokens_in = number(usage.get("prompt_tokens", usage.get("input_tokens")))
        spending.tokens_out = number(usage.get("completion_tokens", usage.get("output_tokens")))
        spending.cached = number(details.get("cached_tokens"))
        spending.counted = spending.told = True


def question(model: str, prompt: str, example: Any) -> tuple[str, str, dict[str, Any]]:
    """The kind, path and body of the call that answers a prompt."""
    body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": prompt}]}
    if example is not None:
        schema = schema_of({"response": example})
        text = json.dumps(schema)  # only what is closed and typed can be strict
        strict = not any(loose in text for loose in ("{}", '{"type": "object"}', '{"type": "array"}'))
        form = {"name": "answer", "schema": schema, "strict": strict}
        body["response_format"] = {"type": "json_schema", "json_schema": form}
    return "chat", "/chat/completions", body


def reply(answer: Any, as_object: bool) -> Any:
    """What the model says to `question`. Errors: ValueError, LookupError, TypeError."""
    text = answer["choices"][0]["message"]["content"]
    return json.loads(text)["response"] if as_object else str(text)


def error_of(refused: Refused) -> dict[str, Any]:
    """As OpenAI's."""
    return {"error": {"message": refused.message, "type": refused.code, "param": None, "code": refused.code}}


VENDOR = Vendor(
    base=os.environ["RUNMESH_OPENAI_BASE_URL"].rstrip("/"),
    credentials={"authorization": f"Bearer {os.environ['RUNMESH_OPENAI_API_KEY']}"},
    usual={"accept-encoding": "identity"},
    passed_on={"accept", "user-agent", "openai-beta"},
    query={"limit", "after", "order"},
    account={"openai-organization", "openai-project", "x-request-id"},
    within=("messages", "input", "content", "output"),
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
