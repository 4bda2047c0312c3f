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
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, urlencode

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

BASE = os.environ["RUNMESH_OPENAI_BASE_URL"].rstrip("/")
CREDENTIALS = {"authorization": f"Bearer {os.environ['RUNMESH_OPENAI_API_KEY']}"}
KINDS = {"/chat/completions": "chat", "/responses": "responses", "/embeddings": "embeddings"}
MODELS = re.compile(r"/models(/(?!\.)[\w.:@-]+)*")
USUAL = {"accept-encoding": "identity"}
PASSED_ON = {"accept", "user-agent", "openai-beta"}
QUERY = {"limit", "after", "order"}
ACCOUNT = {"openai-organization", "openai-project", "x-request-id"}
# Where content is, in what is asked: elsewhere nothing is an image, whatever it looks like.
WITHIN = ("messages", "input", "content", "output")
# What has a price of its own, or what others have left in the operator's account.
TOOLS = ("file_search", "code_interpreter", "image_generation")
STORED = ("previous_response_id", "conversation", "background", "prompt")
ITEMS = ("item_reference", "file_search_call", "code_interpreter_call", "image_generation_call")
# Models that think before they speak, unseen in a stream of chat.
THINKING = re.compile(r"(ft:)?(o\d|gpt-[5-9]|codex)")


def place(method: str, path: str) -> tuple[str, str]:
    """The kind of call, `free` where no tokens are used, and its path below BASE. Errors: Refused."""
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


def wanted(kind: str, body: dict[str, Any]) -> tuple[int | None, int]:
    """How many tokens each of how many answers may have; None: the caller doesn't say. Errors: Refused."""
    if kind == "embeddings":
        return 0, 1
    refused = [tool["type"] for tool in tools_of(body) if tool.get("type") in TOOLS]
    refused += [name for name in STORED if kind == "responses" and body.get(name)]
    refused += [name for part in parts(body) for name in stored(part)]
    items = body["input"] if kind == "responses" and isinstance(body.get("input"), list) else []
    items = [item for item in items if isinstance(item, dict)]
    refused += ["item_reference" for item in items if not item.get("type") and not item.get("role")]
    if refused:
        raise Refused(400, "not_supported", f"{refused[0]} isn't supported here: nothing is kept between two calls")
    if body.get("service_tier") not in (None, "auto", "default", "flex"):
        raise Refused(400, "not_supported", "service_tier must be auto, default or flex")
    names = ("max_output_tokens",) if kind == "responses" else ("max_completion_tokens", "max_tokens")
    limits = [positive(name, body[name]) for name in names if body.get(name) is not None]
    answers = 1 if kind == "responses" or body.get("n") is None else positive("n", body["n"])
    return max(limits, default=None), answers


def stored(part: dict[str, Any]) -> list[str]:
    """What it names that the operator's account has: everybody's meet there."""
    file, audio = (part.get(name) if isinstance(part.get(name), dict) else {} for name in ("file", "audio"))
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
    options = body.get("reasoning") if isinstance(body.get("reasoning"), dict) else {}
    effort = body.get("reasoning_effort") or options.get("effort")
    return effort != "none" and (bool(effort) or bool(THINKING.match(str(body.get("model")).lower())))


def prepare(kind: str, body: dict[str, Any], most: int | None) -> bool:
    """Sets what the caller leaves open. Whether a stream's event without choices is for us alone."""
    if most is not None:
        body["max_output_tokens" if kind == "responses" else "max_completion_tokens"] = most
    if kind == "responses" or "store" in body:
        body["store"] = False
    options = body.get("stream_options") if isinstance(body.get("stream_options"), dict) else {}
    if kind != "chat" or not body.get("stream") or options.get("include_usage"):
        return False
    body["stream_options"] = {**options, "include_usage": True}
    return True


def hear(spending: "Spending", said: dict[str, Any]) -> None:
    """An answer, or an event of one."""
    spending.failed |= bool(said.get("error")) or said.get("type") in {"error", "response.failed"}
    delta = said.get("delta") if isinstance(said.get("delta"), str) else ""
    choices = [each for each in said.get("choices") or [] if isinstance(each, dict)]
    spending.left -= sum(bool(each.get("finish_reason")) for each in choices)
    parts = [part for each in choices if isinstance(part := each.get("delta") or each.get("message"), dict)]
    spending.text += text_in([delta, *({name: part[name] for name in part if name != "role"} for part in parts)])
    item = said.get("item") if isinstance(said.get("item"), dict) else {}
    spending.thinks |= item.get("type") == "reasoning"
    usage = (said.get("response") if isinstance(said.get("response"), dict) else said).get("usage")
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


def reply(answer: Any, *, as_object: bool) -> Any:
    """What the model says to `question`. Errors: ValueError, LookupError, TypeError."""
    text = answer["choices"][0]["message"]["content"]
    return json.loads(text)["response"] if as_object else str(text)


def error_of(refused: "Refused") -> dict[str, Any]:
    """As OpenAI's."""
    return {"error": {"message": refused.message, "type": refused.code, "param": None, "code": refused.code}}


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
