"""A workflow's answer as /api/v1 gives it: its text part by part, and in the end as a result. Pure."""

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any, Protocol

from edge.answers import Broken
from edge.record import charset, content
from edge.run_model import AnswerHead, Outcome, Status

MAX_LINE_BYTES = 1024 * 1024
TOO_LONG = Outcome(Status.FAILED, "too_much_output", f"a line of its events is longer than {MAX_LINE_BYTES} bytes")
_LINE_END = re.compile(rb"\r\n|\r|\n")


class Reader(Protocol):
    """Takes an answer's bytes as they come."""

    def read(self, chunk: bytes) -> Iterator[str]:
        """What of the text has come with it. Errors: Broken for what can't be read on."""
        ...

    def end(self) -> dict[str, Any]:
        """{"result", "citations"?} of all that was read. Errors: ValueError where that is no text."""
        ...

    @property
    def fault(self) -> dict[str, Any] | None:
        """What the workflow itself says that went wrong: {"detail", "code"}."""
        ...


def reader_for(head: AnswerHead) -> Reader:
    """Server-sent events, text that comes as it is made, or one whole of another kind."""
    kind = head.header("content-type").partition(";")[0].strip().lower()
    if kind == "text/event-stream":
        return Events()
    if kind == "text/plain":
        return Text(head)
    return Whole(head)


def result_of(head: AnswerHead, raw: bytes) -> dict[str, Any]:
    """Of JSON its `result` field if it has one, else all of it; of anything else its text. Errors: ValueError."""
    found = content(head, raw)
    if found.text is None:
        raise ValueError("it is no text")
    if found.value is None and (found.text.strip() != "null" or "json" not in head.header("content-type")):
        return {"result": found.text}
    return _of_value(found.value)


def _of_value(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or "result" not in value:
        return {"result": value}
    return {name: value[name] for name in ("result", "citations") if name in value}


class Whole:
    """Nothing is told before the end."""

    fault = None

    def __init__(self, head: AnswerHead) -> None:
        self._head = head
        self._raw: list[bytes] = []

    def read(self, chunk: bytes) -> Iterator[str]:
        self._raw.append(chunk)
        yield from ()

    def end(self) -> dict[str, Any]:
        return result_of(self._head, b"".join(self._raw))


class Text:
    """Each part as it comes; a character is never cut in two."""

    fault = None

    def __init__(self, head: AnswerHead) -> None:
        self._decoder = codecs.getincrementaldecoder(charset(head.header("content-type")) or "utf-8")("replace")
        self._parts: list[str] = []

    def read(self, chunk: bytes) -> Iterator[str]:
        if text := self._decoder.decode(chunk):
            self._parts.append(text)
            yield text

    def end(self) -> dict[str, Any]:
        return {"result": "".join(self._parts) + self._decoder.decode(b"", final=True)}


class Events:
    """Server-sent events: `{"delta": text}` or plain data; `event: end` may bear the whole, `event: error` a fault."""

    def __init__(self) -> None:
        self.fault: dict[str, Any] | None = None
        # Of a line that hasn't ended yet; never looked at again before its end, however small its parts are.
        self._held = bytearray()
        self._after_return = False
        self._event = ""
        self._data: list[str] = []
        self._parts: list[str] = []
        self._whole: dict[str, Any] | None = None

    def read(self, chunk: bytes) -> Iterator[str]:
        """Errors: Broken (too_much_output) for a line over MAX_LINE_BYTES."""
        for line in self._lines(chunk):
            yield from self._line(line.decode(errors="replace"))

    def _lines(self, chunk: bytes) -> Iterator[bytes]:
        """Those that end in this chunk. A "\r" at its end may be half of a "\r\n"."""
        if self._after_return and chunk:
            chunk = chunk.removeprefix(b"\n")
        self._after_return = chunk.endswith(b"\r") or (self._after_return and not chunk)
        start = 0
        for end in _LINE_END.finditer(chunk):
            self._hold(chunk[start : end.start()])
            start = end.end()
            yield bytes(self._held)
            self._held.clear()
        self._hold(chunk[start:])

    def _hold(self, part: bytes) -> None:
        if len(self._held) + len(part) > MAX_LINE_BYTES:
            raise Broken(TOO_LONG)
        self._held += part

    def end(self) -> dict[str, Any]:
        return self._whole or {"result": "".join(self._parts)}

    def _line(self, line: str) -> Iterator[str]:
        name, _, value = line.partition(":")
        if line and name in {"event", "data"}:
            value = value.removeprefix(" ")
            if name == "event":
                self._event = value
            else:
                self._data.append(value)
        elif not line:
            event, data = self._event, "\n".join(self._data)
            self._event, self._data = "", []
            if data or event == "error":
                yield from self._told(event, data)

    def _told(self, event: str, data: str) -> Iterator[str]:
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            value = None
        if event == "error":
            self.fault = value if isinstance(value, dict) else {"detail": data}
        elif event == "end":
            self._whole = _of_value(value) if value is not None else None
        elif data != "[DONE]":
            delta = value.get("delta") if isinstance(value, dict) else None
            text = delta if isinstance(delta, str) else data
            self._parts.append(text)
            yield text
