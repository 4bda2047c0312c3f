"""edge.http: what handlers are given."""

import json
from collections.abc import AsyncIterator

import pytest

from edge.http import Request, json_answer
from kit.errors import Invalid, Unauthenticated


async def parts(*given: bytes) -> AsyncIterator[bytes]:
    for part in given:
        yield part


def request(*body: bytes, **more: object) -> Request:
    return Request("POST", "/x", body=parts(*body), **more)  # type: ignore[arg-type]


async def test_a_body_within_its_limit() -> None:
    assert await request(b"ab", b"c").read(3) == b"abc"


@pytest.mark.parametrize("headers", [[], [("content-length", "4")], [("content-length", "9" * 5000)]])
async def test_a_body_over_its_limit_names_the_way_around(headers: list[tuple[str, str]]) -> None:
    with pytest.raises(Invalid, match="POST /file") as caught:
        await request(b"ab", b"cd", headers=headers).read(3)
    assert caught.value.code == "too_large"


async def test_an_announced_length_is_refused_before_anything_is_read() -> None:
    body = parts(b"all of it")
    with pytest.raises(Invalid):
        await Request("POST", "/", headers=[("content-length", "4")], body=body).read(3)
    assert [part async for part in body] == [b"all of it"]


@pytest.mark.parametrize("body", [b"", b" \n", b"null", b"{}"])
async def test_nothing_is_an_empty_object(body: bytes) -> None:
    assert await request(body).json() == {}


@pytest.mark.parametrize(
    "body",
    [b"{", b"[1]", b'"x"', b"1", b"\xff", b'{"a": NaN}', b'{"a": "\\ud800"}', b"[" * 100_000, b"1" * 5000, b'{"a":1}x'],
)
async def test_anything_else_but_an_object_is_refused(body: bytes) -> None:
    with pytest.raises(Invalid) as caught:
        await request(body).json()
    assert caught.value.code == "bad_request"


async def test_a_json_body_is_bounded() -> None:
    with pytest.raises(Invalid) as caught:
        await request(b'{"a":"' + b"x" * 100 + b'"}').json(limit=50)
    assert caught.value.code == "too_large"


@pytest.mark.parametrize(
    ("query", "page"), [("", (100, "")), ("limit=1", (1, "")), ("after=run_%31&limit=1000", (1000, "run_1"))]
)
def test_pages(query: str, page: tuple[int, str]) -> None:
    assert request(query=query).page() == page


@pytest.mark.parametrize("limit", ["0", "1001", "-1", "x", "", "1e2", "٣", "99999"])
def test_bad_limits(limit: str) -> None:
    with pytest.raises(Invalid):
        request(query=f"limit={limit}").page()


def test_headers_and_parameters_by_name() -> None:
    found = request(headers=[("a", " 1 "), ("a", "2")], query="x=%20y&x=z&e=")
    assert (found.header("a"), found.header("b")) == ("1", "")
    assert (found.parameter("x"), found.parameter("e"), found.parameter("n")) == (" y", "", None)


def test_a_call_without_a_principal_is_nobodys() -> None:
    with pytest.raises(Unauthenticated):
        _ = request().who


def test_json_answers() -> None:
    answer = json_answer({"a": "é"}, 201)
    assert isinstance(answer.body, bytes)
    assert (answer.status, json.loads(answer.body), answer.headers) == (
        201,
        {"a": "é"},
        [("content-type", "application/json")],
    )
