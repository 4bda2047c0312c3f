"""Who gets which form of a log, and how a line looks in it."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from edge.http import Request
from edge.loglines import EPOCH, Entry, Ndjson, ServerSentEvents, Start, archived, entry, form, start
from edge.run_model import LogLine
from kit.errors import Invalid
from kit.names import new_id
from tests.fakes.edge_runs import NOW, a_request

LINE = LogLine(NOW, 7, "stdout", "info", "café\nsecond", '{"a":1}')


def asked(query: str = "", **headers: str) -> Request:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return a_request(method="GET", query=query, request_id=new_id("run"), headers=given)


@pytest.mark.parametrize(
    ("headers", "kind"),
    [
        ({"accept": "text/event-stream", "content_type": "application/json"}, Ndjson),  # the published clients
        ({"accept": "application/x-ndjson"}, Ndjson),
        ({"accept": "text/event-stream, application/x-ndjson"}, Ndjson),
        ({}, Ndjson),
        ({"accept": "*/*"}, Ndjson),
        ({"accept": "text/event-stream"}, ServerSentEvents),  # EventSource in a browser
        ({"accept": "Text/Event-Stream;q=0.9, */*"}, ServerSentEvents),
    ],
)
def test_the_form(headers: dict[str, str], kind: type) -> None:
    assert isinstance(form(asked(**headers)), kind)


def test_a_line_is_one_line_of_json() -> None:
    raw = Ndjson().line(entry(LINE))
    assert raw.endswith(b"\n")
    assert raw.count(b"\n") == 1
    assert json.loads(raw) == {
        "createdAt": "2030-01-31T12:00:00.123Z",
        "seq": 7,
        "stream": "stdout",
        "level": "info",
        "message": "café\nsecond",
        "data": {"a": 1},
    }


def test_a_line_without_data_has_an_empty_object() -> None:
    assert json.loads(entry(LogLine(NOW)).text)["data"] == {}


def test_an_event_bears_its_number() -> None:
    raw = ServerSentEvents().line(entry(LINE)).decode()
    first, second, rest = raw.split("\n", 2)
    assert first == "id: 7"
    assert json.loads(second.removeprefix("data: "))["seq"] == 7
    assert rest == "\n"


def test_the_archive_has_the_same_lines() -> None:
    found = entry(LINE)
    assert archived(Ndjson().line(found).rstrip(b"\n")) == found
    assert archived(b"  ") is None


@pytest.mark.parametrize(
    "text",
    [
        "2030-01-31T12:00:00.123Z",
        "2030-01-31T12:00:00.123%2B00:00",
        "2030-01-31T12:00:00.123+00:00",
        "2030-01-31T13:00:00.123%2B01:00",
        "2030-01-31T12:00:00.123",
    ],
)
def test_after_a_time(text: str) -> None:
    since = start(asked(f"after={text}"))
    assert since.after == datetime(2030, 1, 31, 12, 0, 0, 123000, tzinfo=UTC)
    assert not since.wants(entry(LINE))
    assert since.wants(entry(LogLine(NOW + timedelta(milliseconds=1))))


def test_after_a_number() -> None:
    since = start(asked(last_event_id="7"))
    assert not since.wants(Entry(NOW, 7, ""))
    assert since.wants(Entry(NOW, 8, ""))


def test_from_the_start_even_a_line_with_number_zero() -> None:
    assert start(asked()) == Start(EPOCH, -1)
    assert start(asked()).wants(Entry(NOW, 0, ""))


@pytest.mark.parametrize(
    ("query", "last"), [("after=yesterday", ""), ("after=2030-99-01", ""), ("", "x"), ("", "9" * 19)]
)
def test_garbage_is_a_bad_request(query: str, last: str) -> None:
    with pytest.raises(Invalid):
        start(asked(query, last_event_id=last))
