"""edge.head: what travels between Lua and the edge. Both sides together are in tests/integration/edge."""

from hypothesis import given
from hypothesis import strategies as st

from edge.head import MAX_ANSWER_BYTES, answer_head, decoded, request_headers


def lua_reads(head: str | None) -> tuple[str, list[tuple[str, str]]]:
    """As edge.lua does."""
    assert head is not None
    ours, status, *words = head.split("|")
    assert ours == "x-runmesh-answer"
    pairs = [decoded(word).split(":", 1) for word in words]
    return status, [(name, value) for name, value in pairs]


def test_a_request() -> None:
    metadata = {"x-runmesh-host": "h%C3%A9", "x-runmesh-head": "a:1|a:2|b:%7C%25%20x:y|c:"}
    assert request_headers(metadata) == [("host", "hÃ©"), ("a", "1"), ("a", "2"), ("b", "|% x:y"), ("c", "")]
    assert request_headers({}) == [("host", "")]


def test_an_answer() -> None:
    headers = [("Set-Cookie", "a"), ("Set-Cookie", "b"), ("Content-Length", "9"), ("bad name", "x"), ("", "x")]
    assert lua_reads(answer_head(200, headers, 3)) == (
        "200",
        [("set-cookie", "a"), ("set-cookie", "b"), ("content-length", "3")],
    )
    assert lua_reads(answer_head(204, [], 0)) == ("204", [])
    assert lua_reads(answer_head(200, [], None)) == ("200", [])


@given(st.lists(st.tuples(st.from_regex(r"\A[A-Za-z0-9$%|-]{1,20}\Z"), st.text(max_size=100)), max_size=20))
def test_any_text_is_printable_ascii_on_the_wire_and_splits_no_header(headers: list[tuple[str, str]]) -> None:
    head = answer_head(200, headers, None)
    assert head is not None
    assert all(32 < ord(character) < 127 for character in head)
    status, pairs = lua_reads(head)
    assert status == "200"
    for _, value in pairs:
        assert not any(control in value for control in "\r\n\0")


def test_a_head_is_bounded() -> None:
    assert lua_reads(answer_head(200, [("a", "x" * 100_000)], None))[1] == [("a", "x" * 100_000)]
    assert answer_head(200, [("a", "x" * MAX_ANSWER_BYTES)], None) is None
