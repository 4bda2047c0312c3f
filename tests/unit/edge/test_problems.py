"""edge.problems: SPEC §2."""

import json
from datetime import timedelta
from typing import Any

import pytest
from mesh.errors.v1 import reasons_pb2

from edge.http import Answer, Request
from edge.problems import STATUS, bug, dressed, failure, nowhere, refusal
from kit import errors


def body(answer: Answer) -> dict[str, Any]:
    assert isinstance(answer.body, bytes)
    found: dict[str, Any] = json.loads(answer.body)
    return found


def test_every_documented_reason_has_a_status() -> None:
    names = {name.removeprefix("REASON_").lower() for name in reasons_pb2.Reason.keys()}  # noqa: SIM118  # an enum
    assert names - {"unspecified"} == set(STATUS)


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (errors.Invalid, 400),
        (errors.Unauthenticated, 401),
        (errors.Denied, 403),
        (errors.NotFound, 404),
        (errors.Conflict, 409),
        (errors.Precondition, 408),
        (errors.Exhausted, 429),
        (errors.Unavailable, 503),
    ],
)
def test_each_kind_has_the_status_of_its_code(kind: type[errors.Problem], status: int) -> None:
    answer = refusal(kind("what happened"), request_id="run_1")
    assert answer.status == status
    assert body(answer) == {"detail": "what happened", "code": kind.default_code, "request_id": "run_1"}
    assert ("error-origin", "runtime") in answer.headers


def test_the_code_decides_over_the_kind() -> None:
    assert refusal(errors.Invalid("x", code="invalid_workflow")).status == 422
    assert refusal(errors.Precondition("x", code="missing_secret")).status == 424
    assert refusal(errors.Invalid("x", code="unheard_of")).status == 500


def test_retry_after_is_whole_seconds_and_there_where_it_is_promised() -> None:
    assert ("retry-after", "1") in failure("unavailable", "x").headers
    assert ("retry-after", "3") in refusal(errors.Exhausted("x", retry_after=timedelta(seconds=2.1))).headers
    assert "retry-after" not in dict(failure("not_found", "x").headers)
    assert "request_id" not in body(bug())


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/openai/v1/models", {"message": "no", "type": "unauthenticated", "param": None, "code": "unauthenticated"}),
        ("/run/openai", {"message": "no", "type": "unauthenticated", "param": None, "code": "unauthenticated"}),
        ("/anthropic/v1/messages", {"message": "no", "type": "unauthenticated"}),
        ("/gemini/v1beta/models", {"message": "no", "code": 401, "status": "UNAUTHENTICATED"}),
        ("/api/v1/run/wf_1", "no"),
        ("/run/openai_like", None),
        ("/openaix", None),
    ],
)
def test_an_sdk_finds_its_own_error_in_ours(path: str, error: Any) -> None:
    answer = dressed(Request("POST", path), refusal(errors.Unauthenticated("no")))
    assert body(answer).get("error") == error
    assert (answer.status, body(answer)["detail"], body(answer)["code"]) == (401, "no", "unauthenticated")
    assert body(answer).get("type") == ("error" if path.startswith("/anthropic") else None)


def test_nowhere() -> None:
    assert nowhere(Request("GET", "/nope")).status == 404
    answer = nowhere(Request("PATCH", "/keys"))
    assert (answer.status, dict(answer.headers)["allow"]) == (405, "GET, POST")


def test_the_api_of_version_1_says_it_twice() -> None:
    told = body(nowhere(Request("GET", "/api/v1/nope")))
    assert told["success"] is False
    assert told["error"] == told["detail"] == "there is nothing at /api/v1/nope"
    assert "success" not in body(nowhere(Request("GET", "/api/v10")))
