"""What a newcomer gets wrong: the answer names what to type next."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from tests.fakes.api_server import ApiServer
from tests.integration.cli.test_dev import deploys, dev

Runmesh = Callable[..., Result]
RUNMESH = Path(sys.executable).parent / "runmesh"
UNKNOWN = "no such workflow: check the service id, and that it is yours, public or a library service"


def test_a_missing_secret_is_set_by_a_command(runmesh: Runmesh, api: ApiServer, nowhere: Path) -> None:
    lacks = "the workflow needs secrets that don't exist: A, B_2; set each by PUT /secrets/NAME"
    api.refuses("POST /run/greet", 424, "missing_secret", lacks)
    assert runmesh("run", "greet").stderr.splitlines()[-2:] == ["  runmesh secrets set A", "  runmesh secrets set B_2"]
    told = "no secret is set for A: a run will fail (missing_secret) until it is. Set each by PUT /secrets/NAME."
    report = [{"check": "secrets", "passed": False, "detail": told, "line": 5}]
    api.says("POST /validate", {"all_passed": False, "report": report})
    (nowhere / "greet.py").write_text("pass")
    assert runmesh("validate", "greet.py").stderr.splitlines()[-1] == "  runmesh secrets set A"
    api.refuses("POST /run/greet", 424, "missing_secret", "the operator hasn't configured it: set RUNMESH_A")
    assert "secrets set" not in runmesh("run", "greet").stderr


@pytest.mark.parametrize(
    "argv", [("run", "greeet@2/a"), ("logs", "greeet"), ("schedules", "create", "greeet", "* * * * *")]
)
def test_a_name_that_is_mistyped(runmesh: Runmesh, api: ApiServer, argv: tuple[str, ...]) -> None:
    api.says("GET /requests", {"items": [], "next": None})
    for what in ("POST /run/greeet@2/a", "GET /workflows/greeet", "POST /schedules"):
        api.refuses(what, 404, "not_found", UNKNOWN)
    api.says("GET /workflows", {"items": [{"service_id": "hello"}, {"service_id": "greet"}], "next": None})
    assert runmesh(*argv).stderr.splitlines()[-1] == "  did you mean greet?"
    api.says("GET /workflows", {"items": [{"service_id": "other"}], "next": None})
    assert runmesh(*argv).stderr.splitlines()[-1] == "  runmesh workflows ls lists yours"
    api.refuses("GET /workflows", 403, "forbidden")
    refused = runmesh(*argv)
    assert (refused.exit_code, refused.stderr.splitlines()[0]) == (3, f"error: {UNKNOWN}")


def test_no_runs_of_a_name_that_is_mistyped(runmesh: Runmesh, api: ApiServer) -> None:
    api.says("GET /requests", {"items": [], "next": None})
    api.says("GET /workflows", {"items": [{"service_id": "greet"}], "next": None})
    assert runmesh("runs", "ls", "-w", "greeet").stderr == "no runs; did you mean greet?\n"
    assert runmesh("runs", "ls", "-w", "greet").stderr == "no runs\n"


def test_what_is_not_there_at_a_workflows_own_path_is_no_typo(runmesh: Runmesh, api: ApiServer) -> None:
    api.says("POST /run/greet/a", {"detail": UNKNOWN}, 404, error_origin="service")
    assert "mean" not in runmesh("run", "greet/a").stderr


@pytest.mark.parametrize(
    ("argv", "asked"),
    [
        (("workflows", "list"), "GET /workflows"),
        (("secrets", "delete", "A", "--yes"), "DELETE /secrets/A"),
        (("workflows", "get", "greet"), "GET /workflows/greet"),
    ],
)
def test_words_of_other_command_lines_work(runmesh: Runmesh, api: ApiServer, argv: tuple[str, ...], asked: str) -> None:
    runmesh(*argv)
    assert api.last(asked)
    assert "No such command 'lost'" in runmesh("workflows", "lost").stderr


def test_of_a_workflow_that_fails_it_says_where_the_log_is(runmesh: Runmesh, api: ApiServer) -> None:
    api.says("POST /run/greet", "Internal Server Error", 500, error_origin="service", x_request_id="run_7")
    assert runmesh("run", "greet").stderr.splitlines()[-1] == "its log: runmesh logs run_7"
    api.says("POST /run/greet", {"detail": "no"}, 404, error_origin="service", x_request_id="run_8")
    assert "its log" not in runmesh("run", "greet").stderr


def test_of_a_path_that_a_workflow_has_not_it_says_where_they_are(runmesh: Runmesh, api: ApiServer) -> None:
    for status, step in ((404, "its paths: runmesh workflows show greet"), (405, "runmesh call GET /run/greet@2/a")):
        api.says("POST /run/greet@2/a", {"detail": "no"}, status, error_origin="service", x_request_id="run_9")
        assert runmesh("run", "greet@2/a").stderr.splitlines()[-1].endswith(step)
    assert runmesh("call", "POST", "/run/greet@2/a").stderr.splitlines()[-1].startswith("run_9")


@pytest.mark.parametrize(
    ("argv", "what", "told", "step"),
    [
        (("keys", "revoke", "bob", "-y"), "DELETE /keys/bob", "no such key", "runmesh keys ls lists their ids"),
        (("result", "greet"), "GET /result/greet", "no such request: check", "runmesh runs ls lists the newest"),
    ],
)
def test_what_takes_an_id_says_where_they_are(
    runmesh: Runmesh, api: ApiServer, argv: tuple[str, ...], what: str, told: str, step: str
) -> None:
    api.refuses(what, 404, "not_found", told)
    assert runmesh(*argv).stderr.splitlines()[-1] == f"  {step}"


def test_an_address_that_leads_nowhere_is_no_download_that_broke_off(runmesh: Runmesh) -> None:
    told = runmesh("files", "get", "http://127.0.0.1:1/files/x")
    assert (told.exit_code, told.stderr.startswith("error: can't reach http://127.0.0.1:1/files/x: ")) == (4, True)


def test_a_file_with_nothing_in_it(runmesh: Runmesh, api: ApiServer, nowhere: Path) -> None:
    (nowhere / "empty.py").write_text(" \n")
    told = runmesh("deploy", "empty.py")
    assert (told.exit_code, told.stderr.splitlines()[0]) == (2, "error: empty.py is empty")
    assert not api.asked


def test_a_name_that_gives_no_id(runmesh: Runmesh, api: ApiServer, nowhere: Path) -> None:
    (nowhere / "日本.py").write_text("pass")
    api.refuses("POST /deploy", 400, "bad_request", "a service_id is …: the name gives none; set `service_id`")
    assert runmesh("deploy", "日本.py").stderr.splitlines()[-1] == "  --id gives it one"


def test_a_key_for_a_workflow_that_is_not_there(runmesh: Runmesh, api: ApiServer) -> None:
    made = {"id": "key_1", "key": "cwk-1", "scopes": ["run:nope"], "expires_at": None}
    api.says("POST /keys", made)
    assert "there is no workflow nope yet" in runmesh("keys", "create", "-w", "nope").stderr
    api.says("GET /workflows/nope", {})
    told = runmesh("keys", "create", "-w", "nope")
    assert (told.stdout, "yet" in told.stderr) == ("cwk-1\n", False)


def test_an_end_that_is_no_time(runmesh: Runmesh, api: ApiServer) -> None:
    told = runmesh("keys", "create", "--expires", "tomorrow")
    assert (told.exit_code, "30m, 12h, 7d or 4w" in told.stderr, api.asked) == (2, True, [])


@pytest.mark.parametrize(
    ("to", "status", "told"),
    [("/dev/full", 2, "error: can't write the output, or read the input: No space left on device\n"), ("&-", 0, "")],
)
def test_an_output_that_takes_nothing_is_no_traceback(to: str, status: int, told: str) -> None:
    ended = subprocess.run(f"{RUNMESH} --version >{to}", shell=True, stderr=subprocess.PIPE, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (status, told)


def test_dev_with_a_port_ends_without_a_traceback(api: ApiServer, nowhere: Path) -> None:
    deploys(api)
    (nowhere / "my_flow.py").write_text("good")
    with dev(api, nowhere, "my_flow.py", "--port", "0") as running:
        running.says("version 1 is served")
        assert running.end(signal.SIGINT) == 130
        assert "Traceback" not in running.text()
