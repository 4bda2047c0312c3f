"""`import runmesh` on the published client, oldest and newest, in environments of their own; by both its ways."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.mesh import ROOT, Mesh
from tests.fakes.api_server import ApiServer, Asked, Reply, api_server

pytestmark = pytest.mark.timeout(240)
DRIVER = Path(__file__).parent / "clients" / "convenience.py"
OLD, NEW = "0.2.4", "0.4.11"
OTHER_WAYS = [pytest.param(OLD, "async", marks=pytest.mark.slow), pytest.param(NEW, "sync", marks=pytest.mark.slow)]


def driven(python: Path, way: str, what: str, url: str, key: str, *argv: str) -> dict[str, Any]:
    """What the driver printed."""
    known = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    environ = known | {"PYTHONPATH": str(ROOT), "CODEWORDS_RUNTIME_URI": url, "CODEWORDS_API_KEY": key}
    run = subprocess.run(
        [python, DRIVER, way, what, *argv], env=environ, capture_output=True, text=True, timeout=200, check=False
    )
    assert run.returncode == 0, run.stderr[-3000:]
    told: dict[str, Any] = json.loads(run.stdout)
    return told


@pytest.mark.parametrize(
    ("version", "way"), [(OLD, "sync"), pytest.param(NEW, "async", marks=pytest.mark.slow), *OTHER_WAYS]
)
def test_a_tour(mesh: Mesh, python_client: Callable[[str], Path], version: str, way: str) -> None:
    organization = mesh.new_organization(f"convenience {way} {version}")
    told = driven(python_client(version), way, "tour", mesh.url, organization["key"], "signer")
    assert told["listed"] == ["SIGNING_KEY"]
    assert told["there"] is True
    assert told["valid"][0] is True
    assert told["valid"][1][:2] == ["syntax", "header"]
    passed, worst = told["invalid"]
    assert passed is False
    assert (worst["check"], worst["passed"], worst["line"]) == ("imports", False, 1)
    assert told["deployed"] == ["signer", 1, f"{mesh.url}/run/{organization['id']}.signer"]
    assert told["draft"] == 2
    assert (told["refused"]["type"], told["refused"]["status"]) == ("InvalidWorkflow", 422)
    assert "syntax" in told["refused"]["detail"]
    succeeded, status, http_status, output = told["output"]
    assert (succeeded, status, http_status) == (True, "succeeded", 200)
    assert (output["signed_by"], len(output["signature"])) == ("nobody", 64)
    assert told["failed"] == [False, 422]
    assert told["logs"] == told["logs_so_far"]
    assert {one["type"] for one in [*told["unknown"], told["unknown_so_far"]]} == {"NotFound"}
    assert told["gone"] is False


def pipedream(asked: Asked) -> Reply:
    """SPEC §7: {"app"} → {"connected", "connect_link_url"}."""
    assert asked.headers["authorization"] == "key-of-the-test"
    assert asked.json.keys() == {"app"}
    if asked.json["app"] == "unset":
        return Reply(424, {"detail": "set RUNMESH_PIPEDREAM_API_KEY", "code": "missing_secret", "request_id": "run_9"})
    if asked.json["app"] == "odd":
        return Reply(200, ["odd"])
    connected = asked.json["app"] == "slack"
    return Reply(200, {"connected": connected, "connect_link_url": None if connected else "https://connect.example/1"})


def deploy(asked: Asked) -> Reply:
    if asked.json["name"] == "limited":
        return Reply(429, {"detail": "too many", "code": "rate_limited"}, {"retry-after": "3"})
    return Reply(502, b"<html>Bad gateway</html>", {"content-type": "text/html"})


def pages(asked: Asked) -> Reply:
    name = "B" if asked.query.get("after") == "token" else "A"
    item = {"name": name, "updated_at": "2030-01-31T12:00:00.000Z", "hosts": []}
    return Reply(200, {"items": [item], "next": "token" if name == "A" else None})


@pytest.mark.parametrize(("version", "way"), [(OLD, "sync"), (NEW, "async"), *OTHER_WAYS])
def test_what_goes_wrong_is_told_by_its_type(python_client: Callable[[str], Path], version: str, way: str) -> None:
    with api_server() as api:
        api.answers |= {"POST /run/pipedream/connect": pipedream, "POST /deploy": deploy, "GET /secrets": pages}
        api.refuses("GET /result/run_pending", 504, "timeout")
        told = driven(python_client(version), way, "errors", api.url, "key-of-the-test")
        no_secret_left_us(api)
    assert told["connected"] == {"app_slug": "slack", "connected": True, "connect_link_url": None}
    link = {"app_slug": "gmail", "connected": False, "connect_link_url": "https://connect.example/1"}
    assert told["not_connected"] == link
    assert told["no_account"] == {
        "type": "MissingSecret", "status": 424, "code": "missing_secret", "request_id": "run_9",
        "detail": "set RUNMESH_PIPEDREAM_API_KEY",
    }  # fmt: skip
    assert told["odd"]["type"] == "RunmeshError"
    assert told["pages"] == ["A", "B"]
    assert "check_auth" in told["operation"]["detail"]
    wrong = ("operation", "no_app", "secret_operation", "secret_name", "secret_value")
    assert {told[name]["type"] for name in wrong} == {"ValueError"}
    assert (told["limited"]["type"], told["limited"]["status"]) == ("RateLimited", 429)
    assert told["stranger"]["type"] == "Unreachable"
    assert told["pending"]["type"] == "Pending"
    assert told["nobody"]["type"] == "Unreachable"
    assert "127.0.0.1:1" in told["nobody"]["detail"]
    assert told["unset"]["type"] == "NotConfigured"
    assert "CODEWORDS_RUNTIME_URI" in told["unset"]["detail"]


def no_secret_left_us(api: ApiServer) -> None:
    """What was refused on this side was never sent."""
    assert not [asked for asked in api.asked if asked.method == "PUT"]
