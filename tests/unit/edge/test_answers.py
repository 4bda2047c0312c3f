"""What the caller gets of the workflow's answer, and of a run without one."""

import json

import pytest

from edge.answers import Frame
from edge.run_model import AnswerHead, Outcome, Status

FRAME = Frame("run_1", "corr-1", "greet", "/a/b", "mesh.test:8080", "https://public.test", sees_logs=True)


def test_the_workflows_headers_pass_but_for_ours() -> None:
    head = AnswerHead(
        200,
        (
            ("content-type", "text/plain"),
            ("Set-Cookie", "a=1"),
            ("set-cookie", "b=2"),
            ("X-Request-Id", "theirs"),
            ("traceparent", "theirs"),
            ("Error-Origin", "nobody"),
            ("Content-Length", "5"),
            ("transfer-encoding", "chunked"),
            ("connection", "close"),
            ("NEL", '{"report_to": "me"}'),
            ("report-to", "{}"),
            ("Clear-Site-Data", '"*"'),
            ("strict-transport-security", "max-age=1"),
            ("alt-svc", 'h3="evil.test:443"'),
            ("service-worker-allowed", "/"),
            ("grpc-status", "0"),
            ("x-envoy-upstream", "1"),
            ("x-runmesh-answer", "200"),
            ("stuff-bin", "x"),
        ),
    )
    assert FRAME.headers(head) == [
        ("content-type", "text/plain"),
        ("Set-Cookie", "a=1; Path=/run/greet"),
        ("set-cookie", "b=2; Path=/run/greet"),
        ("x-request-id", "run_1"),
        ("x-correlation-id", "corr-1"),
    ]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("s=1; Path=/; HttpOnly", "s=1; HttpOnly; Path=/run/greet"),
        ("s=1;path=/a/; Domain=public.test", "s=1; Path=/run/greet/a"),
        ("s=1; Path=/run/other; PATH = /run", "s=1; Path=/run/greet/run"),
        ("s=1; Path=/run/greeting", "s=1; Path=/run/greet/run/greeting"),
        ("s=1; Path=/run/greet/x", "s=1; Path=/run/greet/x"),
        ("path=/; Path", "path=/; Path=/run/greet"),
        ("", "; Path=/run/greet"),
    ],
)
def test_a_cookie_is_for_the_workflow_that_set_it(given: str, told: str) -> None:
    assert FRAME.cookie(given) == told


@pytest.mark.parametrize("status", [400, 404, 500, 503])
def test_an_error_of_the_workflow_says_so(status: int) -> None:
    assert ("error-origin", "service") in FRAME.headers(AnswerHead(status))


@pytest.mark.parametrize(
    ("location", "public"),
    [
        ("/x?y=1#z", "https://public.test/run/greet/x?y=1#z"),
        ("c", "https://public.test/run/greet/a/c"),
        ("../c", "https://public.test/run/greet/c"),
        ("../../c", "https://public.test/run/greet/c"),
        ("/../c", "https://public.test/run/greet/c"),
        ("?page=2", "https://public.test/run/greet/a/b?page=2"),
        ("http://mesh.test:8080/a/b/", "https://public.test/run/greet/a/b/"),
        ("http://MESH.test:8080", "https://public.test/run/greet/"),
        ("//mesh.test:8080/q", "https://public.test/run/greet/q"),
        ("https://elsewhere.test/x", "https://elsewhere.test/x"),
        ("http://mesh.test:9090/x", "http://mesh.test:9090/x"),
        ("http://mesh.test:8080/files/f_1/name?signature=s", "http://mesh.test:8080/files/f_1/name?signature=s"),
        ("http://mesh.test:8080/run/other", "http://mesh.test:8080/run/other"),
        ("/run/greet/x", "/run/greet/x"),
        ("/run/greetings", "https://public.test/run/greet/run/greetings"),
        ("mailto:a@b.test", "mailto:a@b.test"),
        ("http://[broken", "http://[broken"),
    ],
)
def test_a_location_that_points_at_the_workflow_becomes_public(location: str, public: str) -> None:
    assert FRAME.location(location) == public


def failed(frame: Frame, outcome: Outcome) -> tuple[int, dict[str, str], dict[str, str]]:
    answer = frame.failed(outcome)
    assert isinstance(answer.body, bytes)
    return answer.status, json.loads(answer.body), dict(answer.headers)


def test_a_crash_comes_with_the_last_log_lines() -> None:
    tail = tuple(f"line {number}" for number in range(30))
    status, body, headers = failed(FRAME, Outcome(Status.FAILED, "workflow_crashed", "it was killed", tail))
    assert (status, body["code"], body["request_id"]) == (502, "workflow_crashed", "run_1")
    assert "it was killed" in body["detail"]
    assert "line 29" in body["detail"]
    assert "line 9\n" not in body["detail"]
    assert (headers["x-request-id"], headers["error-origin"]) == ("run_1", "runtime")


@pytest.mark.parametrize("code", ["out_of_memory", "disk_full"])
def test_a_limit_that_was_passed_is_named_with_the_last_log_lines(code: str) -> None:
    status, body, headers = failed(FRAME, Outcome(Status.FAILED, code, "its limit of 64 MiB", ("loading", "more")))
    assert (status, body["code"], body["request_id"], headers["error-origin"]) == (502, code, "run_1", "runtime")
    assert body["detail"] == "its limit of 64 MiB\n\nIts last log lines:\nloading\nmore"


@pytest.mark.parametrize(
    "code", ["workflow_crashed", "workflow_failed_to_start", "runtime_error", "out_of_memory", "disk_full"]
)
def test_who_may_not_see_logs_sees_none(code: str) -> None:
    frame = Frame("run_1", "corr-1", "greet", "/", "h", "p", sees_logs=False)
    status, body, _ = failed(frame, Outcome(Status.FAILED, code, "KeyError: 'secret'", ("secret line",)))
    assert status >= 500
    assert "secret" not in body["detail"]


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("cancelled", 499), ("runtime_error", 500), ("workflow_failed_to_start", 502), ("too_much_output", 502),
        ("missing_secret", 424), ("timeout", 504), ("out_of_memory", 502), ("disk_full", 502),
    ],
)  # fmt: skip
def test_statuses(code: str, status: int) -> None:
    frame = Frame("run_1", "corr-1", "greet", "/", "h", "p", sees_logs=False)
    answered, body, _ = failed(frame, Outcome(Status.FAILED, code, "SLACK_KEY has no value"))
    assert (answered, body["code"]) == (status, code)
    if code == "missing_secret":
        assert "SLACK_KEY" in body["detail"]
    if code == "timeout":
        assert "/run_async/greet" in body["detail"]
