"""`runmesh logs`: lines as they come, broken connections, runs that go on."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from typer.testing import Result

from cli import logs
from tests.fakes.api_server import ApiServer, Asked, Reply

Runmesh = Callable[..., Result]


def line(number: int, **changes: Any) -> dict[str, Any]:
    told = {"createdAt": f"2030-01-31T12:00:00.{number:03d}Z", "seq": number, "stream": "stdout", "level": "info",
            "message": f"line {number}", "data": {}}  # fmt: skip
    return told | changes


def ndjson(*lines: dict[str, Any]) -> tuple[bytes, ...]:
    return tuple(json.dumps(one).encode() + b"\n" for one in lines)


def log(api: ApiServer, *lines: dict[str, Any], status: str = "succeeded") -> None:
    api.says("GET /request/run_1", {"id": "run_1", "status": status})
    api.answers["GET /logs/run_1"] = Reply(200, headers={"content-type": "application/x-ndjson"}, chunks=ndjson(*lines))


def test_lines_are_shown_with_their_time_level_and_data(runmesh: Runmesh, api: ApiServer) -> None:
    log(api, line(1), line(2, level="error", data={"n": 1, "t": "x"}), line(3, stream="system", message="\x1b[2Jcut"))
    shown = runmesh("logs", "run_1").stdout.splitlines()
    assert [one.split(" ", 1)[1] for one in shown] == ["line 1", "ERROR line 2 n=1 t=x", "[runmesh] \ufffd[2Jcut"]
    assert all(one[2] == ":" and one[8] == "." for one in shown)


def test_as_json_they_are_as_the_server_says(runmesh: Runmesh, api: ApiServer) -> None:
    log(api, line(1), line(2))
    assert [json.loads(one) for one in runmesh("logs", "run_1", "--json").stdout.splitlines()] == [line(1), line(2)]


def test_a_connection_that_breaks_is_made_again_where_it_broke(
    runmesh: Runmesh, api: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "_AGAIN_SECONDS", (0.01, 0.01))

    def answer(asked: Asked) -> Reply:
        after = asked.query.get("after", "")
        following = [one for one in (line(1), line(2), line(3)) if one["createdAt"] > after]
        return Reply(200, chunks=ndjson(following[0]), breaks=len(following) > 1)

    api.answers["GET /logs/run_1"] = answer
    told = runmesh("logs", "run_1", "-f")
    assert told.exit_code == 0
    assert [one.split(" ", 1)[1] for one in told.stdout.splitlines()] == ["line 1", "line 2", "line 3"]


def test_only_what_follows_asks_for_what_comes(runmesh: Runmesh, api: ApiServer) -> None:
    log(api, line(1), status="running")
    assert "line 1" in runmesh("logs", "run_1").stdout
    assert api.last("GET /logs/run_1").query == {"follow": "false"}
    assert "line 1" in runmesh("logs", "run_1", "-f").stdout
    assert api.last("GET /logs/run_1").query == {}


def test_one_that_breaks_for_good_is_told(runmesh: Runmesh, api: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_AGAIN_SECONDS", (0.01, 0.01))
    api.answers["GET /logs/run_1"] = Reply(200, chunks=(b"\n",), breaks=True)
    told = runmesh("logs", "run_1", "-f")
    assert told.exit_code == 1
    assert len(api.asked) == 3


def test_an_unknown_run_is_told_at_once(runmesh: Runmesh, api: ApiServer) -> None:
    api.refuses("GET /logs/run_1", 404, "not_found", "no such request")
    told = runmesh("logs", "run_1", "-f")
    assert (told.exit_code, len(api.asked)) == (3, 1)
    assert "error: no such request" in told.stderr


def test_a_name_is_its_newest_run(runmesh: Runmesh, api: ApiServer) -> None:
    log(api, line(1))
    api.says("GET /requests", {"items": [{"id": "run_1"}], "next": None})
    assert "line 1" in runmesh("logs", "greet").stdout
    assert api.last("GET /requests").query == {"service_id": "greet", "limit": "1"}


def test_a_name_without_runs(runmesh: Runmesh, api: ApiServer) -> None:
    api.says("GET /requests", {"items": [], "next": None})
    assert runmesh("logs", "greet").exit_code == 3
    api.says("GET /workflows/greet", {})
    told = runmesh("logs", "greet")
    assert (told.exit_code, "greet has no runs yet" in told.stderr) == (2, True)
