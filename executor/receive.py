"""Takes in what a sandbox sends as its answer: checked, measured, and only then passed on. Its input is hostile."""

import hashlib
import re

from executor.answer import Answer
from executor.model import AnswerHead, Limits
from executor.sandbox import AnswerEnd, Crashed, Head

MAX_HEADERS = 256
MAX_HEADER_BYTES = 60 * 1024
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]{1,256}")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
# They speak of one connection, not of the answer (RFC 9110 §7.6.1).
_HOP_BY_HOP = {b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade"}


class TooMuchOutput(Exception):
    """The answer passes its limit."""


class Receiver:
    """Fills `answer`. Errors of all methods: Crashed when the answer isn't one, TooMuchOutput."""

    def __init__(self, answer: Answer, limits: Limits, method: str) -> None:
        self._answer = answer
        self._limits = limits
        self._method = method
        self._promised: int | None = None
        self._limit = limits.stream_bytes
        self._bodiless = False
        self._hash = hashlib.sha256()

    @property
    def status(self) -> int:
        """The workflow's HTTP status; 0 before its head."""
        return self._answer.head.status if self._answer.head else 0

    @property
    def sha256(self) -> str:
        """Of the answer's body so far, in hex; empty before its head."""
        return self._hash.hexdigest() if self._answer.head else ""

    @property
    def streamed(self) -> bool:
        """Whether the workflow didn't say how long its answer is."""
        return self._promised is None

    def head(self, head: Head) -> None:
        """The first thing of an answer."""
        if self._answer.head is not None:
            raise Crashed("the workflow began its answer twice")
        if not 200 <= head.status <= 599:
            raise Crashed(f"the workflow answered with the status {head.status}")
        headers = _checked(head.headers)
        self._bodiless = self._method == "HEAD" or head.status in {204, 304}
        self._promised = _content_length(headers)
        if self._promised is not None and not self._bodiless:
            self._limit = self._limits.response_bytes
            self._measure(self._promised)
        self._answer.begin(AnswerHead(head.status, headers), 0 if self._bodiless else self._promised)

    def body(self, data: bytes) -> None:
        """The next bytes of the body; dropped where HTTP allows none."""
        if self._answer.head is None or self._answer.complete:
            raise Crashed("the workflow sent a body outside of an answer")
        if self._bodiless or not data:
            return
        size = self._answer.body.size + len(data)
        if self._promised is not None and size > self._promised:
            raise Crashed("the workflow's answer is longer than its content-length")
        self._measure(size)
        self._hash.update(data)
        self._answer.write(data)

    def end(self, _: AnswerEnd) -> None:
        """The answer is whole."""
        if self._answer.head is None or self._answer.complete:
            raise Crashed("the workflow ended an answer that it hadn't begun")
        if self._promised is not None and not self._bodiless and self._answer.body.size < self._promised:
            raise Crashed("the workflow's answer is shorter than its content-length")
        self._answer.finish_body()

    def _measure(self, size: int) -> None:
        if size > self._limit:
            raise TooMuchOutput(f"the answer passed its limit of {self._limit} bytes; put large results into a file")


def _checked(headers: list[tuple[bytes, bytes]]) -> tuple[tuple[str, bytes], ...]:
    if len(headers) > MAX_HEADERS or sum(len(name) + len(value) for name, value in headers) > MAX_HEADER_BYTES:
        raise Crashed("the workflow's answer has too many headers")
    kept = []
    for raw, value in headers:
        name = raw.lower()
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise Crashed("the workflow's answer has a header that HTTP doesn't allow")
        if name not in _HOP_BY_HOP:
            kept.append((name.decode("ascii"), value))
    return tuple(kept)


def _content_length(headers: tuple[tuple[str, bytes], ...]) -> int | None:
    values = {value.strip() for name, value in headers if name == "content-length"}
    if not values:
        return None
    value = values.pop()
    if values or not value.isdigit() or len(value) > 18:
        raise Crashed("the workflow's answer has a content-length that is no number")
    return int(value)
