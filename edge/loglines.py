"""Log lines as /logs sends them: which form a caller gets, how a line looks in it. Pure."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

from edge.http import Request
from edge.record import timestamp
from edge.run_model import LogLine
from kit.errors import Invalid

MILLISECOND = timedelta(milliseconds=1)
EPOCH = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Entry:
    """A line, rendered: `text` is one JSON object without a line break."""

    created_at: datetime
    seq: int
    text: str


@dataclass(frozen=True)
class Start:
    """From where on a caller wants the log: lines after this time and after this number."""

    after: datetime = EPOCH
    seq: int = -1

    def wants(self, entry: Entry) -> bool:
        return entry.created_at > self.after and entry.seq > self.seq


class Form(Protocol):
    """How a log is written on the wire."""

    content_type: str
    keep_alive: bytes
    end: bytes

    def line(self, entry: Entry) -> bytes: ...


class Ndjson:
    """One JSON object a line; blank lines in between."""

    content_type = "application/x-ndjson"
    keep_alive = b"\n"
    end = b""

    def line(self, entry: Entry) -> bytes:
        return entry.text.encode() + b"\n"


class ServerSentEvents:
    """https://html.spec.whatwg.org/multipage/server-sent-events.html"""

    content_type = "text/event-stream; charset=utf-8"
    keep_alive = b": still here\n\n"
    end = b"event: end\ndata: {}\n\n"

    def line(self, entry: Entry) -> bytes:
        return f"id: {entry.seq}\ndata: {entry.text}\n\n".encode()


def form(request: Request) -> Form:
    """Server-sent events for whoever accepts them, but for the published clients: they say so with a JSON
    content-type on a GET, and read one object a line.
    """
    accept = ",".join(value for name, value in request.headers if name == "accept").lower()
    json_body = request.header("content-type").lower().startswith("application/json")
    if "text/event-stream" in accept and "application/x-ndjson" not in accept and not json_body:
        return ServerSentEvents()
    return Ndjson()


def start(request: Request) -> Start:
    """What the caller has seen: `?after=TIME`, or `Last-Event-ID` of a server-sent stream. Errors: Invalid."""
    seq = request.header("last-event-id")
    if seq and not (seq.isascii() and seq.isdigit() and len(seq) <= 18):
        raise Invalid(f"Last-Event-ID is {seq[:40]!r}; it must be the id of a line")
    return Start(_after(request.parameter("after") or ""), int(seq or -1))


def follows(request: Request) -> bool:
    """Whether the caller wants a run's log to its end; with `?follow=false` what there is so far. Errors: Invalid."""
    text = request.parameter("follow") or "true"
    if text not in {"true", "false"}:
        raise Invalid(f"follow is {text[:40]!r}; it must be true or false")
    return text == "true"


def entry(line: LogLine) -> Entry:
    """A line of the bus."""
    head = {
        "createdAt": timestamp(line.created_at),
        "seq": line.seq,
        "stream": line.stream,
        "level": line.level,
        "message": line.message,
    }
    text = json.dumps(head, ensure_ascii=False, separators=(",", ":"))
    return Entry(_whole(line.created_at), line.seq, f'{text[:-1]},"data":{line.data or "{}"}}}')


def archived(text: bytes) -> Entry | None:
    """A line of a finished run's archive, which has this shape already; None for a blank one."""
    if not text.strip():
        return None
    fields = json.loads(text)
    return Entry(datetime.fromisoformat(fields["createdAt"]), fields["seq"], text.decode().rstrip("\r\n"))


def _whole(moment: datetime) -> datetime:
    """In whole milliseconds, as the clients see it."""
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def _after(text: str) -> datetime:
    if not text:
        return EPOCH
    if len(text) > 6 and text[-6] == " ":  # "+00:00" whose plus sign wasn't escaped
        text = text[:-6] + "+" + text[-5:]
    try:
        moment = datetime.fromisoformat(text[:40])
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise Invalid(f"after is {text[:40]!r}; it must be a time such as 2030-01-31T12:00:00.000Z") from None
