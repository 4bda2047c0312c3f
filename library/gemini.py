# /// script
# requires-python = ">=3.11"
# dependencies = ["starlette>=0.45", "uvicorn[standard]>=0.34", "httpx>=0.28"]
# [tool.env-checker]
# env_vars = ["RUNMESH_GEMINI_API_KEY", "RUNMESH_GEMINI_BASE_URL=https://generativelanguage.googleapis.com"]
# [tool.runmesh]
# isolation = "instance"
# timeout = "10m"
# egress = []
# ///
"""Google's Gemini models by the operator's key: {"model", "prompt", "example_output"?} gives {"response"}; the Gemini
API is under /v1beta and /v1. A call starts only if its worst case can be paid; tokens are charged as Google counts.
"""

import json
import os
import re
from typing import Any
from urllib.parse import urlsplit

import uvicorn

from library.models.service import Refused, Service, Spending, Vendor, number, object_in, positive, schema_of, text_in

PLACE = re.compile(r"/v1(?:beta|alpha)?/models(?:/(?P<model>(?!\.)[\w.-]+)(?P<what>:\w+)?)?")
KINDS = dict.fromkeys((":generateContent", ":streamGenerateContent"), "generate") | {":countTokens": "free"}
KINDS |= dict.fromkeys((":embedContent", ":batchEmbedContents"), "embed")
WITHIN: tuple[str, ...] = ("requests", "contents", "content", "parts", "systemInstruction", "system_instruction")
WITHIN += ("functionResponse", "function_response", "generateContentRequest", "generate_content_request")
LIMITS = ("maxOutputTokens", "max_output_tokens", "candidateCount", "candidate_count")
# Tools that cost tokens only: the caller's own, those that the caller runs, searches. Others have a price of their own.
TOOLS = {"functionDeclarations", "function_declarations", "computerUse", "computer_use"}
SEARCH: tuple[str, ...] = (
    "googleSearch",
    "google_search",
    "googleSearchRetrieval",
    "google_search_retrieval",
    "googleMaps",
)
SEARCH += ("google_maps", "urlContext", "url_context")


def place(method: str, path: str) -> tuple[str, str]:
    """The kind of call, `free` where no tokens are used, and its path below the vendor's address. Errors: Refused."""
    path = path.rstrip("/").replace("%3A", ":")
    found = PLACE.fullmatch(path)
    if found and method == "GET" and not found["what"]:
        return "free", path
    if found and method == "POST" and found["what"] in KINDS:
        return KINDS[found["what"]], path
    told = f"POST /v1beta/models/MODEL with {', '.join(KINDS)} and GET /v1beta/models are"
    raise Refused(404, "not_found", f"{method} {path} isn't offered: {told}")


def model_of(path: str, body: dict[str, Any]) -> str:
    """The one in its path."""
    found = PLACE.fullmatch(path.partition("?")[0])
    return found["model"] if found else ""


def options_of(body: dict[str, Any]) -> dict[str, Any]:
    """generationConfig, in either spelling. Errors: Refused."""
    given = [body[name] for name in ("generationConfig", "generation_config") if body.get(name) is not None]
    if len(given) > 1 or not all(isinstance(each, dict) for each in given):
        raise Refused(400, "bad_request", "generationConfig must be one object")
    if not given:
        body["generationConfig"] = {}
        body.pop("generation_config", None)
    return object_in(given[0] if given else body["generationConfig"])


def tools_of(body: dict[str, Any]) -> list[dict[str, Any]]:
    """Those that are any."""
    given = body.get("tools")
    tools = given if isinstance(given, list) else [given]
    return [tool for tool in tools if isinstance(tool, dict)]


def files(part: dict[str, Any]) -> list[str]:
    """Addresses."""
    given = [part[name] for name in ("fileData", "file_data") if isinstance(part.get(name), dict)]
    return [str(each[name]) for each in given for name in ("fileUri", "file_uri") if name in each]


def is_public(uri: str) -> bool:
    """Not one that somebody has left in the operator's account."""
    try:
        at = urlsplit(uri)
        host = (at.hostname or "").rstrip(".")
        return at.scheme in ("http", "https") and bool(host) and not f".{host}".endswith(".googleapis.com")
    except ValueError:
        return False


def wanted(kind: str, body: dict[str, Any], parts: list[dict[str, Any]]) -> tuple[int | None, int]:
    """How many tokens each of how many answers may have; None: the caller doesn't say. Errors: Refused."""
    refused = [name for tool in tools_of(body) for name in tool if name not in TOOLS and name not in SEARCH]
    refused += [name for name in ("cachedContent", "cached_content") if body.get(name)]
    tiers = [body[name] for name in ("serviceTier", "service_tier") if body.get(name)]
    refused += [
        f"service tier {tier}" for tier in tiers if str(tier).lower() not in ("standard", "flex", "unspecified")
    ]
    refused += [f"file {uri}" for part in parts for uri in files(part) if not is_public(uri)]
    if refused:
        raise Refused(400, "not_supported", f"{refused[0][:200]} isn't supported here")
    if kind in ("embed", "free"):
        return 0, 1
    options = options_of(body)
    given = {name: positive(name, options[name]) for name in LIMITS if options.get(name) is not None}
    limits, counts = ([given[name] for name in some if name in given] for some in (LIMITS[:2], LIMITS[2:]))
    return max(limits, default=None), max(counts, default=1)


def attached(part: dict[str, Any]) -> tuple[str, str]:
    """The data of an image, and what is named by its address: image, file or nothing."""
    given = [part[name] for name in ("inlineData", "inline_data") if isinstance(part.get(name), dict)]
    for each in given if len(given) == 1 else ():
        if str(each.get("mimeType", each.get("mime_type"))).startswith("image/") and isinstance(each.get("data"), str):
            return each["data"], ""
    return "", "file" if files(part) else ""


def searches(body: dict[str, Any]) -> bool:
    """Whether the vendor may look for more input by itself."""
    return any(name in tool for tool in tools_of(body) for name in SEARCH)


def thinks(body: dict[str, Any]) -> bool:
    """Whether it may produce what its stream doesn't show: each event counts it."""
    return False


def prepare(kind: str, body: dict[str, Any], most: int | None) -> bool:
    """Sets what the caller leaves open. Whether a stream's event without choices is for us alone."""
    if most is not None:
        options_of(body)["maxOutputTokens"] = most
    return False


def hear(spending: Spending, said: dict[str, Any]) -> None:
    """An answer, or an event of one: each tells of all use so far, the last one with why it has ended."""
    spending.failed |= bool(said.get("error"))
    candidates = [each for each in said.get("candidates") or [] if isinstance(each, dict)]
    spending.text += text_in([(each.get("content") or {}).get("parts") for each in candidates])
    usage = said.get("usageMetadata")
    if isinstance(usage, dict):
        spending.tokens_in = number(usage.get("promptTokenCount")) + number(usage.get("toolUsePromptTokenCount"))
        spending.tokens_out = number(usage.get("candidatesTokenCount")) + number(usage.get("thoughtsTokenCount"))
        spending.cached = number(usage.get("cachedContentTokenCount"))
        spending.told = True
        blocked = bool((said.get("promptFeedback") or {}).get("blockReason"))
        spending.counted = blocked or not candidates or any(each.get("finishReason") for each in candidates)


def question(model: str, prompt: str, example: Any) -> tuple[str, str, dict[str, Any]]:
    """The kind, path and body of the call that answers a prompt. Errors: Refused."""
    body: dict[str, Any] = {"contents": [{"role": "user", "parts": [{"text": prompt}]}]}
    if example is not None:
        schema = schema_of({"response": example})
        body["generationConfig"] = {"responseMimeType": "application/json", "responseJsonSchema": schema}
    kind, path = place("POST", f"/v1beta/models/{model.removeprefix('models/')}:generateContent")
    return kind, path, body


def reply(answer: Any, as_object: bool) -> Any:
    """What the model says to `question`. Errors: ValueError, LookupError, TypeError."""
    parts = answer["candidates"][0]["content"]["parts"]
    text = "".join(part["text"] for part in parts if "text" in part and not part.get("thought"))
    return json.loads(text)["response"] if as_object else text


def error_of(refused: Refused) -> dict[str, Any]:
    """As Google's."""
    kinds = {400: "INVALID_ARGUMENT", 402: "RESOURCE_EXHAUSTED", 404: "NOT_FOUND", 504: "DEADLINE_EXCEEDED"}
    status = kinds.get(refused.status, "UNAVAILABLE")
    return {"error": {"code": refused.status, "message": refused.message, "status": status}}


VENDOR = Vendor(
    base=os.environ["RUNMESH_GEMINI_BASE_URL"].rstrip("/"),
    credentials={"x-goog-api-key": os.environ["RUNMESH_GEMINI_API_KEY"]},
    usual={"accept-encoding": "identity"},
    passed_on={"accept", "user-agent", "x-goog-api-client"},
    query={"alt", "pageSize", "pageToken"},
    account=set[str](),
    within=WITHIN,
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
