"""What each command asks of the server, and how it shows the answer."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from tests.fakes.api_server import ApiServer, Asked, Reply

Runmesh = Callable[..., Result]
NOW = "2030-01-31T12:00:00.000Z"
RUN = {
    "id": "run_1", "serviceId": "greet", "status": "failed", "code": "out_of_memory", "detail": None,
    "responseStatus": None, "createdAt": NOW, "startedAt": NOW, "completedAt": "2030-01-31T12:00:00.500Z",
    "trigger": "api", "parentId": None, "traceId": "t", "cost": {"own": 100, "nested": 50, "total": 150},
}  # fmt: skip
WORKFLOW = {"service_id": "greet", "name": "Greet", "kind": "code", "version": 2, "visibility": "private", "url": "u"}
KEY = {"id": "key_1", "name": "bob", "kind": "standard", "prefix": "cwk-Plqd", "scopes": ["run", "files"], "budget": 5,
       "created_at": NOW, "expires_at": None, "revoked_at": None}  # fmt: skip
SCHEDULE = {"id": "sch_1", "service_id": "greet", "cron_expression": "0 9 * * *", "timezone": "", "next_fire_at": None,
            "last_request_id": "run_7", "last_error": "gone"}  # fmt: skip
VERSION = {"version": 2, "id": "ver_2", "created_at": NOW, "python": "3.11", "code_sha256": "ab" * 32, "traffic": 100}
USED = {"group": "greet", "runs": 3, "amount": 302, "cpu_ms": 70, "tokens_in": 1, "tokens_out": 2, "egress_bytes": 9}
LISTINGS: list[tuple[tuple[str, ...], str, dict[str, Any], list[str]]] = [
    (("runs", "ls"), "/requests", RUN, ["run_1", "greet", "failed (out_of_memory)", "0.500 s", "0.000150"]),
    (("workflows", "ls"), "/workflows", WORKFLOW, ["greet", "Greet", "private"]),
    (("workflows", "versions", "greet"), "/workflows/greet/versions", VERSION, ["100 %", "3.11", "ababab"]),
    (("keys", "ls"), "/keys", KEY, ["key_1", "bob", "run files", "active", "0.000005"]),
    (("secrets", "ls"), "/secrets", {"name": "A", "updated_at": NOW, "hosts": ["a.example"]}, ["A", "a.example"]),
    (("schedules", "ls"), "/schedules", SCHEDULE, ["sch_1", "0 9 * * *", "UTC", "never", "run_7", "gone"]),
    (("usage",), "/usage", USED, ["greet", "0.000302", "0.070 s"]),
]
BY_COMMAND = [" ".join(argv) for argv, *_ in LISTINGS]


@pytest.mark.parametrize(("argv", "path", "item", "shown"), LISTINGS, ids=BY_COMMAND)
def test_a_listing(
    runmesh: Runmesh, api: ApiServer, argv: tuple[str, ...], path: str, item: dict[str, Any], shown: list[str]
) -> None:
    api.says(f"GET {path}", {"items": [item], "next": None})
    told = runmesh(*argv)
    assert told.exit_code == 0, told.output
    titles, line = told.stdout.splitlines()
    assert titles == titles.upper()
    assert [word for word in shown if word not in line] == []
    assert api.last(f"GET {path}").headers["authorization"] == "Bearer cwk-of-the-test"


@pytest.mark.parametrize(("argv", "path", "item", "_shown"), LISTINGS, ids=BY_COMMAND)
def test_a_listing_as_json_is_what_the_server_says(
    runmesh: Runmesh, api: ApiServer, argv: tuple[str, ...], path: str, item: dict[str, Any], _shown: list[str]
) -> None:
    api.says(f"GET {path}", {"items": [item], "next": "token"})
    told = runmesh(*argv, "--json", "--limit", "1", "--after", "earlier")
    assert json.loads(told.stdout) == {"items": [item], "next": "token"}
    asked = api.last(f"GET {path}").query
    assert (asked["limit"], asked["after"]) == ("1", "earlier")


def test_a_list_goes_on_over_pages_to_its_limit(runmesh: Runmesh, api: ApiServer) -> None:
    def page(asked: Asked) -> Reply:
        first = int(asked.query.get("after", "0"))
        items = [RUN | {"id": f"run_{number}"} for number in range(first, first + int(asked.query["limit"]))]
        return Reply(200, {"items": items, "next": str(first + len(items))})

    api.answers["GET /requests"] = page
    told = runmesh("runs", "ls", "--limit", "1500")
    assert len(told.stdout.splitlines()) == 1501
    assert told.stderr == "there are more: --after 1500\n"


def test_an_empty_list_says_so_and_is_no_table(runmesh: Runmesh, api: ApiServer) -> None:
    api.says("GET /secrets", {"items": [], "next": None})
    told = runmesh("secrets", "ls")
    assert (told.exit_code, told.stdout, told.stderr) == (0, "", "no secrets\n")


def test_run_sends_fields_as_json_and_prints_the_answer(runmesh: Runmesh, api: ApiServer) -> None:
    api.says("POST /run/greet@2/people", {"message": "grüße"}, x_request_id="run_1")
    told = runmesh("run", "greet@2/people", "name=Ada", "-d", "age:=36", "--as-template")
    assert told.stdout == '{\n  "message": "grüße"\n}\n'
    assert told.stderr.startswith("run_1  200  ")
    asked = api.last("POST /run/greet@2/people")
    assert asked.json == {"name": "Ada", "age": 36}
    assert (asked.headers["content-type"], asked.headers["run-as-template"]) == ("application/json", "yes")


def test_run_without_data_sends_an_empty_object(runmesh: Runmesh, api: ApiServer) -> None:
    api.says("POST /run/greet", b"plain", content_type="text/plain")
    assert runmesh("run", "greet").stdout == "plain"
    assert api.last("POST /run/greet").body == b"{}"


def test_run_takes_its_body_from_a_file_or_standard_input(runmesh: Runmesh, api: ApiServer, nowhere: Path) -> None:
    api.says("POST /run/greet", None)
    (nowhere / "photo").write_bytes(b"\x89PNG\0")
    runmesh("run", "greet", "-d", "@photo")
    asked = api.last("POST /run/greet")
    assert (asked.body, asked.headers["content-type"]) == (b"\x89PNG\0", "application/octet-stream")
    runmesh("run", "greet", "-d", "@-", input='[1, "2"]')
    assert api.last("POST /run/greet").json == [1, "2"]


def test_run_later_prints_the_id_alone(runmesh: Runmesh, api: ApiServer) -> None:
    api.says("POST /run_async/greet", {"request_id": "run_5"})
    told = runmesh("run", "greet", "--async")
    assert (told.stdout, told.stderr) == ("run_5\n", "")


def test_run_streams_bytes_as_they_come(runmesh: Runmesh, api: ApiServer) -> None:
    chunks = (b'data: {"a":1}\n\n', b"data: end\n\n")
    api.answers["POST /run/greet"] = Reply(200, headers={"content-type": "text/event-stream"}, chunks=chunks)
    assert runmesh("run", "greet", "--stream").stdout == "".join(chunk.decode() for chunk in chunks)


def test_call_keeps_path_query_headers_and_bytes(runmesh: Runmesh, api: ApiServer, nowhere: Path) -> None:
    api.says("PUT /run/greet/a", b'{"x":1}', x_request_id="run_1")
    told = runmesh(
        "call", "put", "/run/greet/a?b=c", "-d", "{}", "-H", "X-Budget: 5", "-H", "content-type: text/x", "-i"
    )
    assert told.stdout.startswith("HTTP 200\n")
    assert told.stdout.endswith('\n\n{"x":1}')
    asked = api.last("PUT /run/greet/a")
    assert asked.query == {"b": "c"}
    assert (asked.headers["x-budget"], asked.headers["content-type"]) == ("5", "text/x")
    assert runmesh("call", "PUT", "/run/greet/a", "-o", "kept").stdout == ""
    assert (nowhere / "kept").read_bytes() == b'{"x":1}'


def test_a_created_key_goes_to_stdout_alone(runmesh: Runmesh, api: ApiServer) -> None:
    made = {"id": "key_2", "key": "cwk-new", "scopes": ["run:greet"], "expires_at": NOW}
    api.says("POST /keys", made)
    told = runmesh("keys", "create", "bob", "-w", "greet", "--expires", "2030-01-31T12:00:00Z", "--budget", "0")
    assert told.stdout == "cwk-new\n"
    assert "cwk-new" not in told.stderr
    assert api.last("POST /keys").json == {
        "kind": "standard", "name": "bob", "scopes": ["run:greet"], "expires_at": "2030-01-31T12:00:00Z", "budget": 0,
    }  # fmt: skip


def test_a_key_is_rotated_with_an_overlap(runmesh: Runmesh, api: ApiServer) -> None:
    api.says("GET /keys", {"items": [KEY | {"prefix": "cwk-of-t"}], "next": None})
    api.says("POST /keys/key_1/rotate", {"id": "key_2", "key": "cwk-new"})
    told = runmesh("keys", "rotate", "key_1", "--overlap", "12h")
    assert told.stdout == "cwk-new\n"
    assert "it was the key of RUNMESH_URL: put the new one in its place" in told.stderr
    assert api.last("POST /keys/key_1/rotate").json == {"overlap_seconds": 43200}


@pytest.mark.parametrize(
    ("given", "value"),
    [("hush\n", "hush"), ("hush\r\n", "hush"), ("two\nlines\n\n", "two\nlines\n"), ("grüße", "grüße")],
)
def test_a_secret_comes_by_standard_input(runmesh: Runmesh, api: ApiServer, given: str, value: str) -> None:
    api.says("PUT /secrets/TOKEN", {"name": "TOKEN"})
    told = runmesh("secrets", "set", "TOKEN", "--host", "api.example.com", input=given)
    assert told.exit_code == 0, told.output
    assert api.last("PUT /secrets/TOKEN").json == {"value": value, "hosts": ["api.example.com"]}
    assert value not in told.output


@pytest.mark.parametrize("given", ["", "\n", b"\xff"])
def test_no_secret_is_set_to_nothing(runmesh: Runmesh, api: ApiServer, given: Any) -> None:
    assert runmesh("secrets", "set", "TOKEN", input=given).exit_code == 2
    assert not api.asked


def test_what_cannot_be_undone_needs_a_yes(runmesh: Runmesh, api: ApiServer) -> None:
    api.says("GET /keys", {"items": [KEY], "next": None})
    for argv, what in (
        (("secrets", "rm", "A"), "DELETE /secrets/A"),
        (("workflows", "rm", "greet"), "DELETE /workflows/greet"),
        (("keys", "revoke", "key_1"), "DELETE /keys/key_1"),
    ):
        api.says(what, {})
        assert runmesh(*argv).exit_code == 2
        assert what not in {f"{asked.method} {asked.path}" for asked in api.asked}
        assert runmesh(*argv, "--yes").exit_code == 0
        assert api.last(what).body == b""


def test_ids_lead_nowhere_else(runmesh: Runmesh, api: ApiServer) -> None:
    runmesh("workflows", "rm", "../keys/key_1", "--yes")
    assert api.asked[-1].path == "/workflows/..%2Fkeys%2Fkey_1"
    runmesh("runs", "show", "..")
    assert api.asked[-1].path in {"/request/%2E%2E", "/request/.."}


def test_versions_are_shared_out_and_taken_back(runmesh: Runmesh, api: ApiServer) -> None:
    api.says("PUT /workflows/greet/traffic", WORKFLOW | {"traffic": {"1": 90, "2": 10}})
    told = runmesh("workflows", "traffic", "greet", "1=90", "2=10%")
    assert told.stdout == "greet serves version 1 90 %, version 2 10 %\n"
    assert api.last("PUT /workflows/greet/traffic").json == {"1": 90, "2": 10}
    api.says("POST /workflows/greet/rollback", WORKFLOW | {"traffic": {"1": 100}})
    assert runmesh("workflows", "rollback", "greet").stdout == "greet serves version 1\n"
    assert api.last("POST /workflows/greet/rollback").json == {}
    runmesh("workflows", "rollback", "greet", "3")
    assert api.last("POST /workflows/greet/rollback").json == {"version": 3}


def test_a_workflow_is_changed(runmesh: Runmesh, api: ApiServer) -> None:
    api.says("PATCH /workflows/greet", WORKFLOW)
    wanted = ("concurrency=3", "memory_bytes=512MiB", "async_timeout_ms=1h", "disk_bytes=default")
    argv = ("--name", "New", "--visibility", "public", *(part for limit in wanted for part in ("--limit", limit)))
    assert runmesh("workflows", "set", "greet", *argv).exit_code == 0
    limits = {"concurrency": 3, "memory_bytes": 512 << 20, "async_timeout_ms": 3_600_000, "disk_bytes": None}
    assert api.last("PATCH /workflows/greet").json == {"name": "New", "visibility": "public", "limits": limits}


def test_a_schedule_is_made(runmesh: Runmesh, api: ApiServer) -> None:
    api.says("POST /schedules", SCHEDULE | {"next_fire_at": NOW})
    told = runmesh("schedules", "create", "greet", "0 9 * * *", "-z", "Europe/Berlin", "-d", "n:=1", "-d", "a=b")
    assert told.stdout == f"sch_1 runs greet, next at {NOW}\n"
    assert api.last("POST /schedules").json == {
        "service_id": "greet", "cron_expression": "0 9 * * *", "timezone": "Europe/Berlin",
        "input_data": {"n": 1, "a": "b"},
    }  # fmt: skip


def test_a_file_goes_up_without_the_key(runmesh: Runmesh, api: ApiServer, nowhere: Path) -> None:
    (nowhere / "a b.txt").write_text("content")
    made = {"upload_uri": f"{api.url}/up", "download_uri": f"{api.url}/down", "upload_headers": {"x-signed": "1"}}
    api.says("POST /file", made)
    api.says("PUT /up", {})
    told = runmesh("files", "put", "a b.txt")
    assert told.stdout == f"{api.url}/down\n"
    assert api.last("POST /file").query == {"filename": "a b.txt"}
    asked = api.last("PUT /up")
    assert (asked.body, asked.headers["x-signed"]) == (b"content", "1")
    assert "authorization" not in asked.headers


def test_a_file_comes_down_under_its_name_and_nowhere_else(runmesh: Runmesh, api: ApiServer, nowhere: Path) -> None:
    named = 'attachment; filename="../../etc/pass.txt"'
    api.answers["GET /down"] = Reply(200, b"content", {"content-disposition": named})
    assert runmesh("files", "get", f"{api.url}/down").exit_code == 0
    assert (nowhere / "pass.txt").read_bytes() == b"content"
    assert "authorization" not in api.last("GET /down").headers
    assert runmesh("files", "get", f"{api.url}/down").exit_code == 2
    assert runmesh("files", "get", f"{api.url}/down", "--force").exit_code == 0
    assert runmesh("files", "get", f"{api.url}/down", "-o", "-").stdout == "content"
    assert [file.name for file in nowhere.iterdir()] == ["pass.txt"]


def test_a_trace_is_a_tree_from_its_root(runmesh: Runmesh, api: ApiServer) -> None:
    middle = RUN | {"id": "run_2", "parentId": "run_1", "serviceId": "middle", "status": "succeeded", "code": None}
    leaf = middle | {"id": "run_3", "parentId": "run_2", "serviceId": "leaf", "createdAt": "2030-01-31T12:00:00.250Z"}
    for run in (RUN, middle, leaf):
        api.says(f"GET /request/{run['id']}", run)
    api.says("GET /requests", {"items": [leaf, middle, RUN], "next": None})
    told = runmesh("trace", "run_3")
    lines = told.stdout.splitlines()
    assert lines[0] == "trace t"
    assert lines[1].startswith("greet  run_1  failed (out_of_memory)  +0.000 s  0.500 s  0.000100 credits")
    assert "└── middle  run_2" in lines[2]
    assert "    └── leaf  run_3  succeeded  +0.250 s" in lines[3]
    assert api.last("GET /requests").query == {"trace_id": "t", "limit": "1000"}
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" in told.stderr
    tree = json.loads(runmesh("trace", "run_3", "--json").stdout)
    assert tree["complete"] is True
    assert tree["root"]["calls"][0]["calls"][0]["id"] == "run_3"


def test_a_trace_whose_root_is_hidden_says_so(runmesh: Runmesh, api: ApiServer) -> None:
    api.says("GET /request/run_2", RUN | {"id": "run_2", "parentId": "run_1"})
    api.says("GET /requests", {"items": [], "next": None})
    told = runmesh("trace", "run_2")
    assert told.exit_code == 0
    assert "isn't visible to this key" in told.stderr


def test_runs_are_cancelled_and_replayed(runmesh: Runmesh, api: ApiServer) -> None:
    api.says("GET /request/run_1", RUN | {"status": "running"})
    api.says("GET /request/run_2", RUN)
    api.says("DELETE /request/run_1", {})
    api.says("DELETE /request/run_2", {})
    told = runmesh("runs", "cancel", "run_1", "run_2")
    assert told.stdout.splitlines() == ["run_1 cancelled", "run_2 was over: failed"]
    api.says("POST /request/run_1/replay", {"request_id": "run_3"})
    assert runmesh("runs", "replay", "run_1", "--version", "2", "--offline").stdout == "run_3\n"
    assert api.last("POST /request/run_1/replay").json == {"version": 2, "mode": "offline"}


def test_credits(runmesh: Runmesh, api: ApiServer) -> None:
    told = {"balance": 999_000_000, "reserved": 1, "currency": "micro_credits"}
    api.says("GET /credits", told)
    assert "999.000000" in runmesh("credits").stdout
    assert json.loads(runmesh("credits", "--json").stdout) == told
