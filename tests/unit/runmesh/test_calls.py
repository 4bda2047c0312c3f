"""runmesh.calls, runmesh.errors: what is asked, what answers mean; without the published client."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from runmesh import NotConfigured, RateLimited, calls, errors


def answer(status: int, told: Any = None, **headers: str) -> httpx.Response:
    request = httpx.Request("POST", "http://mesh/deploy")
    content: dict[str, Any] = {"text": told} if isinstance(told, str) else {"json": told}
    return httpx.Response(status, headers=headers, request=request, **content)


@pytest.mark.parametrize(
    ("environ", "lacks"),
    [
        ({}, "CODEWORDS_RUNTIME_URI and CODEWORDS_API_KEY"),
        ({"CODEWORDS_API_KEY": "k"}, "CODEWORDS_RUNTIME_URI must"),
        ({"RUNTIME_URI": "http://mesh"}, "CODEWORDS_API_KEY must"),
    ],
)
def test_it_never_falls_back_on_somebody_elses_address(environ: dict[str, str], lacks: str) -> None:
    with pytest.raises(NotConfigured, match=lacks):
        calls.settings(environ)


def test_the_settings_are_those_of_the_published_client() -> None:
    environ = {"CODEWORDS_RUNTIME_URI": "http://mesh", "RUNTIME_URI": "http://other", "CODEWORDS_API_KEY": "k"}
    assert calls.settings(environ) == {"base_url": "http://mesh", "api_key": "k"}


def test_a_path_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("pass")
    assert calls.validate(tmp_path / "a.py").body == {"code": "pass"}
    with pytest.raises(ValueError, match=r"give Path\('a.py'\)"):
        calls.deploy("a.py", "A", None, publish=True)
    assert calls.deploy("pass", "A", None, publish=False).params == {"publish": "false"}


def test_names_of_secrets_lead_nowhere_else() -> None:
    assert calls.secrets("delete", "../keys", None, ()).path == "/secrets/..%2Fkeys"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "RunmeshError"),
        (401, "Unauthenticated"),
        (403, "Denied"),
        (404, "NotFound"),
        (408, "Pending"),
        (422, "InvalidWorkflow"),
        (424, "MissingSecret"),
        (429, "RateLimited"),
        (503, "RunmeshError"),
    ],
)
def test_errors_have_types(status: int, kind: str) -> None:
    error = errors.refused(answer(status, {"detail": "so it is", "code": "c", "request_id": "run_1"}))
    assert type(error).__name__ == kind
    assert (error.detail, error.code, error.request_id, error.status) == ("so it is", "c", "run_1", status)
    assert str(error) == "so it is (code c, request_id run_1)"


def test_a_rate_limit_tells_when_to_come_back() -> None:
    error = errors.refused(answer(429, {"detail": "too many", "code": "rate_limited"}, **{"retry-after": "7"}))
    assert isinstance(error, RateLimited)
    assert error.retry_after == 7


@pytest.mark.parametrize("told", ["<html>Bad gateway</html>", [1], {"detail": [1]}, ""])
def test_what_no_runmesh_answers_is_unreachable(told: Any) -> None:
    error = errors.refused(answer(502, told))
    assert type(error).__name__ == "Unreachable"
    assert "answered 502" in error.detail


def test_what_a_workflow_answers_is_its_own() -> None:
    error = errors.refused(answer(418, "teapot", **{"error-origin": "service", "x-request-id": "run_1"}))
    assert (type(error).__name__, error.status, error.request_id) == ("RunmeshError", 418, "run_1")
    assert "teapot" in error.detail


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ({"detail": "no such request", "code": "not_found"}, "NotFound"),
        ({"detail": "revoked", "code": "unauthenticated"}, "Unauthenticated"),
        ({"error": "Log streaming error: x"}, "RunmeshError"),
        ({"rawText": "<html>"}, "RunmeshError"),
    ],
)
def test_a_line_that_is_none_is_what_went_wrong(line: dict[str, Any], kind: str) -> None:
    with pytest.raises(errors.RunmeshError) as raised:
        calls.log_line(line)
    assert type(raised.value).__name__ == kind


def test_an_output_tells_whether_it_succeeded() -> None:
    record = {"id": "run_1", "status": "succeeded", "responseStatus": 200, "responseJson": None, "code": None,
              "responseContent": "text", "detail": None}  # fmt: skip
    assert calls.output(record).succeeded
    assert calls.output(record).output == "text"
    assert calls.output(record | {"responseJson": {"a": 1}}).output == {"a": 1}
    assert not calls.output(record | {"responseStatus": 400}).succeeded
    assert not calls.output(record | {"status": "timed_out", "responseStatus": None}).succeeded


def test_why_a_deploy_was_refused_is_told_check_by_check() -> None:
    told = {"detail": "the workflow wasn't deployed", "code": "invalid_workflow"}
    failed = {"check": "syntax", "passed": False, "detail": "no Python", "line": 3}
    error = errors.refused(answer(422, told | {"report": [failed]}))
    assert isinstance(error, errors.InvalidWorkflow)
    assert [(check.check, check.line) for check in error.report] == [("syntax", 3)]
    assert errors.refused(answer(422, told)).code == "invalid_workflow"  # a server of before there was that
