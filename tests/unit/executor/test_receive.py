from pathlib import Path

import pytest

from executor.answer import Answer
from executor.model import Limits
from executor.receive import Receiver, TooMuchOutput
from executor.sandbox import AnswerEnd, Crashed, Head

LIMITS = Limits(response_bytes=100, stream_bytes=1000)


def receiver(tmp_path: Path, method: str = "GET") -> tuple[Answer, Receiver]:
    answer = Answer(tmp_path)
    return answer, Receiver(answer, LIMITS, method)


def head(status: int = 200, **headers: str) -> Head:
    return Head([(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()], status=status)


def test_a_whole_answer(tmp_path: Path) -> None:
    answer, taking = receiver(tmp_path)
    taking.head(head(201, content_length="5", x_a="b", connection="close", transfer_encoding="chunked"))
    taking.body(b"hel")
    taking.body(b"lo")
    taking.end(AnswerEnd())
    assert answer.head
    assert answer.head.status == 201
    assert [name for name, _ in answer.head.headers] == ["content-length", "x-a"]
    assert answer.complete
    assert not taking.streamed


@pytest.mark.parametrize("status", [0, 100, 101, 199, 600, 99999, -1])
def test_a_status_that_is_none(tmp_path: Path, status: int) -> None:
    with pytest.raises(Crashed):
        receiver(tmp_path)[1].head(head(status))


@pytest.mark.parametrize(
    "headers",
    [
        [(b"x y", b"1")],
        [(b"", b"1")],
        [(b"x", b"a\r\nset-cookie: b")],
        [(b"x", b"\x00")],
        [(b"content-length", b"-1")],
        [(b"content-length", b"1e3")],
        [(b"content-length", b"1"), (b"content-length", b"2")],
        [(b"x", b"1")] * 257,
        [(b"x", b"1" * 61 * 1024)],
        [(b":status", b"200")],
    ],
)
def test_headers_that_are_none(tmp_path: Path, headers: list[tuple[bytes, bytes]]) -> None:
    answer, taking = receiver(tmp_path)
    with pytest.raises(Crashed):
        taking.head(Head(headers, status=200))
    assert answer.head is None


def test_header_names_are_lowered_and_repeated_ones_kept(tmp_path: Path) -> None:
    answer, taking = receiver(tmp_path)
    taking.head(Head([(b"Set-Cookie", b"a"), (b"set-cookie", b"b")], status=200))
    assert answer.head
    assert answer.head.headers == (("set-cookie", b"a"), ("set-cookie", b"b"))


def test_more_than_promised(tmp_path: Path) -> None:
    _, taking = receiver(tmp_path)
    taking.head(head(content_length="2"))
    with pytest.raises(Crashed, match="longer"):
        taking.body(b"abc")


def test_less_than_promised(tmp_path: Path) -> None:
    answer, taking = receiver(tmp_path)
    taking.head(head(content_length="2"))
    taking.body(b"a")
    with pytest.raises(Crashed, match="shorter"):
        taking.end(AnswerEnd())
    assert not answer.complete


def test_too_much_is_refused_before_it_begins_when_it_says_so(tmp_path: Path) -> None:
    answer, taking = receiver(tmp_path)
    with pytest.raises(TooMuchOutput, match="100"):
        taking.head(head(content_length="101"))
    assert answer.head is None


def test_a_stream_has_a_limit_of_its_own(tmp_path: Path) -> None:
    answer, taking = receiver(tmp_path)
    taking.head(head())
    taking.body(b"x" * 1000)
    assert taking.streamed
    with pytest.raises(TooMuchOutput, match="1000"):
        taking.body(b"x")
    assert answer.body.size == 1000


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
def test_answers_that_have_no_body(tmp_path: Path, method: str, status: int) -> None:
    answer, taking = receiver(tmp_path, method)
    taking.head(head(status, content_length="5000"))
    taking.body(b"ignored")
    taking.end(AnswerEnd())
    assert answer.body.size == 0
    assert answer.complete


def test_out_of_order(tmp_path: Path) -> None:
    _, taking = receiver(tmp_path)
    with pytest.raises(Crashed):
        taking.body(b"x")
    with pytest.raises(Crashed):
        taking.end(AnswerEnd())
    taking.head(head())
    with pytest.raises(Crashed):
        taking.head(head())
    taking.end(AnswerEnd())
    with pytest.raises(Crashed):
        taking.body(b"x")
    with pytest.raises(Crashed):
        taking.end(AnswerEnd())
