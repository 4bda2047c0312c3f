"""What the services of models have in common: written into each when that is deployed (scheduler/library.py)."""

import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, urlencode

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

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


@dataclass(frozen=True)
class Vendor:
    """What is a vendor's own. `within`: where content is, in what is asked: elsewhere nothing is an image, whatever it
    looks like. `account`: headers of answers that are the operator's business.
    """

    base: str
    credentials: dict[str, str]
    usual: dict[str, str]
    passed_on: set[str]
    query: set[str]
    account: set[str]
    within: tuple[str, ...]
    # (method, path) → the kind of call, `free` where no tokens are used, and its path below `base`. Errors: Refused.
    place: Callable[[str, str], tuple[str, str]]
    # (path, body) → the model. Errors: Refused.
    model_of: Callable[[str, dict[str, Any]], str]
    # (kind, body, the objects of its content) → how many tokens each of how many answers may have; None: the caller
    # doesn't say. Errors: Refused.
    wanted: Callable[[str, dict[str, Any], list[dict[str, Any]]], tuple[int | None, int]]
    # Of an object of content: the data of an image, and what is named by its address: image, file or nothing.
    attached: Callable[[dict[str, Any]], tuple[str, str]]
    # Whether the vendor may look for more input by itself.
    searches: Callable[[dict[str, Any]], bool]
    # Whether it may produce what its stream doesn't show.
    thinks: Callable[[dict[str, Any]], bool]
    # (kind, body, most): sets what the caller leaves open. Whether a stream's event without choices is for us alone.
    prepare: Callable[[str, dict[str, Any], int | None], bool]
    # An answer, or an event of one.
    hear: Callable[["Spending", dict[str, Any]], None]
    # (model, prompt, example) → the kind, path and body of the call that answers a prompt. Errors: Refused.
    question: Callable[[str, str, Any], tuple[str, str, dict[str, Any]]]
    # (answer, as_object) → what the model says to `question`. Errors: ValueError, LookupError, TypeError.
    reply: Callable[[Any, bool], Any]
    error_of: Callable[["Refused"], dict[str, Any]]  # as the vendor tells it
    unpriced: str = "$^"  # what is left out of headers that are passed on (a pattern): it would have another price


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


class Stream(StreamingResponse):
    """Its parts come to an end also when the caller leaves."""

    def __init__(self, parts: AsyncGenerator[bytes, None], status: int, headers: dict[str, str]) -> None:
        super().__init__(parts, status, headers)
        self._parts = parts

    async def __call__(self, *asgi: Any) -> None:
        async with aclosing(self._parts):
            await super().__call__(*asgi)


class Service:
    """A vendor's API by the operator's key, and the plain form of a prompt."""

    def __init__(self, vendor: Vendor) -> None:
        self.vendor = vendor
        methods = ["GET", "POST", "PUT", "PATCH", "DELETE"]
        self.app = Starlette(routes=[Route("/{path:path}", self.serve, methods=methods)])

    async def serve(self, request: Request) -> Response:
        """Whatever it is."""
        path = request.scope["raw_path"].decode("ascii", "replace")
        try:
            is_prompt = request.method == "POST" and path in {"", "/"}
            return await self.prompted(request) if is_prompt else await self.passed_on(request, path)
        except Refused as refused:
            refused.message = refused.message.encode("utf-8", "replace").decode()  # half a character of JSON's is none
            told = self.vendor.error_of(refused) | {"detail": refused.message, "code": refused.code}
            return JSONResponse(told, refused.status)

    async def passed_on(self, request: Request, path: str) -> Response:
        """The vendor's own API. Errors: Refused."""
        kind, path = self.vendor.place(request.method, path)
        query = urlencode([pair for pair in parse_qsl(request.url.query) if pair[0] in self.vendor.query])
        path += f"?{query}" if query else ""
        raw = await request.body()
        if kind == "free":
            if raw:
                body = parsed(raw, is_request=True)
                self.vendor.wanted(kind, body, list(self.parts(body)))
                raw = encoded(body)
            answer, spending, hides = await self.send(request, path, raw), Spending(None), False
        else:
            answer, spending, hides = await self.spend(request, kind, path, parsed(raw, is_request=True))
        if answer.status_code < 300 and answer.headers.get("content-type", "").startswith("text/event-stream"):
            return Stream(self.streamed(answer, spending, hides), answer.status_code, self.kept(answer))
        return Response(await self.counted(answer, spending), answer.status_code, self.kept(answer))

    async def spend(
        self, request: Request, kind: str, path: str, body: dict[str, Any]
    ) -> tuple[httpx.Response, Spending, bool]:
        """The vendor's answer, what it spends, and whether it tells us of its use alone. Errors: Refused."""
        most, answers = self.vendor.wanted(kind, body, list(self.parts(body)))
        model = self.vendor.model_of(path, body)
        size, fetched = self.weighed(body)
        most_in = -(-size // 3) + fetched
        if max(most_in, (most or 1) * answers) > MOST:
            raise Refused(400, "bad_request", f"a call may have {MOST} tokens at most, in and out")
        meter = (request.scope.get("extensions") or {}).get("runmesh.meter")
        spending = Spending(
            meter, most_in, -(-size // 4), self.vendor.searches(body), self.vendor.thinks(body), answers
        )
        granted = await spending.afford(model, None if most is None else most * answers)
        try:
            if granted < answers and most is None:
                raise Refused(402, "payment_required", "what is left doesn't pay for so many answers")
            hides = self.vendor.prepare(kind, body, granted // answers if most is None else None)
            # Written anew: of a name that is there twice the vendor might see another value than we did.
            raw = encoded(body)
            await spending.note()
            return await self.send(request, path, raw), spending, hides
        except Refused:
            await spending.settle(free=True)
            raise

    async def send(self, request: Request, path: str, body: bytes) -> httpx.Response:
        """The vendor's answer, whose body is still to be read. Errors: Refused when there is none."""
        given = {name: re.sub(self.vendor.unpriced, "", value) for name, value in request.headers.items()}
        names = [name for name in given if name in self.vendor.passed_on or name.startswith("x-stainless-")]
        headers = self.vendor.usual | {name: given[name] for name in names} | self.vendor.credentials
        if body:
            headers["content-type"] = "application/json"
        deadline = request.headers.get("x-deadline")
        left = (datetime.fromisoformat(deadline) - datetime.now(UTC)).total_seconds() if deadline else 600
        timeout = httpx.Timeout(max(0.5, left - 1), connect=10)  # we can say so before the run is killed
        # Each call has a network of its own: no connection outlives it.
        client = httpx.AsyncClient(timeout=timeout, limits=httpx.Limits(max_keepalive_connections=0), trust_env=False)
        try:
            asked = client.build_request(request.method, self.vendor.base + path, headers=headers, content=body or None)
            return await client.send(asked, stream=True)
        except httpx.HTTPError as error:
            raise lost(error) from None

    async def counted(self, answer: httpx.Response, spending: Spending) -> bytes:
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
                self.vendor.hear(spending, part if isinstance(part, dict) else {})
        await spending.settle(free=answer.status_code >= 300)
        return content

    async def streamed(self, answer: httpx.Response, spending: Spending, hides: bool) -> AsyncGenerator[bytes, None]:
        """Its events, byte by byte. Where they break off, so does the caller's answer. Where the use is told after the
        end, the end waits for it: who leaves then has been counted.
        """
        ending = b""
        try:
            async for event in events(answer):
                said = parsed(b"\n".join(line[5:] for line in event.splitlines() if line.startswith(b"data:")))
                said = said if isinstance(said, dict) else {}
                self.vendor.hear(spending, said)
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

    async def prompted(self, request: Request) -> Response:
        """{"model", "prompt", "example_output"?} → {"response"}. Errors: Refused."""
        asked = parsed(await request.body(), is_request=True)
        named = all(isinstance(asked.get(name), str) and asked[name] for name in ("model", "prompt"))
        if not named or asked.keys() - {"model", "prompt", "example_output"}:
            raise Refused(400, "bad_request", 'send {"model": "…", "prompt": "…"}, and "example_output" if you like')
        example = asked.get("example_output")
        kind, path, body = self.vendor.question(asked["model"], asked["prompt"], example)
        answer, spending, _ = await self.spend(request, kind, path, body)
        content = await self.counted(answer, spending)
        if answer.status_code >= 300:
            return Response(content, answer.status_code, self.kept(answer))
        try:
            given = self.vendor.reply(json.loads(content), example is not None)
            answered = JSONResponse({"response": given})
        except (ValueError, LookupError, TypeError, RecursionError):
            raise Refused(502, "bad_answer", "the model gave no such answer, or it was cut off; try again") from None
        if example is not None and not fits(example, given):
            raise Refused(502, "bad_answer", "the model's answer hasn't the shape of the example; try again")
        return answered

    def weighed(self, body: dict[str, Any]) -> tuple[int, int]:
        """Bytes of the request that cost tokens, and the tokens of what the vendor fetches by itself, at worst."""
        size, fetched = len(encoded(body)), FETCHED["search"] if self.vendor.searches(body) else 0
        for part in self.parts(body):
            image, named = self.vendor.attached(part)
            size -= max(0, len(image) - IMAGE_BYTES)
            fetched += FETCHED[named]
        return size, fetched

    def parts(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The request, and all objects where the vendor looks for content."""
        waiting: list[Any] = [body]
        while waiting:
            each = waiting.pop()
            if isinstance(each, dict):
                yield each
                waiting += [each[name] for name in self.vendor.within if name in each]
            elif isinstance(each, list):
                waiting += each

    def kept(self, answer: httpx.Response) -> dict[str, str]:
        return {name: value for name, value in answer.headers.items() if name not in KEPT_BACK | self.vendor.account}


def lost(error: httpx.HTTPError) -> Refused:
    """The vendor can't be reached, or takes too long."""
    if isinstance(error, httpx.TimeoutException):
        return Refused(504, "timeout", "the provider of the model didn't answer in time")
    return Refused(502, "provider_unreachable", f"the provider of the model can't be reached: {type(error).__name__}")


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


def object_in(value: Any) -> dict[str, Any]:
    """The value, where it is an object."""
    return value if isinstance(value, dict) else {}


def positive(name: str, value: Any) -> int:
    """Errors: Refused."""
    if type(value) is not int or not 0 < value < 10**9:
        raise Refused(400, "bad_request", f"{name} must be a positive integer")
    return value


def number(value: Any) -> int:
    return value if type(value) is int and 0 <= value < 10**9 else 0
