"""The record's shape is a contract with published clients."""

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from edge.record import NINE, Content, content, render, result, summary, timestamp, whole
from edge.run_model import AnswerHead, KeptAnswer, RunRecord, Status, Trigger, Usage
from tests.fakes.edge_runs import CALLER, NOW, a_record

JSON = (("content-type", "application/json"),)
ENDED = a_record(
    Status.SUCCEEDED,
    id="run_1",
    started_at=NOW + timedelta(seconds=1),
    completed_at=NOW + timedelta(seconds=2, microseconds=900),
    answer=KeptAnswer(AnswerHead(201, JSON), b"{}", "", 2),
    parent_id="run_0",
    trigger=Trigger.NESTED,
    detail="quotes the workflow",
    usage=Usage(0.1234567, 2.5, 3 << 30, 4, 5, 6),
    cost_own=30,
    cost_nested=12,
)


def test_the_whole_record() -> None:
    assert whole(ENDED, Content("{}", {}), sees_logs=True) == {
        "id": "run_1",
        "userId": CALLER,
        "serviceId": "greet",
        "createdAt": "2030-01-31T12:00:00.123Z",
        "startedAt": "2030-01-31T12:00:01.123Z",
        "completedAt": "2030-01-31T12:00:02.124Z",
        "responseStatus": 201,
        "responseContent": "{}",
        "responseJson": {},
        "versionId": "ver_1",
        "status": "succeeded",
        "code": None,
        "detail": "quotes the workflow",
        "correlationId": "corr-1",
        "parentId": "run_0",
        "traceId": "0" * 31 + "1",
        "attempt": 1,
        "trigger": "nested",
        "usage": {
            "cpuSeconds": 0.123457,
            "wallSeconds": 2.5,
            "memoryPeakBytes": 3 << 30,
            "egressBytes": 4,
            "tokensIn": 5,
            "tokensOut": 6,
        },
        "cost": {"own": 30, "nested": 12, "total": 42},
    }


@pytest.mark.parametrize("record", [replace(ENDED, status=Status.RUNNING), replace(ENDED, usage=None)])
def test_usage_is_told_of_a_run_that_is_over_and_was_measured(record: RunRecord) -> None:
    assert summary(record, sees_logs=True)["usage"] is None


def test_the_nine_come_first_and_are_nine() -> None:
    assert tuple(whole(ENDED, Content(), sees_logs=True))[:9] == NINE
    assert len(set(NINE)) == 9


def test_a_summary_has_no_content() -> None:
    assert not {"responseContent", "responseJson"} & set(summary(ENDED, sees_logs=True))


def test_a_detail_is_for_those_who_see_logs() -> None:
    assert whole(ENDED, Content(), sees_logs=False)["detail"] is None


def test_the_result_of_a_json_object() -> None:
    own: dict[str, Any] = {"processed_count": 3, "status": "fine", "id": "theirs", "responseJson": "theirs"}
    told = result(ENDED, Content("…", own), sees_logs=True)
    assert (told["processed_count"], told["status"], told["id"]) == (3, "fine", "run_1")
    assert (told["responseJson"], told["responseStatus"]) == (own, 201)
    assert told["run"]["status"] == "succeeded"
    assert not {"responseContent", "responseJson"} & set(told["run"])
    assert "versionId" not in told


def test_a_workflows_own_run_field_wins() -> None:
    assert result(ENDED, Content("…", {"run": 7}), sees_logs=True)["run"] == 7


@pytest.mark.parametrize("value", [[1, 2], "text", 5, None])
def test_the_result_of_anything_else(value: Any) -> None:
    told = result(ENDED, Content("…", value), sees_logs=True)
    assert set(told) == {*NINE, "run"}
    assert told["responseJson"] == value


def test_the_result_without_an_answer_is_the_record() -> None:
    failed = replace(ENDED, answer=None, status=Status.FAILED, code="workflow_crashed")
    told = result(failed, Content(), sees_logs=True)
    assert told == whole(failed, Content(), sees_logs=True)
    assert (told["status"], told["code"], told["responseStatus"]) == ("failed", "workflow_crashed", None)


@pytest.mark.parametrize(
    ("headers", "raw", "text", "value"),
    [
        (JSON, b'{"a": 1}', '{"a": 1}', {"a": 1}),
        ((("Content-Type", "application/problem+json; charset=utf-8"),), b"[1]", "[1]", [1]),
        ((("content-type", "text/plain; charset=latin-1"),), b"caf\xe9", "café", None),
        ((), b"plain", "plain", None),
        ((("content-type", "text/plain"),), b'{"a": 1}', '{"a": 1}', None),
        ((("content-type", "image/png"),), b"\x89PNG\xff", None, None),
        ((("content-type", "application/octet-stream"),), b"a\x00b", None, None),
        ((*JSON, ("content-encoding", "gzip")), b"{}", None, None),
        ((("content-type", "text/plain; charset=nonsense"),), b"x", None, None),
        ((("content-type", "text/plain; charset=hex"),), b"61", None, None),
        ((("content-type", "text/plain; x=y; Charset = 'Windows-1252'"),), b"\x80", "\u20ac", None),
        ((("content-type", "text/html; charset=Shift_JIS"),), b"\x83\x65", "\u30c6", None),
        # Minutes, by Python's codec.
        ((("content-type", "text/plain; charset=punycode"),), b"a" * 1_000_000 + b"-" + b"a" * 1_000_000, None, None),
        ((("content-type", "text/plain; charset*=punycode''" + "a" * 100_000),), b"a", "a", None),
        ((("content-type", "text/plain; charset=idna"),), b"xn--" + b"a" * 1_000_000, None, None),
        (JSON, b"{broken", "{broken", None),
        (JSON, b"NaN", "NaN", None),
        (JSON, b"[" * 100_000, "[" * 100_000, None),
        (JSON, b"", "", None),
    ],
)
def test_what_an_answer_says(headers: tuple[tuple[str, str], ...], raw: bytes, text: str | None, value: Any) -> None:
    assert content(AnswerHead(200, headers), raw) == Content(text, value)


def test_rendering_survives_what_json_text_can_hold() -> None:
    value = json.loads('"\\ud800"')
    assert json.loads(render({"a": value})) == {"a": value}
    assert render({"a": "é"}) == '{"a":"é"}'.encode()
    with pytest.raises(ValueError, match="JSON"):
        render({"a": json.loads("1e999")})


def test_times_are_in_utc_and_milliseconds() -> None:
    assert timestamp(NOW) == "2030-01-31T12:00:00.123Z"
