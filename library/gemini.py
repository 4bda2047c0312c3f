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
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

BASE = os.environ["RUNMESH_GEMINI_BASE_URL"].rstrip("/")
CREDENTIALS = {"x-goog-api-key": os.environ["RUNMESH_GEMINI_API_KEY"]}
PLACE = re.compile(r"/v1(?:beta|alpha)?/models(?:/(?P<model>(?!\.)[\w.-]+)(?P<what>:\w+)?)?")
KINDS = dict.fromkeys((":generateContent", ":streamGenerateContent"), "generate") | {":countTokens": "free"}
KINDS |= dict.fromkeys((":embedContent", ":batchEmbedContents"), "embed")
USUAL = {"accept-encoding": "identity"}
PASSED_ON = {"accept", "user-agent", "x-goog-api-client"}
QUERY = {"alt", "pageSize", "pageToken"}
ACCOUNT = set[str]()
# Where content is, in what is asked: elsewhere nothing is an image, whatever it looks like.
WITHIN = ("requests", "contents", "content", "parts", "systemInstruction", "system_instruction")
WITHIN += ("functionResponse", "function_response", "generateContentRequest", "generate_content_request")
LIMITS = ("maxOutputTokens", "max_output_tokens", "candidateCount", "candidate_count")
TOOLS = ("codeExecution", "code_execution", "fileSearch", "file_search")
SEARCH = ("googleSearch", "google_search", "googleSearchRetrieval", "google_search_retrieval", "googleMaps")
SEARCH += ("google_maps", "urlContext", "url_context")


def place(method: str, path: str) -> tuple[str, str]:
    """The kind of call, `free` where no tokens are used, and its path below BASE. Errors: Refused."""
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
    return given[0] if given else body["generationConfig"]


def tools_of(body: dict[str, Any]) -> list[dict[str, Any]]:
    """Those that are any."""
    tools = body.get("tools") if isinstance(body.get("tools"), list) else [body.get("tools")]
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


def wanted(kind: str, body: dict[str, Any]) -> tuple[int | None, int]:
    """How many tokens each of how many answers may have; None: the caller doesn't say. Errors: Refused."""
    refused = [name for tool in tools_of(body) for name in TOOLS if name in tool]
    refused += [name for name in ("cachedContent", "cached_content") if body.get(name)]
    refused += [f"file {uri}" for part in parts(body) for uri in files(part) if not is_public(uri)]
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


def hear(spending: "Spending", said: dict[str, Any]) -> None:
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


def reply(answer: Any, *, as_object: bool) -> Any:
    """What the model says to `question`. Errors: ValueError, LookupError, TypeError."""
    parts = answer["candidates"][0]["content"]["parts"]
    text = "".join(part["text"] for part in parts if "text" in part and not part.get("thought"))
    return json.loads(text)["response"] if as_object else text


def error_of(refused: "Refused") -> dict[str, Any]:
    """As Google's."""
    kinds = {400: "INVALID_ARGUMENT", 402: "RESOURCE_EXHAUSTED", 404: "NOT_FOUND", 504: "DEADLINE_EXCEEDED"}
    status = kinds.get(refused.status, "UNAVAILABLE")
    return {"error": {"code": refused.status, "message": refused.message, "status": status}}


# ---- The rest is the same in all services of models (tests/unit/library compares) ---------------------------------

IMAGE_BYTES = 150_000  # above this an image costs no more tokens
# What the worst case has for what the vendor fetches by itself, in tokens (docs/models.md).
FETCHED = {"": 0, "image": 50_000, "file": 200_000, "search": 128_000}
DEEPEST = 100
MOST = 10**9  # executor/model_calls.py takes no more
KEPT_BACK = {"set-cookie", "connection", "keep-alive", "transfer-encoding", "content-length", "content-encoding"}
END = re.compile(rb"\r\n\r\n|\n\n|\r\r")


@dataclass(eq=False)
class Refused(Exception):
    """What the caller is told in place of the vendor's answer."""

    status: int
    code: str
    message: str


class Stream(StreamingResponse):
    """Its parts come to an end also when the caller leaves."""

    async def __call__(self, *asgi: Any) -> None:
        async with aclosing(self.body_iterator):
            await super().__call__(*asgi)


@dataclass
class Spending:
    """A call's tokens, `cached` are among `tokens_in`; `text`: bytes that came; `told`: the vendor has told of its
    input, `counted`: of all; `failed`: it has told an error; `left`: answers that haven't ended; `over`: no more comes.
    `most_in` and `most_out` were promised; `searches`, `thinks`: there may be more of it than is seen.
    """

    meter: Any
    most_in: int = 0
    tokens_in: int = 0
    searches: bool = False
    thinks: bool = False
    left: int = 1
    most_out: int = 0
    told: bool = False
    over: bool = False
    tokens_out: int = 0
    cached: int = 0
    text: int = 0
    counted: bool = False
    failed: bool = False
    call: int = 0

    async def afford(self, model: str, tokens_out: int | None) -> int:
        """How many tokens may be produced. Errors: Refused."""
        if self.meter is None:
            return 4096 if tokens_out is None else tokens_out
        answer = await self.meter.afford(model, self.most_in, tokens_out)
        if "refused" in answer:
            raise Refused(402 if answer["code"] == "payment_required" else 400, answer["code"], answer["refused"])
        self.call, self.most_out = answer["call"], answer["granted"]
        return self.most_out

    def known(self) -> tuple[int, int]:
        """Tokens in and out, as the vendor says, else by an estimate. Whoever leaves with a part of the answer before
        the vendor has counted pays what was promised for what can't be seen.
        """
        if self.counted:
            return self.tokens_in, self.tokens_out
        tokens_in, tokens_out = self.tokens_in, max(self.tokens_out, -(-self.text // 4))
        if self.text and not self.over:
            tokens_in = tokens_in if self.told and not self.searches else max(tokens_in, self.most_in)
            tokens_out = max(tokens_out, self.most_out) if self.thinks else tokens_out
        return tokens_in, tokens_out

    async def note(self) -> None:
        """What is known counts if nothing better comes."""
        if self.meter is not None:
            await self.meter.so_far(self.call, *self.known())

    async def settle(self, *, free: bool = False) -> None:
        """It is over; an error of the vendor's is `free`, unless it has produced something before."""
        if self.meter is None:
            return
        if free or (self.failed and not self.counted and not self.text):
            await self.meter.used(self.call, 0, 0)
            return
        if not self.counted:
            print("the vendor didn't say what was used: estimated {} tokens in, {} out".format(*self.known()))
        await self.meter.used(self.call, *self.known(), self.cached)


async def serve(request: Request) -> Response:
    """Whatever it is."""
    path = request.scope["raw_path"].decode("ascii", "replace")
    try:
        is_prompt = request.method == "POST" and path in {"", "/"}
        return await prompted(request) if is_prompt else await passed_on(request, path)
    except Refused as refused:
        refused.message = refused.message.encode("utf-8", "replace").decode()  # half a character of JSON's is none
        return JSONResponse(error_of(refused) | {"detail": refused.message, "code": refused.code}, refused.status)


async def passed_on(request: Request, path: str) -> Response:
    """The vendor's own API. Errors: Refused."""
    kind, path = place(request.method, path)
    query = urlencode([pair for pair in parse_qsl(request.url.query) if pair[0] in QUERY])
    path += f"?{query}" if query else ""
    raw = await request.body()
    if kind == "free":
        if raw:
            wanted(kind, body := parsed(raw, is_request=True))
            raw = encoded(body)
        answer, spending, hides = await send(request, path, raw), Spending(None), False
    else:
        answer, spending, hides = await spend(request, kind, path, parsed(raw, is_request=True))
    if answer.status_code < 300 and answer.headers.get("content-type", "").startswith("text/event-stream"):
        return Stream(streamed(answer, spending, hides), answer.status_code, kept(answer))
    return Response(await counted(answer, spending), answer.status_code, kept(answer))


async def spend(request: Request, kind: str, path: str, body: dict[str, Any]) -> tuple[httpx.Response, Spending, bool]:
    """The vendor's answer, what it spends, and whether it tells us of its use alone. Errors: Refused."""
    (most, answers), model = wanted(kind, body), model_of(path, body)
    size, fetched = weighed(body)
    most_in = -(-size // 3) + fetched
    if max(most_in, (most or 1) * answers) > MOST:
        raise Refused(400, "bad_request", f"a call may have {MOST} tokens at most, in and out")
    meter = (request.scope.get("extensions") or {}).get("runmesh.meter")
    spending = Spending(meter, most_in, -(-size // 4), searches(body), thinks(body), answers)
    granted = await spending.afford(model, None if most is None else most * answers)
    try:
        if granted < answers and most is None:
            raise Refused(402, "payment_required", "what is left doesn't pay for so many answers")
        hides = prepare(kind, body, granted // answers if most is None else None)
        # Written anew: of a name that is there twice the vendor might see another value than we did.
        raw = encoded(body)
        await spending.note()
        return await send(request, path, raw), spending, hides
    except Refused:
        await spending.settle(free=True)
        raise


async def send(request: Request, path: str, body: bytes) -> httpx.Response:
    """The vendor's answer, whose body is still to be read. Errors: Refused when there is none."""
    names = {name for name in request.headers if name in PASSED_ON or name.startswith("x-stainless-")}
    headers = USUAL | {name: request.headers[name] for name in names} | CREDENTIALS
    if body:
        headers["content-type"] = "application/json"
    deadline = request.headers.get("x-deadline")
    left = (datetime.fromisoformat(deadline) - datetime.now(UTC)).total_seconds() if deadline else 600
    timeout = httpx.Timeout(max(0.5, left - 1), connect=10)  # we can say so before the run is killed
    # Each call has a network of its own: no connection outlives it.
    client = httpx.AsyncClient(timeout=timeout, limits=httpx.Limits(max_keepalive_connections=0), trust_env=False)
    try:
        asked = client.build_request(request.method, BASE + path, headers=headers, content=body or None)
        return await client.send(asked, stream=True)
    except httpx.HTTPError as error:
        raise lost(error) from None


def lost(error: httpx.HTTPError) -> Refused:
    """The vendor can't be reached, or takes too long."""
    if isinstance(error, httpx.TimeoutException):
        return Refused(504, "timeout", "the provider of the model didn't answer in time")
    return Refused(502, "provider_unreachable", f"the provider of the model can't be reached: {type(error).__name__}")


async def counted(answer: httpx.Response, spending: Spending) -> bytes:
    """The body of an answer that comes as one. Errors: Refused."""
    try:
        content = await answer.aread()
    except httpx.HTTPError as error:
        await spending.settle(free=True)
        raise lost(error) from None
    spending.over = True
    if answer.status_code < 300:
        said = parsed(content)
        for part in said if isinstance(said, list) else [said]:
            hear(spending, part if isinstance(part, dict) else {})
    await spending.settle(free=answer.status_code >= 300)
    return content


async def streamed(answer: httpx.Response, spending: Spending, hides: bool) -> AsyncIterator[bytes]:
    """Its events, byte by byte. Where they break off, so does the caller's answer. Where the use is told after the
    end, the end waits for it: who leaves then has been counted.
    """
    ending = b""
    try:
        async for event in events(answer):
            said = parsed(b"\n".join(line[5:] for line in event.splitlines() if line.startswith(b"data:")))
            said = said if isinstance(said, dict) else {}
            hear(spending, said)
            await spending.note()
            ending += b"" if hides and said.get("choices") == [] else event
            if ending and (spending.left > 0 or spending.counted):
                yield ending
                ending = b""
        spending.over = True
        if ending:
            yield ending
    except httpx.HTTPError as error:
        spending.over = not isinstance(error, httpx.TimeoutException)
        raise
    finally:
        await answer.aclose()
        await spending.settle()


async def events(answer: httpx.Response) -> AsyncIterator[bytes]:
    """Each with its end, whichever that is."""
    waiting = b""
    async for chunk in answer.aiter_bytes():
        waiting += chunk
        while found := END.search(waiting):
            yield waiting[: found.end()]
            waiting = waiting[found.end() :]
    if waiting:
        yield waiting


async def prompted(request: Request) -> Response:
    """{"model", "prompt", "example_output"?} → {"response"}. Errors: Refused."""
    asked = parsed(await request.body(), is_request=True)
    named = all(isinstance(asked.get(name), str) and asked[name] for name in ("model", "prompt"))
    if not named or asked.keys() - {"model", "prompt", "example_output"}:
        raise Refused(400, "bad_request", 'send {"model": "…", "prompt": "…"}, and "example_output" if you like')
    example = asked.get("example_output")
    kind, path, body = question(asked["model"], asked["prompt"], example)
    answer, spending, _ = await spend(request, kind, path, body)
    content = await counted(answer, spending)
    if answer.status_code >= 300:
        return Response(content, answer.status_code, kept(answer))
    try:
        given = reply(json.loads(content), as_object=example is not None)
        answered = JSONResponse({"response": given})
    except (ValueError, LookupError, TypeError, RecursionError):
        raise Refused(502, "bad_answer", "the model gave no such answer, or it was cut off; try again") from None
    if example is not None and not fits(example, given):
        raise Refused(502, "bad_answer", "the model's answer hasn't the shape of the example; try again")
    return answered


def fits(example: Any, value: Any) -> bool:
    """Whether the value has the example's shape; null stands for anything, {} for any object, [] for any list."""
    if isinstance(example, dict) and isinstance(value, dict) and example:
        return example.keys() == value.keys() and all(fits(each, value[name]) for name, each in example.items())
    if isinstance(example, list) and isinstance(value, list) and example:
        return all(fits(example[0], each) for each in value)
    return example is None or type(value) is type(example) or (type(example) is float and type(value) is int)


def schema_of(example: Any) -> dict[str, Any]:
    """JSON schema of what has the example's shape."""
    if isinstance(example, dict) and example:
        fields = {name: schema_of(value) for name, value in example.items()}
        return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}
    if isinstance(example, list) and example:
        return {"type": "array", "items": schema_of(example[0])}
    kinds = {dict: "object", list: "array", bool: "boolean", int: "integer", float: "number", str: "string"}
    return {} if example is None else {"type": kinds[type(example)]}


def weighed(body: dict[str, Any]) -> tuple[int, int]:
    """Bytes of the request that cost tokens, and the tokens of what the vendor fetches by itself, at worst."""
    size, fetched = len(encoded(body)), FETCHED["search"] if searches(body) else 0
    for part in parts(body):
        image, named = attached(part)
        size -= max(0, len(image) - IMAGE_BYTES)
        fetched += FETCHED[named]
    return size, fetched


def parts(body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The request, and all objects where the vendor looks for content."""
    waiting: list[Any] = [body]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            yield each
            waiting += [each[name] for name in WITHIN if name in each]
        elif isinstance(each, list):
            waiting += each


def text_in(value: Any) -> int:
    """Bytes of all text in it."""
    size, waiting = 0, [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict | list):
            waiting += each.values() if isinstance(each, dict) else each
        elif isinstance(each, str):
            size += len(each.encode("utf-8", "replace"))
    return size


def encoded(body: dict[str, Any]) -> bytes:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def parsed(raw: bytes, *, is_request: bool = False) -> Any:
    """JSON, or None. Errors: Refused for a request that is no object, or nested too deeply."""
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        value = None
    if is_request and not isinstance(value, dict):
        raise Refused(400, "bad_request", "the body must be a JSON object")
    level = [value]
    for _ in range(DEEPEST if is_request else 0):
        nested = [each for each in level if isinstance(each, dict | list)]
        level = [one for each in nested for one in (each.values() if isinstance(each, dict) else each)]
    if is_request and level:
        raise Refused(400, "bad_request", f"the body is nested deeper than {DEEPEST} levels")
    return value


def positive(name: str, value: Any) -> int:
    """Errors: Refused."""
    if type(value) is not int or not 0 < value < 10**9:
        raise Refused(400, "bad_request", f"{name} must be a positive integer")
    return value


def number(value: Any) -> int:
    return value if type(value) is int and 0 <= value < 10**9 else 0


def kept(answer: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name not in KEPT_BACK | ACCOUNT}


app = Starlette(routes=[Route("/{path:path}", serve, methods=["GET", "POST", "PUT", "PATCH", "DELETE"])])

if __name__ == "__main__":
    uvicorn.run(app, host="0.0.0.0", port=int(os.environ.get("PORT", "8000")))
