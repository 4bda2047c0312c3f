"""The library's model services: what they promise before a call, and whom they charge what when a caller leaves."""

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fakes.services import Service, leave, service
from tests.fakes.tab import FakeTab
from tests.providers.provider import KEYS, Vendor, provider

CHAT, MESSAGES, GEMINI = "/v1/chat/completions", "/v1/messages", "/v1beta/models/m:generateContent"
IMAGE, FILE, SEARCH = 50_000, 200_000, 128_000
INPUT_ONLY = {f"tokens:{name}/m:{which}": int(which == "in") * 1_000_000 for name in KEYS for which in ("in", "out")}


@pytest.fixture(scope="module")
def vendor() -> Iterator[Vendor]:
    with provider() as running:
        yield running


def chat(*content: Any, **more: Any) -> dict[str, Any]:
    return {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": list(content)}], **more}


def contents(*parts: Any, **more: Any) -> dict[str, Any]:
    return {"contents": [{"parts": list(parts)}], **more}


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


def responses(*items: Any, **more: Any) -> dict[str, Any]:
    return {"model": "m", "input": list(items), **more}


def asking(name: str, value: str) -> tuple[str, dict[str, Any]]:
    """A body whose last field is the text."""
    if name == "gemini":
        return GEMINI, contents({"text": value})
    return {"openai": CHAT, "anthropic": MESSAGES}[name], chat(text(value))


async def promised(name: str, path: str, body: Any, vendor: Vendor, monkeypatch: pytest.MonkeyPatch) -> int:
    """Tokens in."""
    asked = service(name, vendor, monkeypatch, FakeTab(prices=INPUT_ONLY, default=None))
    answer = await asked.ask("POST", path, body)
    assert asked.tab.asked, answer.text
    return asked.tab.asked[0]


@pytest.mark.parametrize("name", KEYS)
async def test_bytes_are_counted_not_characters(name: str, vendor: Vendor, monkeypatch: pytest.MonkeyPatch) -> None:
    few = await promised(name, *asking(name, ""), vendor, monkeypatch)
    for one, size in (("a", 1), ("é", 2), ("語", 3), ("🙂", 4), ('"', 2)):
        more = await promised(name, *asking(name, one * 3000), vendor, monkeypatch)
        assert more - few == pytest.approx(1000 * size, abs=1)


LONG = "A" * 1_500_000
DATA = f"data:image/png;base64,{LONG}"
IMAGES: list[tuple[str, str, Any]] = [
    ("openai", CHAT, chat({"type": "image_url", "image_url": {"url": DATA}}, text("x"))),
    ("openai", CHAT, chat({"type": "image_url", "image_url": DATA}, text("x"))),
    ("openai", "/responses", responses({"role": "user", "content": [{"type": "input_image", "image_url": DATA}]})),
    ("anthropic", MESSAGES, chat({"type": "image", "source": {"type": "base64", "data": LONG}}, text("x"))),
    ("gemini", GEMINI, contents({"inlineData": {"mimeType": "image/png", "data": LONG}}, {"text": "x"})),
    ("gemini", GEMINI, contents({"inline_data": {"mime_type": "image/png", "data": LONG}}, {"text": "x"})),
]
NO_IMAGES: list[tuple[str, str, Any]] = [
    ("openai", CHAT, chat({"type": "text", "text": "x", "url": LONG})),
    ("openai", CHAT, chat({"type": "image_url", "image_url": {"url": "https://a.example/" + LONG}}, text("x"))),
    ("openai", CHAT, chat(text("x"), tools=[{"type": "function", "function": {"name": "f", "url": DATA}}])),
    ("openai", CHAT, chat(text("x"), metadata={"type": "input_image", "image_url": DATA})),
    ("anthropic", MESSAGES, chat({"type": "text", "text": "x", "data": LONG})),
    ("anthropic", MESSAGES, chat({"type": "document", "source": {"type": "base64", "data": LONG}}, text("x"))),
    ("anthropic", MESSAGES, chat({"type": "document", "source": {"type": "text", "data": LONG}}, text("x"))),
    (
        "anthropic",
        MESSAGES,
        chat({"type": "tool_use", "input": {"type": "image", "source": {"type": "base64", "data": LONG}}}, text("x")),
    ),
    ("gemini", GEMINI, contents({"inlineData": {"mimeType": "text/plain", "data": LONG}}, {"text": "x"})),
    ("gemini", GEMINI, contents({"functionCall": {"args": {"inlineData": {"mimeType": "image/png", "data": LONG}}}})),
]


@pytest.mark.parametrize(("name", "path", "body"), IMAGES)
async def test_an_image_has_a_bound(
    name: str, path: str, body: Any, vendor: Vendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert IMAGE <= await promised(name, path, body, vendor, monkeypatch) < IMAGE + 200


@pytest.mark.parametrize(("name", "path", "body"), NO_IMAGES)
async def test_what_only_looks_like_an_image_has_none(
    name: str, path: str, body: Any, vendor: Vendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await promised(name, path, body, vendor, monkeypatch) >= len(LONG) // 3


AT = "https://a.example/x"
FETCHED: list[tuple[str, str, Any, int]] = [
    ("openai", CHAT, chat({"type": "image_url", "image_url": {"url": AT}}, text("x")), IMAGE),
    ("openai", CHAT, chat(*[{"type": "image_url", "image_url": {"url": AT}}] * 3), 3 * IMAGE),
    ("openai", "/responses", responses({"role": "user", "content": [{"type": "input_file", "file_url": AT}]}), FILE),
    ("openai", "/responses", {"model": "m", "input": "x", "tools": [{"type": "web_search"}]}, SEARCH),
    (
        "openai",
        "/responses",
        {"model": "m", "input": "x", "tools": [{"type": "web_search_preview_2025_03_11"}]},
        SEARCH,
    ),
    ("openai", CHAT, chat(text("x"), web_search_options={}), SEARCH),
    ("anthropic", MESSAGES, chat({"type": "image", "source": {"type": "url", "url": AT}}, text("x")), IMAGE),
    ("anthropic", MESSAGES, chat({"type": "document", "source": {"type": "url", "url": AT}}, text("x")), FILE),
    ("anthropic", MESSAGES, chat(text("x"), tools=[{"type": "web_search_20250305", "name": "w"}]), SEARCH),
    ("gemini", GEMINI, contents({"fileData": {"fileUri": AT}}, {"text": "x"}), FILE),
    ("gemini", GEMINI, contents({"text": "x"}, tools=[{"google_search": {}}]), SEARCH),
    ("gemini", GEMINI, contents({"text": "x"}, tools=[{"urlContext": {}}]), SEARCH),
]


@pytest.mark.parametrize(("name", "path", "body", "more"), FETCHED)
async def test_what_the_vendor_fetches_has_a_worst_case(
    name: str, path: str, body: Any, more: int, vendor: Vendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert more <= await promised(name, path, body, vendor, monkeypatch) < more + 200


# ── What others have left in the operator's account.


STORED: list[tuple[str, str, Any]] = [
    ("openai", "/responses", responses({"type": "item_reference", "id": "msg_1"})),
    ("openai", "/responses", responses({"id": "msg_1"})),
    ("openai", "/responses", responses({"type": None, "id": "msg_1"})),
    ("openai", "/responses", responses({"type": "image_generation_call", "id": "ig_1"})),
    ("openai", "/responses", {"model": "m", "prompt": {"id": "pmpt_1"}}),
    ("openai", "/responses", responses({"role": "user", "content": [{"type": "input_file", "file_id": "file-1"}]})),
    ("openai", "/responses", responses({"role": "user", "content": [{"type": "input_image", "file_id": "file-1"}]})),
    (
        "openai",
        "/responses",
        responses(
            {"type": "function_call_output", "call_id": "1", "output": [{"type": "input_image", "file_id": "f"}]}
        ),
    ),
    ("openai", CHAT, chat({"type": "file", "file": {"file_id": "file-1"}})),
    ("openai", CHAT, {"model": "m", "messages": [{"role": "assistant", "audio": {"id": "audio_1"}}]}),
    ("anthropic", MESSAGES, chat({"type": "document", "source": {"type": "file", "file_id": "file_1"}})),
    ("anthropic", MESSAGES, chat({"type": "image", "source": {"type": "file"}})),
    ("anthropic", MESSAGES, chat({"type": "container_upload", "file_id": "file_1"})),
    (
        "anthropic",
        MESSAGES,
        chat({"type": "tool_result", "content": [{"type": "image", "source": {"type": "file", "file_id": "f"}}]}),
    ),
    ("anthropic", MESSAGES + "/count_tokens", chat({"type": "document", "source": {"type": "file"}})),
    ("gemini", "/v1/models/m:countTokens", {"generateContentRequest": contents({"fileData": {"fileUri": "files/x"}})}),
    *(
        ("gemini", GEMINI, contents({key: {uri: at}}))
        for key, uri in (("fileData", "fileUri"), ("file_data", "file_uri"))
        for at in ("https://generativelanguage.googleapis.com/v1beta/files/x", "files/x", "gs://bucket/x", "", "http:")
    ),
]


@pytest.mark.parametrize(("name", "path", "body"), STORED)
async def test_what_the_account_keeps_is_refused(
    name: str, path: str, body: Any, vendor: Vendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, asked = len(vendor.requests), service(name, vendor, monkeypatch)
    answer = await asked.ask("POST", path, body)
    assert (answer.status_code, answer.json()["code"]) == (400, "not_supported")
    assert (len(vendor.requests), asked.tab.asked) == (before, [])


async def test_nothing_is_stored_there(vendor: Vendor, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = service("openai", vendor, monkeypatch)
    for more in ({}, {"store": True}, {"store": None}):
        assert (await asked.ask("POST", "/responses", {"model": "m", "input": "x", **more})).status_code == 200
        assert vendor.last.body["store"] is False
    await asked.ask("POST", CHAT, chat(text("x"), store=True))
    assert vendor.last.body["store"] is False
    await asked.ask("POST", CHAT, chat(text("x")))
    assert "store" not in vendor.last.body  # false by itself; servers of one's own may not know it
    tool = {"type": "function", "name": "f", "parameters": {"properties": {"file_id": {"type": "string"}}}}
    assert (await asked.ask("POST", "/responses", {"model": "m", "input": "x", "tools": [tool]})).status_code == 200


# ── A caller that leaves.


async def left(asked: Service, path: str, body: Any, until: bytes) -> tuple[int, int]:
    """Tokens in and out that the executor knows of, were the process killed at once."""
    seen = await leave(asked, path, body, parts=10_000, until=until)
    assert until in seen
    said = [each for each in asked.line.said if each["op"] == "so_far"]
    return said[-1]["in"], said[-1]["out"]


def worst(asked: Service) -> tuple[int, int]:
    """Tokens in and out that were promised."""
    (said,) = [each for each in asked.line.said if each["op"] == "afford"]
    return said["tokens_in"], said["tokens_out"] or 4096


STREAMED: dict[str, tuple[str, str, Any]] = {
    "chat": ("openai", CHAT, lambda value: chat(text(value), stream=True)),
    "responses": ("openai", "/responses", lambda value: {"model": "m", "input": value, "stream": True}),
    "anthropic": ("anthropic", MESSAGES, lambda value: chat(text(value), stream=True)),
    "gemini": ("gemini", "/v1beta/models/m:streamGenerateContent?alt=sse", lambda value: contents({"text": value})),
}
WORDS = "[slow=0.02] [long=30]"


async def test_the_end_of_a_chat_isnt_told_before_it_is_counted(
    vendor: Vendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who reads to the last event and goes pays what the vendor has counted, at once."""
    asked = service("openai", vendor, monkeypatch)
    found = await left(asked, CHAT, STREAMED["chat"][2]("[long=30] [cached=3]"), b'"finish_reason": "stop"')
    assert found == (10 + 1 - 1, 30)


async def test_several_answers_end_with_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others go on meanwhile."""
    asked = service("openai", Vendor(), monkeypatch)
    spending = asked.module.Spending(None, left=2)
    ends = [
        b'data: {"choices": [{"finish_reason": "stop"}]}\n\n',
        b'data: {"choices": [{"finish_reason": "length"}]}\n\n',
    ]
    usage = b'data: {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 6}}\n\n'
    answer = httpx.Response(200, content=b"".join([*ends, usage, b"data: [DONE]\n\n"]))
    parts = [part async for part in asked.module.service.streamed(answer, spending, True)]
    assert parts == [ends[0], ends[1], b"data: [DONE]\n\n"]
    assert spending.known() == (5, 6)


@pytest.mark.parametrize("way", ["chat", "responses"])
async def test_who_leaves_before_it_was_counted_pays_the_input_that_was_promised(
    way: str, vendor: Vendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, path, body = STREAMED[way]
    asked = service(name, vendor, monkeypatch)
    tokens_in, tokens_out = await left(asked, path, body(WORDS), b"word")
    assert tokens_in == worst(asked)[0]
    assert 1 <= tokens_out < 30
    assert asked.lines["m:in"] == tokens_in


@pytest.mark.parametrize("way", ["anthropic", "gemini"])
async def test_input_that_the_vendor_has_told_is_charged_as_told(
    way: str, vendor: Vendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, path, body = STREAMED[way]
    asked = service(name, vendor, monkeypatch)
    tokens_in, tokens_out = await left(asked, path, body(WORDS), b"word")
    assert tokens_in in {7, 8}
    assert 1 <= tokens_out < 30


async def test_input_that_may_grow_isnt_told_before_the_end(vendor: Vendor, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = service("anthropic", vendor, monkeypatch)
    tools = [{"type": "web_search_20250305", "name": "w"}]
    tokens_in, _ = await left(asked, MESSAGES, chat(text(WORDS), stream=True, tools=tools), b"word")
    assert tokens_in == worst(asked)[0] > SEARCH


THINKING: list[tuple[str, dict[str, Any]]] = [
    ("chat", {"model": "o4-mini"}),
    ("chat", {"model": "GPT-5.1-2025-11-13"}),
    ("chat", {"reasoning_effort": "low"}),
    ("responses", {"reasoning": {"effort": "low"}}),
    ("anthropic", {"thinking": {"type": "enabled", "budget_tokens": 1024}}),
]


@pytest.mark.parametrize(("way", "more"), THINKING)
async def test_thoughts_that_nobody_sees_are_charged_as_promised(
    way: str, more: dict[str, Any], vendor: Vendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, path, body = STREAMED[way]
    limit = {"max_output_tokens": 900} if way == "responses" else {"max_tokens": 900}
    asked = service(name, vendor, monkeypatch)
    _, tokens_out = await left(asked, path, body(WORDS) | limit | more, b"word")
    assert tokens_out == 900
    whole = service(name, vendor, monkeypatch)
    await whole.ask("POST", path, body("[long=30]") | limit | more)
    assert list(whole.tab.lines.values())[-1] == 30


async def test_thoughts_that_a_response_mentions(monkeypatch: pytest.MonkeyPatch) -> None:
    module = service("openai", Vendor(), monkeypatch).module
    spending = module.Spending(None, most_in=50, tokens_in=40, most_out=900)
    module.hear(spending, {"type": "response.output_item.added", "item": {"type": "reasoning"}})
    assert spending.known() == (40, 0)  # who leaves now has got nothing
    module.hear(spending, {"type": "response.output_text.delta", "delta": "four"})
    assert spending.known() == (50, 900)
    spending.over = True  # it was the vendor who broke off
    assert spending.known() == (40, 1)


@pytest.mark.parametrize(
    ("error", "known"), [(httpx.RemoteProtocolError("cut"), (40, 1)), (httpx.ReadTimeout("late"), (50, 900))]
)
async def test_a_vendor_that_breaks_off_isnt_a_caller_that_leaves(
    error: httpx.HTTPError, known: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """But how long the vendor has is for the caller to say."""
    module = service("openai", Vendor(), monkeypatch).module
    spending = module.Spending(None, most_in=50, tokens_in=40, most_out=900, thinks=True)

    async def stream() -> AsyncIterator[bytes]:
        yield b'data: {"choices": [{"delta": {"content": "four"}}]}\n\n'
        raise error

    with pytest.raises(type(error)):
        _ = [part async for part in module.service.streamed(httpx.Response(200, content=stream()), spending, True)]
    assert spending.known() == known


# ── Whatever is sent.


BAD: list[tuple[str, str, Any]] = [
    ("openai", "/responses", {"model": "m", "input": "x", "tools": [{"type": []}]}),
    ("openai", CHAT, chat(text("x"), service_tier=[])),
    ("openai", CHAT, chat(text("x"), max_tokens=999_999_999, n=2)),
    ("openai", CHAT, chat(text("x"), max_tokens=2, n=999_999_999)),
    ("openai", CHAT, chat(*[{"type": "image_url", "image_url": "x"}] * 20_001)),
    ("openai", CHAT, chat(text("x"), model="\ud800")),
    ("anthropic", MESSAGES, chat(text("x"), service_tier={})),
    ("anthropic", MESSAGES, chat(text("x"), model="\udfff")),
    ("gemini", GEMINI, contents({"text": "x"}, generationConfig={"maxOutputTokens": 999_999_999, "candidateCount": 2})),
    ("gemini", "/", {"model": "\ud800", "prompt": "x"}),
    ("gemini", GEMINI, contents({"text": "x"}, generationConfig=None)),
    ("gemini", GEMINI, contents({"text": "x"}, generation_config=None)),
]


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> dict[str, Service]:
    """The services, before vendors that refuse all."""
    found = {name: service(name, Vendor(), monkeypatch) for name in KEYS}

    async def send(request: Any, path: str, body: bytes) -> httpx.Response:
        json.loads(body)
        return httpx.Response(418, json={"error": {}})

    for each in found.values():
        monkeypatch.setattr(each.module.service, "send", send)
    return found


async def sent(asked: Service, path: str, body: Any) -> httpx.Response:
    """An answer that is the vendor's, or a refusal in its shape; nothing is left open."""
    answer = await asked.ask("POST", path, content=json.dumps(body).encode())
    assert answer.status_code in {400, 402, 404, 418}
    assert "error" in answer.json()
    assert (asked.tab.promised, asked.tab.lines) == (0, {})
    return answer


@pytest.mark.parametrize(("name", "path", "body"), BAD)
async def test_bad_values_are_refused(name: str, path: str, body: Any, quiet: dict[str, Service]) -> None:
    answer = await sent(quiet[name], path, body)
    passed_on = "tools" in body or body.get("generationConfig", body.get("generation_config", 0)) is None
    assert answer.status_code in ({418} if passed_on else {400, 404})  # what the vendor knows better


@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize("deep", [90, 150, 450, 900, 960, 980, 990, 5000])
async def test_deep_nesting_is_refused(name: str, deep: int, quiet: dict[str, Service]) -> None:
    for field in ("messages", "contents", "example_output"):
        raw = f'{{"model": "m", "prompt": "x", "{field}": {"[" * deep}{"]" * deep}}}'.encode()
        for path in (asking(name, "")[0], "/"):
            answer = await quiet[name].ask("POST", path, content=raw)
            assert answer.status_code == 400 or deep < 100
            assert "error" in answer.json()


KNOWN = {
    "openai": "model messages input tools tool_choice max_tokens max_completion_tokens max_output_tokens n stream "
    "stream_options service_tier store prompt previous_response_id reasoning reasoning_effort web_search_options",
    "anthropic": "model messages system tools max_tokens stream thinking service_tier container mcp_servers",
    "gemini": "contents tools generationConfig generation_config systemInstruction cachedContent requests",
}
PATHS = {"openai": [CHAT, "/responses", "/embeddings"], "anthropic": [MESSAGES], "gemini": [GEMINI]}
PATHS["gemini"].append("/v1/models/m:batchEmbedContents")
INNER = (
    *("type", "role", "content", "image_url", "url", "file", "file_id", "file_url", "audio", "id", "source", "data"),
    *("text", "inlineData", "mimeType", "fileData", "fileUri", "parts", "maxOutputTokens", "candidateCount"),
    *("include_usage", "output", "budget_tokens"),
)
TYPES = "image_url input_image image document file base64 url web_search enabled http://[ https://a/x data:image/png"
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(TYPES.split()),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(INNER) | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
)


def asked_of(name: str) -> st.SearchStrategy[tuple[str, str, Any]]:
    """The service, a path, a body."""
    fields = st.dictionaries(st.sampled_from(KNOWN[name].split()), VALUES, max_size=5)
    calls = st.tuples(st.just(name), st.sampled_from(PATHS[name]), fields.map(lambda body: {"model": "m", **body}))
    prompt = st.fixed_dictionaries({"model": VALUES | st.just("m"), "prompt": st.just("x"), "example_output": VALUES})
    return calls | st.tuples(st.just(name), st.just("/"), prompt)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(call=st.one_of(*map(asked_of, KEYS)))
async def test_nothing_that_is_sent_breaks_a_service(call: tuple[str, str, Any], quiet: dict[str, Service]) -> None:
    name, path, body = call
    await sent(quiet[name], path, body)
