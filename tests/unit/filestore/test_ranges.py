import pytest
from hypothesis import given
from hypothesis import strategies as st

from filestore.ranges import Span, etag_matches, parse


@pytest.mark.parametrize(
    ("header", "spans"),
    [
        ("bytes=0-0", [(0, 1)]),
        ("bytes=2-4", [(2, 5)]),
        ("bytes=5-", [(5, 10)]),
        ("bytes=-3", [(7, 10)]),
        ("bytes=-99", [(0, 10)]),
        ("bytes=8-99", [(8, 10)]),
        ("BYTES = 2-4", [(2, 5)]),
        ("bytes=0-1, 5-6", [(0, 2), (5, 7)]),
        ("bytes=5-6,0-1", [(0, 2), (5, 7)]),
        ("bytes=0-4,2-6", [(0, 7)]),
        ("bytes=0-1,2-3", [(0, 4)]),
        ("bytes=0-0,,20-", [(0, 1)]),
        ("bytes=10-", []),
        ("bytes=-0", []),
        ("bytes=99-100,200-", []),
    ],
)
def test_ranges(header: str, spans: list[tuple[int, int]]) -> None:
    assert parse(header, 10) == [Span(*span) for span in spans]


@pytest.mark.parametrize(
    "header",
    [
        *("", "bytes", "bytes=", "bytes=-", "bytes=a-b", "bytes=5-2", "items=0-1", "bytes=1", "bytes=0-1;2-3"),
        *("bytes=,", "bytes=" + ",".join(["0-0"] * 101), "bytes=" + "9" * 19 + "-", "bytes=+1-2"),
    ],
)
def test_what_isnt_a_range_is_not_heeded(header: str) -> None:
    assert parse(header, 10) is None


def test_of_an_empty_file_there_is_no_range() -> None:
    assert parse("bytes=0-", 0) == []


@given(st.text(alphabet="bytes=0123456789-, ", max_size=40), st.integers(0, 50))
def test_spans_lie_within_are_sorted_and_dont_overlap(text: str, size: int) -> None:
    position = 0
    for span in parse("bytes=" + text, size) or []:
        assert position <= span.start < span.end <= size
        position = span.end + 1


def test_entity_tags() -> None:
    for header in ('"a"', 'W/"a"', '"x", "a"', "*", ' "a" '):
        assert etag_matches(header, '"a"')
    for header in ("", '"b"', "a", '"aa"'):
        assert not etag_matches(header, '"a"')
