"""The library's model services, in this process, against local vendors: what is rewritten, booked, refused."""

import ast
import asyncio
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from scheduler.library import text_of
from tests.fakes.services import LIBRARY, Service, leave, service
from tests.fakes.tab import FakeTab
from tests.providers.provider import KEYS, Vendor, provider

NAMES = tuple(KEYS)
# How each vendor wants a text to be asked for: path, body, and where the most tokens stand.
ASKED: dict[str, tuple[str, Any]] = {
    "openai": ("/v1/chat/completions", lambda text: {"model": "m", "messages": [{"role": "user", "content": text}]}),
    "responses": ("/responses", lambda text: {"model": "m", "input": text}),
    "anthropic": ("/v1/messages", lambda text: {"model": "m", "messages": [{"role": "user", "content": text}]}),
    "gemini": ("/v1beta/models/m:generateContent", lambda text: {"contents": [{"parts": [{"text": text}]}]}),
}
# With the tokens that the vendors on this machine count of `hello there [cached=3]`.
USED = {
    "openai": {"m:in": 10, "m:cached": 3, "m:out": 4},
    "responses": {"m:in": 10, "m:cached": 3, "m:out": 4},
    "anthropic": {"m:in": 10, "m:cached": 3, "m:out": 4},
    "gemini": {"m:in": 10, "m:cached": 3, "m:out": 7},
}
HELLO = "hello there [cached=3]"


@pytest.fixture(scope="module")
def vendor() -> Iterator[Vendor]:
    with provider() as running:
        yield running


def made(way: str, vendor: Vendor, monkeypatch: pytest.MonkeyPatch, tab: FakeTab | None = None) -> Service:
    return service("openai" if way == "responses" else way, vendor, monkeypatch, tab)


def asking(way: str, text: str, *, stream: bool = False, most: int | None = None) -> tuple[str, dict[str, Any]]:
    """A call of the vendor's own API: path, body."""
    path, body_of = ASKED[way]
    body: dict[str, Any] = body_of(text)
    if way == "gemini":
        path = "/v1beta/models/m:streamGenerateContent?alt=sse" if stream else path
        return path, body | ({"generationConfig": {"maxOutputTokens": most}} if most else {})
    names = {"openai": "max_tokens", "responses": "max_output_tokens", "anthropic": "max_tokens"}
    return path, body | ({"stream": True} if stream else {}) | ({names[way]: most} if most else {})


def granted(way: str, body: Any) -> int | None:
    """The most tokens, as the vendor was asked."""
    name = {"openai": "max_completion_tokens", "responses": "max_output_tokens", "anthropic": "max_tokens"}.get(way)
    given = body.get(name) if name else body.get("generationConfig", {}).get("maxOutputTokens")
    assert given is None or type(given) is int
    return given


def test_what_they_have_in_common_is_the_same() -> None:
    """Each file stands alone once it is deployed, and none drifts away from the others."""
    files = [LIBRARY / f"{name}.py" for name in NAMES]
    common = LIBRARY / "models" / "service.py"
    texts = [text_of(file, LIBRARY) for file in files]
    assert all(common.read_text() in text for text in texts)
    assert all("library" not in _imported(text) for text in texts)
    assert all(len(file.read_text().splitlines()) <= 400 for file in (*files, common))
    assert all(ast.get_docstring(ast.parse(text)) for text in texts)


def _imported(text: str) -> set[str]:
    """Whence it imports names."""
    return {
        node.module.partition(".")[0]
        for node in ast.parse(text).body
        if isinstance(node, ast.ImportFrom) and node.module
    }


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("way", ASKED)
async def test_tokens_are_the_vendors(way: str, stream: bool, vendor: Vendor, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = made(way, vendor, monkeypatch)
    answer = await asked.ask("POST", *asking(way, HELLO, stream=stream))
    assert answer.status_code == 200
    assert "hello" in answer.text
    assert (asked.lines, asked.tab.promised) == (USED[way], 0)
    assert granted(way, vendor.last.body) == 4096
    assert await asked.line.calls.close() == []


@pytest.mark.parametrize("way", ASKED)
async def test_the_most_tokens(way: str, vendor: Vendor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller's own stays and has to be paid; where there is none it is what is left."""
    asked = made(way, vendor, monkeypatch)
    await asked.ask("POST", *asking(way, "hello", most=50))
    path, body = asking(way, "hello", most=50)
    assert {name: vendor.last.body[name] for name in body} == body  # as it came
    (worst,) = asked.tab.asked
    poor = made(way, vendor, monkeypatch, FakeTab(credit=worst - 1))
    before = len(vendor.requests)
    refused = await poor.ask("POST", path, body)
    assert (refused.status_code, refused.json()["code"], len(vendor.requests)) == (402, "payment_required", before)
    await poor.ask("POST", *asking(way, "hello"))
    assert 1 <= (granted(way, vendor.last.body) or 0) <= worst
    assert max(poor.tab.asked[1:]) <= worst - 1
    nothing = made(way, vendor, monkeypatch, FakeTab(credit=3))
    assert (await nothing.ask("POST", *asking(way, "hello"))).status_code == 402


@pytest.mark.parametrize(
    ("way", "shape"),
    [
        ("openai", {"error": {"message": "*", "type": "payment_required", "param": None, "code": "payment_required"}}),
        ("anthropic", {"type": "error", "error": {"type": "billing_error", "message": "*"}}),
        ("gemini", {"error": {"code": 402, "message": "*", "status": "RESOURCE_EXHAUSTED"}}),
    ],
)
async def test_a_refusal_has_the_vendors_shape_and_the_platforms(
    way: str, shape: dict[str, Any], vendor: Vendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = (await made(way, vendor, monkeypatch, FakeTab(credit=0)).ask("POST", *asking(way, "hello"))).json()
    assert (told.pop("code"), bool(told.pop("detail"))) == ("payment_required", True)
    told["error"]["message"] = "*"
    assert told == shape


@pytest.mark.parametrize("way", ASKED)
async def test_a_model_without_a_price(way: str, vendor: Vendor, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = made(way, vendor, monkeypatch, FakeTab(default=None))
    before = len(vendor.requests)
    answer = await asked.ask("POST", *asking(way, "hello"))
    assert (answer.status_code, answer.json()["code"]) == (400, "unknown_price")
    assert "POST /prices" in answer.json()["error"]["message"]
    assert len(vendor.requests) == before


@pytest.mark.parametrize("status", [401, 429, 500, 529])
@pytest.mark.parametrize("way", ASKED)
async def test_a_vendors_error_costs_nothing(
    way: str, status: int, vendor: Vendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = made(way, vendor, monkeypatch)
    answer = await asked.ask("POST", *asking(way, f"[status={status}]", stream=True))
    assert answer.status_code == status
    assert "error" in answer.json()
    assert answer.headers.get("retry-after") == ("7" if status == 429 else None)
    assert "the-operator" not in str(answer.headers)
    assert (asked.lines, asked.tab.promised) == ({}, 0)
    plain = await asked.ask("POST", "/", {"model": "m", "prompt": f"[status={status}]"})
    assert (plain.status_code, asked.lines) == (status, {})


@pytest.mark.parametrize("way", ASKED)
async def test_a_stream_that_breaks_is_charged_by_what_came(
    way: str, vendor: Vendor, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = made(way, vendor, monkeypatch)
    with pytest.raises(httpx.RemoteProtocolError):
        await asked.ask("POST", *asking(way, "one two three [break]", stream=True))
    assert asked.tab.promised == 0
    assert 3 <= asked.lines["m:out"] <= 6  # of "You said: "
    assert asked.lines["m:in"] >= 7
    assert "estimated" in capsys.readouterr().out


@pytest.mark.parametrize("way", ASKED)
async def test_a_stream_that_its_caller_leaves(way: str, vendor: Vendor, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a sandbox the executor ends it, which knows then what the service has said so far."""
    asked = made(way, vendor, monkeypatch)
    path, body = asking(way, "one two three four [slow=0.05] [long=200]", stream=True)
    seen = await leave(asked, path, body, parts=6)
    assert seen.count(b"word") < 50
    said = [each for each in asked.line.said if each["op"] == "so_far"]
    assert said[0]["out"] == 0
    assert said[-1]["out"] >= 1
    assert 1 <= asked.lines["m:out"] < 50


async def test_usage_that_the_caller_didnt_ask_for_is_hidden(vendor: Vendor, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = made("openai", vendor, monkeypatch)
    path, body = asking("openai", "hello", stream=True)
    hidden = (await asked.ask("POST", path, body)).text
    assert vendor.last.body["stream_options"] == {"include_usage": True}
    assert '"choices": []' not in hidden
    assert hidden.endswith("data: [DONE]\n\n")
    wanted = (await asked.ask("POST", path, body | {"stream_options": {"include_usage": True}})).text
    assert wanted.count('"choices": []') == 1
    assert [event for event in wanted.split("\n\n") if '"choices": []' not in event] == hidden.split("\n\n")


async def test_an_answer_without_usage_is_estimated(
    vendor: Vendor, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = made("openai", vendor, monkeypatch)
    await asked.ask("POST", *asking("openai", "hello [no-usage]"))
    assert asked.lines["m:out"] >= 4
    assert "estimated" in capsys.readouterr().out


async def test_several_answers_are_several_times_as_much(vendor: Vendor, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = made("openai", vendor, monkeypatch)
    path, body = asking("openai", "hello", most=50)
    await asked.ask("POST", path, body)
    await asked.ask("POST", path, body | {"n": 3})
    assert asked.tab.asked[1] - asked.tab.asked[0] in range(100, 110)
    await asked.ask("POST", path, asking("openai", "hello")[1] | {"n": 4})
    assert vendor.last.body["max_completion_tokens"] == 1024


async def test_what_stands_there_twice_means_one_thing(vendor: Vendor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The vendor might read the first, we the last."""
    asked = made("openai", vendor, monkeypatch)
    raw = b'{"max_tokens": 90000, "model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}'
    answer = await asked.ask("POST", "/chat/completions", content=raw)
    assert (answer.status_code, vendor.last.body["max_tokens"], int(vendor.last.headers["content-length"]) < 80) == (
        200,
        1,
        True,
    )


@pytest.mark.parametrize(
    ("name", "method", "path"),
    [
        ("openai", "GET", "/v1/files"),
        ("openai", "GET", "/v1/models/../files"),
        ("openai", "GET", "/v1/models/%2e%2e/files"),
        ("openai", "DELETE", "/v1/models/m"),
        ("openai", "POST", "/v1/batches"),
        ("openai", "GET", "/v1/responses/resp_1"),
        ("openai", "GET", "/v1/chat/completions"),
        ("openai", "POST", "/v1//chat/completions"),
        ("anthropic", "POST", "/v1/messages/batches"),
        ("anthropic", "GET", "/v1/organizations/users"),
        ("gemini", "POST", "/v1beta/models/m:predictLongRunning"),
        ("gemini", "GET", "/v1beta/files"),
        ("gemini", "POST", "/v1beta/cachedContents"),
        ("gemini", "POST", "/v1beta/models/..:generateContent"),
    ],
)
async def test_of_the_operators_account_nothing_else_is_reached(
    name: str, method: str, path: str, vendor: Vendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = len(vendor.requests)
    answer = await service(name, vendor, monkeypatch).ask(method, path, {} if method == "POST" else None)
    assert (answer.status_code, len(vendor.requests)) == (404, before)
    assert "isn't offered" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("way", "more"),
    [
        ("responses", {"previous_response_id": "resp_1"}),
        ("responses", {"background": True}),
        ("responses", {"tools": [{"type": "file_search"}]}),
        ("responses", {"tools": [{"type": "shell", "environment": {"type": "container_auto"}}]}),
        ("responses", {"input": [{"type": "additional_tools", "tools": [{"type": "code_interpreter"}]}]}),
        ("responses", {"tools": [{"type": "namespace", "name": "n", "tools": [{"type": "image_generation"}]}]}),
        ("openai", {"service_tier": "priority"}),
        ("openai", {"max_tokens": "9"}),
        ("openai", {"max_tokens": -1}),
        ("openai", {"n": 1.5}),
        ("openai", {"model": None}),
        ("anthropic", {"service_tier": "priority"}),
        ("anthropic", {"tools": [{"type": "code_execution_20250522"}]}),
        ("anthropic", {"inference_geo": "us"}),
        ("anthropic", {"fallbacks": [{"model": "m"}]}),
        ("anthropic", {"max_tokens": True}),
        ("gemini", {"cachedContent": "cachedContents/x"}),
        ("gemini", {"generationConfig": {}, "generation_config": {}}),
        ("gemini", {"generationConfig": {"maxOutputTokens": "9"}}),
        ("gemini", {"tools": [{"code_execution": {}}]}),
        ("gemini", {"tools": [{"anything_new": {}}]}),
        ("gemini", {"serviceTier": "priority"}),
    ],
)
async def test_what_tokens_dont_pay_for_is_refused(
    way: str, more: dict[str, Any], vendor: Vendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = made(way, vendor, monkeypatch)
    path, body = asking(way, "hello")
    before = len(vendor.requests)
    answer = await asked.ask("POST", path, body | more)
    assert (answer.status_code, len(vendor.requests), asked.tab.asked) == (400, before, [])


@pytest.mark.parametrize("raw", [b"", b"[]", b"{", b'"x"', b"[" * 10_000])
@pytest.mark.parametrize("name", NAMES)
async def test_a_body_that_is_none(name: str, raw: bytes, vendor: Vendor, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = service(name, vendor, monkeypatch)
    for path in ("/", ASKED[name][0]):
        answer = await asked.ask("POST", path, content=raw)
        assert (answer.status_code, bool(answer.json()["detail"])) == (400, True)


@pytest.mark.parametrize("name", NAMES)
async def test_only_what_the_vendor_is_to_know_goes_on(
    name: str, vendor: Vendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = service(name, vendor, monkeypatch)
    headers = {
        "x-request-id": "run_1", "x-deadline": "2999-01-01T00:00:00.000Z", "cookie": "a=b", "x-attempt": "1",
        "codewords-caller-id": "org_1", "x-goog-api-key": "cwk-mine", "authorization": "Bearer cwk-mine",
        "x-api-key": "cwk-mine", "openai-organization": "theirs", "traceparent": "00-1", "host": "evil.example",
        "user-agent": "SDK/1", "anthropic-beta": "one,context-1m-2025-08-07", "x-goog-api-client": "two",
        "x-stainless-lang": "python",
    }  # fmt: skip
    path, body = asking(name, "hello")
    answer = await asked.ask("POST", f"{path}?key=cwk-mine&alt=json&beta=true", body, headers=headers)
    assert answer.status_code == 200, answer.text
    told = vendor.last.headers
    assert KEYS[name] in str(told)
    assert "cwk-" not in str(told) + vendor.last.query
    assert told["host"] == f"127.0.0.1:{vendor.port}"
    assert told["user-agent"] == "SDK/1"
    extra = {"openai": "x-stainless-lang", "anthropic": "anthropic-beta", "gemini": "x-goog-api-client"}[name]
    assert extra in told
    assert told.get("anthropic-beta") == ("one" if name == "anthropic" else None)  # long contexts have another price


@pytest.mark.parametrize("name", NAMES)
async def test_a_vendor_that_cant_be_reached(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = service(name, Vendor(port=1), monkeypatch)
    answer = await asked.ask("POST", *asking(name, "hello"))
    assert (answer.status_code, answer.json()["code"]) == (502, "provider_unreachable")
    assert "error" in answer.json()
    assert (asked.lines, asked.tab.promised) == ({}, 0)


@pytest.mark.parametrize("way", ASKED)
async def test_a_vendor_that_takes_longer_than_the_run_may(
    way: str, vendor: Vendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = made(way, vendor, monkeypatch)
    deadline = (datetime.now(UTC) + timedelta(seconds=1.2)).isoformat()
    began = time.monotonic()
    answer = await asked.ask("POST", *asking(way, "[slow=20]"), headers={"x-deadline": deadline})
    assert (answer.status_code, answer.json()["code"]) == (504, "timeout")
    assert time.monotonic() - began < 15
    assert (asked.lines, asked.tab.promised) == ({}, 0)


async def test_embeddings_pay_for_their_input(vendor: Vendor, monkeypatch: pytest.MonkeyPatch) -> None:
    prices = {"tokens:openai/m:in": 1, "tokens:gemini/m:in": 1}
    asked = service("openai", vendor, monkeypatch, FakeTab(prices=prices, default=None))
    answer = await asked.ask("POST", "/v1/embeddings", {"model": "m", "input": ["hello"]})
    assert (answer.status_code, asked.lines) == (200, {"m:in": 9})
    gemini = service("gemini", vendor, monkeypatch, FakeTab(prices=prices, default=None))
    body = {"requests": [{"model": "models/m", "content": {"parts": [{"text": "hello"}]}}]}
    answer = await gemini.ask("POST", "/v1beta/models/m:batchEmbedContents", body)
    assert (answer.status_code, list(gemini.lines)) == (200, ["m:in"])


async def test_an_image_isnt_counted_byte_by_byte(vendor: Vendor, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = made("openai", vendor, monkeypatch)
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 2_000_000}}
    body = {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": [image]}]}
    assert (await asked.ask("POST", "/chat/completions", body)).status_code == 200
    assert 50_000 <= asked.tab.asked[0] < 50_200


@pytest.mark.parametrize("name", NAMES)
async def test_several_at_once_dont_mix(name: str, vendor: Vendor, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = service(name, vendor, monkeypatch)
    prompts = [f"number {number} [slow=0.05]" for number in range(8)]
    answers = await asyncio.gather(*(asked.ask("POST", "/", {"model": "m", "prompt": text}) for text in prompts))
    assert [answer.json() for answer in answers] == [{"response": f"You said: number {n}"} for n in range(8)]
    assert asked.tab.promised == 0


EXAMPLES = [
    {"title": "x", "tags": ["a"], "score": 0.5, "count": 1, "ok": True},
    [{"a": "b"}],
    "text",
    3,
    {"deep": {"er": [["x"]]}},
]


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
@pytest.mark.parametrize("name", NAMES)
async def test_an_answer_in_the_shape_of_an_example(
    name: str, example: Any, vendor: Vendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = service(name, vendor, monkeypatch)
    answer = await asked.ask("POST", "/", {"model": "m", "prompt": "hello", "example_output": example})
    assert answer.status_code == 200, answer.text
    assert asked.module.fits(example, answer.json()["response"])


@pytest.mark.parametrize(
    ("example", "good", "bad"),
    [
        ({"a": 1}, [{"a": 2}], [{}, {"a": 1, "b": 2}, {"a": "1"}, {"a": True}, [], None]),
        ([1.0], [[], [1], [0.5, 2]], [["x"], {}, [True]]),
        ({"a": None, "b": {}, "c": []}, [{"a": [1], "b": {"x": 1}, "c": ["x", 1]}], [{"a": 1, "b": [], "c": []}]),
        (True, [False], [0, "true"]),
    ],
)
def test_shapes(example: Any, good: list[Any], bad: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    fits = service("openai", Vendor(), monkeypatch).module.fits
    assert [value for value in good if not fits(example, value)] == []
    assert [value for value in bad if fits(example, value)] == []


async def test_an_answer_of_another_shape_is_no_answer(vendor: Vendor, monkeypatch: pytest.MonkeyPatch) -> None:
    """A vendor that doesn't keep to the schema: its tokens are paid all the same."""
    asked = service("openai", vendor, monkeypatch)
    monkeypatch.setattr("tests.providers.openai.shaped", lambda _: {"response": {"other": 1}})
    answer = await asked.ask("POST", "/", {"model": "m", "prompt": "hello", "example_output": {"a": 1}})
    assert (answer.status_code, answer.json()["code"]) == (502, "bad_answer")
    assert asked.lines["m:out"] > 0
