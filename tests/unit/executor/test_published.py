"""Which answers are results under /api/v1: the executor, which reports, and the edge, which answers, agree."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge import deltas
from edge import published as edge
from edge.answers import Broken
from edge.http import Answer
from executor import published
from executor.model import AnswerHead
from executor.spool import Spool

EVENTS, JSON, PLAIN = "text/event-stream; charset=utf-8", "application/json", "text/plain"
LINE = published.MAX_LINE_BYTES
CASES = [
    # (content type, body, whether it is refused)
    (JSON, b'{"a": 1}', False),
    (JSON, b"no json", False),
    (JSON, b"\xff", True),
    ("", b"text", False),
    ("", b"\xff", True),
    ("text/html", b"<p>", False),
    ("text/html; charset=latin-1", b"\xe9", False),
    ("text/html; charset=nonsense", b"a", True),
    ("text/html; charset=hex", b"61", True),
    ("text/html", b"a\0b", True),
    ("image/png", b"\x89PNG\xff", True),
    ("image/png", b"", False),
    ("text/html; charset=windows-1252", b"\x80", False),
    ("text/html; charset=x-sjis", b"\x83\x65", False),
    ("text/html; charset=punycode", b"a" * 1_000_000 + b"-" + b"a" * 1_000_000, True),
    (PLAIN, b"\xff\0", False),
    (EVENTS, b"data: a\n\n", False),
    (EVENTS, b"event: error\ndata: {}\n\n", True),
    (EVENTS, b"data: a\r\rEVENT: error\revent:error\r\r", True),
    (EVENTS, b"data: a\r\n\r\nevent: error\r\n\r\n", True),
    (EVENTS, b"data: event: error\n\nevent: errors\ndata: a\n\n: event: error\n\n", False),
    (EVENTS, b"event: error", False),
    (EVENTS, b"data: " + b"x" * (LINE - 6) + b"\n\ndata: " + b"x" * (LINE - 6) + b"\r\n\r\n", False),
    (EVENTS, b"data: a\n" + b"x" * (LINE + 1) + b"\n\n", True),
    (EVENTS, b"\n" + b"x" * (LINE + 1), True),
]


@pytest.fixture
def spooled(tmp_path: Path) -> Iterator[Callable[[bytes], Spool]]:
    spools = []

    def made(raw: bytes) -> Spool:
        spools.append(Spool(tmp_path))
        spools[-1].append(raw)
        return spools[-1]

    yield made
    for spool in spools:
        spool.close()


def told_as_failure(kind: str, raw: bytes) -> bool:
    try:
        status, _ = edge._rendered(Answer(200, [("content-type", kind)] if kind else []), raw)
    except (Broken, ValueError):
        return True
    return status != 200


@pytest.mark.parametrize(("kind", "raw", "refused"), CASES)
def test_what_is_told_as_a_failure_is_refused(
    spooled: Callable[[bytes], Spool], kind: str, raw: bytes, refused: bool
) -> None:
    head = AnswerHead(200, (("content-type", kind.encode()),) if kind else ())
    assert told_as_failure(kind, raw) is refused
    assert published.refused(head, spooled(raw)) is refused


def test_what_else_is_refused(spooled: Callable[[bytes], Spool]) -> None:
    plain = (("content-type", b"text/plain"),)
    assert published.refused(AnswerHead(400, plain), spooled(b""))
    most = spooled(b"x" * published.MAX_RESULT_BYTES)
    assert not published.refused(AnswerHead(200, plain), most)
    most.append(b"x")
    assert published.refused(AnswerHead(200, plain), most)
    squeezed = AnswerHead(200, (("content-encoding", b"gzip"), ("content-type", b"application/json")))
    assert published.refused(squeezed, spooled(b"{}"))


def test_the_limits_are_the_edges() -> None:
    assert published.MAX_RESULT_BYTES == edge.MAX_RESULT_BYTES
    assert published.MAX_LINE_BYTES == deltas.MAX_LINE_BYTES
