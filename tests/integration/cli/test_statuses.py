"""What a command ends with, and what it tells on stderr, when something is wrong."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from cli.main import app
from tests.fakes.api_server import ApiServer, Asked, Reply, api_server
from tests.fakes.certificates import Authority

Runmesh = Callable[..., Result]
RECORD = {
    "id": "run_1", "serviceId": "greet", "status": "succeeded", "code": None, "detail": None, "responseStatus": 200,
    "responseJson": {"a": 1}, "responseContent": '{"a": 1}', "createdAt": "2030-01-31T12:00:00.000Z",
    "startedAt": "2030-01-31T12:00:00.100Z", "completedAt": "2030-01-31T12:00:00.600Z", "trigger": "api",
    "parentId": None, "traceId": "t", "cost": {"own": 100, "nested": 0, "total": 100},
}  # fmt: skip


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (400, "bad_request", 3),
        (401, "unauthenticated", 3),
        (402, "payment_required", 3),
        (403, "forbidden", 3),
        (404, "not_found", 3),
        (409, "conflict", 3),
        (424, "missing_secret", 3),
        (429, "rate_limited", 3),
        (499, "cancelled", 1),
        (502, "workflow_crashed", 1),
        (502, "out_of_memory", 1),
        (504, "timeout", 1),
        (500, "runtime_error", 4),
        (503, "unavailable", 4),
    ],
)
def test_an_error_of_the_platform(runmesh: Runmesh, api: ApiServer, status: int, code: str, expected: int) -> None:
    api.refuses("POST /run/greet", status, code, "do this and that", "run_9")
    told = runmesh("run", "greet")
    assert told.exit_code == expected
    assert told.stdout == ""
    assert told.stderr.splitlines()[:3] == ["error: do this and that", f"  code: {code}", "  request_id: run_9"]


def test_a_limit_tells_when_it_is_worth_trying_again(runmesh: Runmesh, api: ApiServer) -> None:
    api.says("POST /run/greet", {"detail": "too many", "code": "too_many_runs"}, 429, retry_after="7")
    assert "  again in: 7 s" in runmesh("run", "greet").stderr.splitlines()


def test_an_error_of_the_workflow_is_its_answer(runmesh: Runmesh, api: ApiServer) -> None:
    api.says("POST /run/greet", {"detail": "no tea"}, 418, error_origin="service", x_request_id="run_9")
    told = runmesh("run", "greet")
    assert told.exit_code == 1
    assert json.loads(told.stdout) == {"detail": "no tea"}
    assert told.stderr.startswith("run_9  418  ")


def test_nobody_there(runmesh: Runmesh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNMESH_URL", "http://127.0.0.1:1")
    told = runmesh("runs", "ls")
    assert told.exit_code == 4
    assert "can't reach http://127.0.0.1:1" in told.stderr
    assert "`runmesh up` starts one here" in told.stderr


def test_something_else_there(runmesh: Runmesh, api: ApiServer) -> None:
    api.says("GET /requests", b"<html>It works!</html>", content_type="text/html")
    told = runmesh("runs", "ls")
    assert told.exit_code == 4
    assert "which no Runmesh does: <html>It works!" in told.stderr


def test_a_redirect_is_not_followed_with_the_key(runmesh: Runmesh, api: ApiServer) -> None:
    api.says("GET /requests", b"", 302, location=f"{api.url}/elsewhere")
    assert runmesh("runs", "ls").exit_code == 4
    assert [asked.path for asked in api.asked] == ["/requests"]


def test_what_a_server_says_cannot_move_the_cursor(runmesh: Runmesh, api: ApiServer) -> None:
    api.refuses("GET /requests", 400, "bad_request", "\x1b[2J\x1b]0;owned\x07 \u202etxt.exe")
    told = runmesh("runs", "ls")
    assert not {"\x1b", "\x07", "\u202e"} & set(told.stderr)


def test_whose_key_was_refused_is_told_but_not_the_key(runmesh: Runmesh, api: ApiServer) -> None:
    api.refuses("GET /requests", 401, "unauthenticated")
    told = runmesh("runs", "ls")
    assert f"server: {api.url} (RUNMESH_URL)" in told.stderr
    assert "cwk-of-the-test" not in told.output


@pytest.mark.parametrize(
    "argv",
    [
        ("nonsense",),
        ("run",),
        ("run", "greet", "-d", "{bad"),
        ("run", "greet", "-d", "@missing"),
        ("run", "greet", "nothing"),
        ("run", "greet", "n:=bad"),
        ("run", "greet", "-d", '{"a": 1}', "b=2"),
        ("call", "GET", "workflows"),
        ("call", "GET", "/workflows", "-H", "nonsense"),
        ("deploy", "missing.py"),
        ("validate", "."),
        ("dev", "missing.py"),
        ("runs", "ls", "--limit", "0"),
        ("keys", "create", "--expires", "soon", "--scope", "run", "--workflow", "greet"),
        ("keys", "rotate", "key_1", "--overlap", "long"),
        ("secrets", "rm", "A"),
        ("workflows", "rm", "greet"),
        ("workflows", "set", "greet"),
        ("workflows", "set", "greet", "--limit", "concurrency=many"),
        ("workflows", "set", "greet", "--limit", "concurrency=3MiB"),
        ("workflows", "traffic", "greet", "half"),
        ("schedules", "create", "greet", "* * * * *", "-d", "@missing"),
        ("files", "put", "missing"),
        ("files", "get", "file:///etc/passwd"),
        ("usage", "--group-by", "moon"),
        ("init", "a b"),
        ("init", "a", "--starter", "nothing"),
        ("profiles", "add", "a b", "--url", "http://mesh"),
        ("profiles", "add", "a", "--url", "mesh"),
        ("profiles", "add", "a", "--url", "http://user:word@mesh"),
        ("profiles", "use", "nobody"),
        ("runs", "ls", "--profile", "nobody"),
    ],
    ids=" ".join,
)
def test_used_wrongly(runmesh: Runmesh, api: ApiServer, argv: tuple[str, ...]) -> None:
    told = runmesh(*argv)
    assert told.exit_code == 2, told.output
    assert told.stderr
    assert not [asked for asked in api.asked if asked.method != "GET"]


def test_no_server_is_known() -> None:
    told = CliRunner().invoke(app, ["runs", "ls"])
    assert told.exit_code == 4
    assert "no Runmesh runs here" in told.stderr


def test_an_address_without_its_key_gets_no_other_servers_key(
    runmesh: Runmesh, api: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.says("GET /prices", {"items": []})
    assert runmesh("profiles", "add", "other", "--url", "http://127.0.0.1:1", "--no-check", input="k").exit_code == 0
    monkeypatch.delenv("RUNMESH_API_KEY")
    told = runmesh("runs", "ls")
    assert told.exit_code == 2
    assert f"RUNMESH_API_KEY isn't set, and no profile is for {api.url}" in told.stderr
    assert not api.asked


def result_of(api: ApiServer, **changes: Any) -> None:
    api.says("GET /result/run_1", {"run": "the workflow's own field"})
    api.says("GET /request/run_1", RECORD | changes)


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, 0),
        ({"responseStatus": 404}, 1),
        ({"status": "failed", "responseStatus": 500}, 1),
        ({"status": "failed", "responseStatus": None, "code": "out_of_memory", "detail": "it took too much"}, 1),
        ({"status": "cancelled", "responseStatus": None, "code": "cancelled"}, 1),
    ],
)
def test_a_result_tells_what_became_of_the_run(
    runmesh: Runmesh, api: ApiServer, changes: dict[str, Any], status: int
) -> None:
    result_of(api, **changes)
    told = runmesh("result", "run_1")
    assert told.exit_code == status
    assert (changes.get("code") or "") in told.stderr
    assert json.loads(told.stdout or "null") == (None if changes.get("responseStatus", 1) is None else {"a": 1})


def test_a_result_that_is_not_there_yet(runmesh: Runmesh, api: ApiServer) -> None:
    api.refuses("GET /result/run_1", 408, "pending", "queued at 3")
    told = runmesh("result", "run_1")
    assert told.exit_code == 5
    assert "queued at 3" in told.stderr
    assert "--timeout 60" in told.stderr


def test_a_result_is_waited_for(runmesh: Runmesh, api: ApiServer) -> None:
    def later(asked: Asked) -> Reply:
        done = sum(one.path == "/result/run_1" for one in api.asked) > 1
        return Reply(200, {}) if done else Reply(504, {"detail": "not yet", "code": "timeout"})

    result_of(api)
    api.answers["GET /result/run_1"] = later
    assert runmesh("result", "run_1", "--timeout", "30").exit_code == 0
    assert api.last("GET /result/run_1").query == {"timeout": "29"}


def test_an_answer_that_breaks_off_is_no_success(runmesh: Runmesh, api: ApiServer) -> None:
    api.answers["POST /run/greet"] = Reply(200, headers={"content-type": "text/plain"}, chunks=(b"one ",), breaks=True)
    told = runmesh("run", "greet", "--stream")
    assert told.exit_code == 1
    assert told.stdout == "one "
    assert "broke off" in told.stderr


def test_a_failed_deploy_names_file_and_line(runmesh: Runmesh, api: ApiServer, nowhere: Path) -> None:
    (nowhere / "greet.py").write_text("import nothing\n")
    checks = [("syntax", True, "", None), ("imports", False, "ModuleNotFoundError: nothing", 1)]
    report = [dict(zip(("check", "passed", "detail", "line"), check, strict=True)) for check in checks]
    refusal = {"detail": "it wasn't deployed", "code": "invalid_workflow"}
    api.says("POST /deploy", refusal | {"report": report}, 422)
    told = runmesh("deploy", "greet.py")
    assert told.exit_code == 1
    assert "error: greet.py:1: imports: ModuleNotFoundError: nothing\n  nothing was deployed" in told.stderr
    api.says("POST /deploy", refusal, 422)  # of no check's: a template that is none, say
    told = runmesh("deploy", "greet.py")
    assert (told.exit_code, "error: it wasn't deployed\n  code: invalid_workflow" in told.stderr) == (1, True)


def test_the_steps_of_a_deploy_are_told_while_it_lasts(runmesh: Runmesh, api: ApiServer, nowhere: Path) -> None:
    (nowhere / "greet.py").write_text("app = 1\n")
    lines = ({"createdAt": f"2030-01-01T00:00:0{n}.000Z", "stream": "system", "message": f"step {n}"} for n in (1, 2))
    told = Event()

    def log(_asked: Asked) -> Reply:
        told.set()
        return Reply(200, chunks=tuple(json.dumps(line).encode() + b"\n" for line in lines))

    def deploy(_asked: Asked) -> Reply:
        assert told.wait(10)
        return Reply(200, {"service_id": "greet", "version": 1, "url": "http://x/run/greet", "report": []})

    api.says("POST /provision-request", {"request_id": "run_1"})
    api.answers |= {"GET /logs/run_1": log, "POST /deploy": deploy}
    done = runmesh("deploy", "greet.py", "--json")
    assert done.stderr == "deploying greet …\nstep 1 …\nstep 2 …\n"
    assert json.loads(done.stdout)["version"] == 1
    assert api.last("POST /deploy").headers["x-provisioned-request-id"] == "run_1"


def test_a_key_that_may_start_no_runs_deploys_without_being_told_the_steps(
    runmesh: Runmesh, api: ApiServer, nowhere: Path
) -> None:
    (nowhere / "greet.py").write_text("app = 1\n")
    api.refuses("POST /provision-request", 403, "forbidden")
    api.says("POST /validate", {"all_passed": True, "report": []})
    done = runmesh("validate", "greet.py")
    assert (done.exit_code, done.stderr) == (0, "checking greet.py …\n")
    assert "x-provisioned-request-id" not in api.last("POST /validate").headers


@pytest.mark.parametrize("content", [[1], "text", {"other": 1}, {"items": [{"other": 1}], "next": None}, {"items": []}])
def test_an_answer_that_lacks_what_it_must_have(runmesh: Runmesh, api: ApiServer, content: Any) -> None:
    api.says("GET /requests", content)
    told = runmesh("runs", "ls")
    assert told.exit_code == 4, told.exception
    assert "Runmesh" in told.stderr


def test_bytes_that_are_no_text_are_refused(runmesh: Runmesh, api: ApiServer) -> None:
    for argv in (["run", "greet", "a=\udcff"], ["runs", "show", "\udcff"], ["call", "POST", "/x", "-d", "\udcff"]):
        told = runmesh(*argv)
        assert told.exit_code == 2, told.exception
        assert "isn't UTF-8" in told.stderr
    assert not api.asked


def test_a_terminal_of_another_encoding_is_no_reason_to_fail(api: ApiServer) -> None:
    api.refuses("GET /requests", 400, "bad_request", "→ grüße")
    environ = {**os.environ, "RUNMESH_URL": api.url, "RUNMESH_API_KEY": "k", "PYTHONIOENCODING": "latin-1"}
    told = subprocess.run(
        [Path(sys.executable).parent / "runmesh", "runs", "ls"], env=environ, capture_output=True, check=False
    )
    assert (told.returncode, told.stderr.splitlines()[0]) == (3, "error: \\u2192 grüße".encode("latin-1"))


def test_a_server_by_tls_has_to_be_who_it_says(
    runmesh: Runmesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = Authority(tmp_path)
    (tmp_path / "roots.pem").write_text(world.certificate)
    with api_server(world.server("127.0.0.1")) as secure:
        secure.says("GET /secrets", {"items": [], "next": None})
        monkeypatch.setenv("RUNMESH_URL", secure.url)
        monkeypatch.delenv("SSL_CERT_FILE", raising=False)
        told = runmesh("secrets", "ls")
        assert told.exit_code == 4
        assert "CERTIFICATE_VERIFY_FAILED" in told.stderr
        assert "SSL_CERT_FILE names the file" in told.stderr
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "roots.pem"))
        assert runmesh("secrets", "ls").exit_code == 0


def test_the_version(runmesh: Runmesh) -> None:
    assert runmesh("--version").stdout == f"runmesh {version('runmesh')}\n"
