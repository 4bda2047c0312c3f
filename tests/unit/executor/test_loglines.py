import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executor.loglines import MAX_LINE_BYTES, LineSplitter, Parsed, Ticker, clean, ndjson, parse
from executor.model import LogLine


def test_lines_are_cut_at_line_breaks_wherever_the_chunks_end() -> None:
    splitter = LineSplitter()
    assert splitter.feed(b"one\ntw") == ["one"]
    assert splitter.feed(b"o\r\n\nthree") == ["two", ""]
    assert splitter.flush() == ["three"]
    assert not splitter.partial
    assert splitter.end() == []


def test_a_character_is_never_cut_by_a_flush() -> None:
    splitter = LineSplitter()
    whole = "naïve ☃ 🙂".encode()
    assert splitter.feed(whole[:-2]) == []
    assert splitter.flush() == ["naïve ☃ "]
    assert splitter.flush() == []
    assert splitter.feed(whole[-2:] + b"\n") == ["🙂"]


def test_the_line_break_of_what_was_flushed_is_no_line_of_its_own() -> None:
    splitter = LineSplitter()
    assert splitter.feed(b"one") == []
    assert splitter.flush() == ["one"]
    assert splitter.feed(b"\n") == []
    assert splitter.feed(b"\n") == [""]  # an empty line that was printed
    assert splitter.feed(b"tw") == []
    assert splitter.flush() == ["tw"]
    assert splitter.feed(b"o") == []
    assert splitter.feed(b"\n\nthree") == ["o", ""]
    assert splitter.flush() == ["three"]
    assert splitter.feed(b"\r\nfour\n") == ["four"]


def test_a_line_without_an_end_comes_in_pieces() -> None:
    splitter = LineSplitter()
    text = "é" * MAX_LINE_BYTES
    pieces = splitter.feed(b"x" + text.encode())
    pieces += splitter.end()
    assert "".join(pieces) == "x" + text
    assert max(len(piece.encode()) for piece in pieces) <= MAX_LINE_BYTES


@given(st.lists(st.binary(max_size=40)))
def test_nothing_is_lost_in_splitting(chunks: list[bytes]) -> None:
    splitter = LineSplitter()
    lines = [line for chunk in chunks for line in splitter.feed(chunk)] + splitter.end()
    text = b"".join(chunks).decode("utf-8", "replace")
    expected = text.split("\n")
    if expected[-1] == "":
        expected.pop()
    assert lines == [line.removesuffix("\r") for line in expected]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", Parsed("plain", "info")),
        ('{"event": "hi", "level": "WARNING", "n": 1}', Parsed("hi", "warning", '{"n":1}')),
        ('{"event": "hi"}', Parsed("hi", "info")),
        ('INFO:main:{"event": "hi", "n": [1]}', Parsed("hi", "info", '{"n":[1]}')),
        ('ERROR:a.b:{"event": "no", "level": "critical"}', Parsed("no", "critical")),
        ("INFO:     Started server process [1]", Parsed("INFO:     Started server process [1]", "info")),
        ('{"answer": 42}', Parsed('{"answer": 42}', "info", '{"answer":42}')),
        ('{"message": "m", "level": 30}', Parsed("m", "info")),
        ('{"event": {"a": 1}}', Parsed('{"a":1}', "info")),
        ("[1, 2]", Parsed("[1, 2]", "info")),
        ("{broken", Parsed("{broken", "info")),
        ('{"event": "x", "n": 1e999}', Parsed('{"event": "x", "n": 1e999}', "info")),
        ('{"event": "x", "n": NaN}', Parsed("x", "info", '{"n":"NaN"}')),
    ],
)
def test_what_a_line_says(text: str, expected: Parsed) -> None:
    assert parse(text) == expected


def test_deep_and_huge_json_is_text() -> None:
    deep = '{"event":' + "[" * 30_000 + "]" * 30_000 + "}"
    assert parse(deep).data == ""
    assert parse('{"event": ' + "9" * 10_000 + "}").level == "info"


def test_lone_surrogates_can_be_sent() -> None:
    parsed = parse('{"event": "a\\ud800", "k": "\\udfff"}')
    parsed.message.encode()
    json.loads(parsed.data.encode())


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("a\x00b\x07c", "abc"),
        ("\x1b]0;title\x07after", "after"),
        ("tab\tstays", "tab\tstays"),
        ("\x9b31mred", "31mred"),
        ("\x1b", ""),
    ],
)
def test_a_terminal_cant_be_played_with(text: str, shown: str) -> None:
    assert clean(text) == shown


def test_times_increase_by_a_millisecond_when_the_clock_stands() -> None:
    ticker = Ticker()
    now = datetime(2026, 1, 1, 0, 0, 0, 123_999, tzinfo=UTC)
    first, second, third = ticker.next(now), ticker.next(now), ticker.next(now - timedelta(hours=1))
    assert first == now.replace(microsecond=123_000)
    assert second - first == third - second == timedelta(milliseconds=1)
    assert ticker.next(now + timedelta(seconds=1)) == first + timedelta(seconds=1)


def test_ndjson_has_the_published_shape() -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, 6_000, tzinfo=UTC)
    line = LogLine(moment, 7, "stdout", "info", 'say "hi"\n', '{"a":1}')
    raw = ndjson(line)
    assert raw.endswith(b"}\n")
    assert raw.count(b"\n") == 1
    assert json.loads(raw) == {
        "createdAt": "2026-01-02T03:04:05.006Z",
        "seq": 7,
        "stream": "stdout",
        "level": "info",
        "message": 'say "hi"\n',
        "data": {"a": 1},
    }
