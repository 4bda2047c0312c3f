"""From the bytes that a workflow prints to log lines, and from log lines to NDJSON. Pure; its input is hostile."""

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from executor.model import LogLine

MAX_LINE_BYTES = 64 * 1024
MILLISECOND = timedelta(milliseconds=1)
# ANSI escape sequences whole, then what control characters are left; tabs and the line breaks of a JSON text stay.
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")
_PREFIXED = re.compile(r"([A-Z]{3,10}):[^:{]{0,200}:(\{.*\})", re.DOTALL)


class LineSplitter:
    """Cuts a stream of bytes into lines; a line over 64 KiB comes in pieces. UTF-8 characters stay whole."""

    def __init__(self) -> None:
        self._rest = b""
        self._shown = False  # the beginning of the line that goes on now

    @property
    def partial(self) -> bool:
        """Whether a line has begun that hasn't ended."""
        return bool(self._rest)

    def feed(self, chunk: bytes) -> list[str]:
        """The lines that `chunk` completes."""
        *whole, rest = (self._rest + chunk).split(b"\n")
        if self._shown and whole and whole[0] in {b"", b"\r"}:  # print() writes its text, then its line break
            del whole[0]
        self._shown = self._shown and not chunk
        lines = [piece for line in whole for piece in _pieces(line)]
        while len(rest) > MAX_LINE_BYTES:
            cut = _character_start(rest, MAX_LINE_BYTES)
            lines.append(rest[:cut])
            rest = rest[cut:]
        self._rest = rest
        return [_decode(line) for line in lines]

    def flush(self) -> list[str]:
        """What is there of an unfinished line, but for a character that is still incomplete."""
        cut = _last_whole(self._rest)
        ready, self._rest = self._rest[:cut], self._rest[cut:]
        self._shown = self._shown or bool(ready)
        return [_decode(ready)] if ready else []

    def end(self) -> list[str]:
        """The last of it."""
        ready, self._rest = self._rest, b""
        return [_decode(ready)] if ready else []


def _pieces(line: bytes) -> list[bytes]:
    pieces = []
    while len(line) > MAX_LINE_BYTES:
        cut = _character_start(line, MAX_LINE_BYTES)
        pieces.append(line[:cut])
        line = line[cut:]
    return [*pieces, line]


def _character_start(data: bytes, index: int) -> int:
    """The start of the character that has a byte at `index`; `index` itself in garbage."""
    for start in range(index, max(index - 4, 0), -1):
        if data[start] & 0xC0 != 0x80:
            return start
    return index


def _last_whole(data: bytes) -> int:
    """Where an incomplete UTF-8 character at the end begins; the length when there is none."""
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte & 0xC0 == 0x80:
            continue
        size = 2 if byte & 0xE0 == 0xC0 else 3 if byte & 0xF0 == 0xE0 else 4 if byte & 0xF8 == 0xF0 else 1
        return len(data) - back if size > back else len(data)
    return len(data)


def _decode(line: bytes) -> str:
    return line.decode("utf-8", "replace").removesuffix("\r")


@dataclass(frozen=True)
class Parsed:
    """What a printed line says. `data` is a JSON object, or empty."""

    message: str
    level: str
    data: str = ""


def parse(text: str, level: str = "info") -> Parsed:
    """A JSON object's `event`, `level` and the rest; the same after `LEVEL:logger:`; any other text as it is."""
    prefixed = _PREFIXED.fullmatch(text)
    if prefixed:
        level, candidate = prefixed[1].lower(), prefixed[2]
    else:
        candidate = text
    fields = _json_object(candidate)
    if fields is None:
        return Parsed(clean(text), level)
    found = fields.pop("level", None)
    if isinstance(found, str) and 0 < len(found) <= 20:
        level = clean(found).lower()
    message = next((fields.pop(name) for name in ("event", "message", "msg") if name in fields), candidate)
    return Parsed(clean(message if isinstance(message, str) else _dump(message)), level, _dump(fields))


def clean(text: str) -> str:
    """Without escape sequences, control characters and lone surrogates (which no UTF-8 can hold)."""
    text = _CONTROLS.sub("", _ESCAPES.sub("", text))
    return text.encode("utf-8", "replace").decode()


def _json_object(text: str) -> dict[str, Any] | None:
    if not text.startswith("{"):
        return None
    try:
        found = json.loads(text, parse_constant=str)  # NaN and Infinity are no JSON: they become text
        json.dumps(found, allow_nan=False)  # 1e999 was parsed to infinity
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _dump(value: Any) -> str:
    if value == {}:
        return ""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace").decode()


class Ticker:
    """Times for a log's lines: in whole milliseconds, each later than the one before."""

    def __init__(self) -> None:
        self._last = datetime.min.replace(tzinfo=UTC)

    def next(self, now: datetime) -> datetime:
        """`now`, or a millisecond after the last line when the clock hasn't moved on."""
        now = now.replace(microsecond=now.microsecond // 1000 * 1000)
        self._last = now if now > self._last else self._last + MILLISECOND
        return self._last


def ndjson(line: LogLine) -> bytes:
    """A line as /logs shows it (SPEC §3), with its line break."""
    moment = line.created_at.astimezone(UTC)
    created = f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"
    head = {
        "createdAt": created,
        "seq": line.seq,
        "stream": line.stream,
        "level": line.level,
        "message": line.message,
    }
    text = json.dumps(head, ensure_ascii=False, separators=(",", ":"))
    return f'{text[:-1]},"data":{line.data or "{}"}}}\n'.encode()
