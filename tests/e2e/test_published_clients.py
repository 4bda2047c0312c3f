"""The published clients, unmodified, each version in an environment of its own: their users change the address only."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.mesh import Mesh

HERE = Path(__file__).parent / "clients"
pytestmark = pytest.mark.timeout(300)


def environment(mesh: Mesh) -> dict[str, str]:
    return {
        **{name: value for name, value in os.environ.items() if "proxy" not in name.lower()},
        "CODEWORDS_RUNTIME_URI": mesh.url,
        "RUNTIME_URI": mesh.url,
        "NEXT_PUBLIC_RUNTIME_URI": mesh.url,
        "CODEWORDS_API_KEY": mesh.key,
    }


@pytest.fixture(scope="module", params=["0.2.4", "0.3.4", "0.4.11"])
def driven(request: pytest.FixtureRequest, mesh: Mesh, python_client: Callable[[str], Path]) -> dict[str, Any]:
    """What every call of this version gave."""
    run = subprocess.run(
        [python_client(request.param), HERE / "drive.py"],
        env=environment(mesh), capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:] + "".join(mesh.output[-30:])
    results: dict[str, Any] = json.loads(run.stdout)
    return results


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_python_client_runs(driven: dict[str, Any], kind: str) -> None:
    assert driven[f"{kind}.run"] == {"message": "hello Ada", "calls": 1, "processed_count": 3}
    assert driven[f"{kind}.path"]["raw_path"] == "/echo/some/path"
    assert driven[f"{kind}.path"]["method"] == "POST"


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_python_client_follows_a_background_run(driven: dict[str, Any], kind: str) -> None:
    result = driven[f"{kind}.background"]
    assert result["processed_count"] == 3
    assert result["responseJson"] == {"message": "hello Bob", "calls": 1, "processed_count": 3}
    assert result["responseStatus"] == 200
    assert result["run"]["status"] == "succeeded"
    details = driven[f"{kind}.details"]
    assert details["id"] == result["id"]
    assert details["status"] == "succeeded"


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_fifty_lines_printed_at_once_all_arrive(driven: dict[str, Any], kind: str) -> None:
    lines = [line for line in driven[f"{kind}.logs"] if line["stream"] == "stdout"]
    assert [line["message"] for line in lines] == [f"line {number}" for number in range(50)]
    times = [line["createdAt"] for line in lines]
    assert times == sorted(set(times))


def test_python_client_prints_logs(driven: dict[str, Any]) -> None:
    printed = driven["async.print_logs"]["printed"]
    assert [number for number in range(5) if any(f"tick {number}" in line for line in printed)] == [0, 1, 2, 3, 4]
    assert driven["async.print_logs"]["answer"] == {"ok": True}


def test_print_logs_of_an_unknown_service_ends(driven: dict[str, Any]) -> None:
    assert driven["async.print_logs_unknown"]["status"] == 404
    assert driven["async.print_logs_unknown_seconds"] < 5


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_python_client_starts_a_service(driven: dict[str, Any], kind: str) -> None:
    name = {"sync": "Sync", "async": "Eve"}[kind]
    assert driven[f"{kind}.start_service"]["responseJson"]["message"] == f"hello {name}"


def test_python_client_gets_typed_errors(driven: dict[str, Any]) -> None:
    assert driven["sync.unknown"]["status"] == 404
    assert driven["sync.unknown"]["body"]["code"] == "not_found"
    assert driven["sync.teapot"] == {"status": 418, "body": {"detail": "short and stout"}}
    assert driven["async.raise"]["status"] == 500


def test_python_client_uploads(driven: dict[str, Any]) -> None:
    assert driven["sync.upload"] == "some content"
    assert driven["async.upload_size"] == 1 << 20


def test_newest_python_client_gets(driven: dict[str, Any]) -> None:
    if driven["version"] == "0.4.11":
        assert driven["sync.get"]["method"] == driven["async.get"]["method"] == "GET"
    else:  # the parameter came with 0.4
        assert not {"sync.get", "async.get"} & driven.keys()


def test_the_npm_client(mesh: Mesh, npm_client: Path) -> None:
    once = mesh.new_key(kind="one_time")["key"]
    run = subprocess.run(
        ["node", HERE / "drive.mjs", mesh.key, once],
        cwd=npm_client, env=environment(mesh), capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:] + "".join(mesh.output[-30:])
    results = json.loads(run.stdout)
    hello = {"calls": 1, "processed_count": 3}
    assert results["runService"] == {"message": "hello Ada", **hello}
    assert results["again"]["query"] == "q=1&q=2"
    # The id made by provisionRequest reads the newest of its runs.
    assert results["details"]["status"] == "succeeded"
    assert results["pollResult"]["id"] == results["runAsync"]
    assert results["pollResult"]["responseStatus"] == 200
    assert results["pollResult"]["responseJson"] == {"message": "hello Bob", **hello}
    lines = [json.loads(line) for line in results["fiftyLines"]]
    assert [line["message"] for line in lines if line["stream"] == "stdout"] == [f"line {n}" for n in range(50)]
    assert results["uploaded"] == "from npm"
    assert results["stream"] == [{"number": number} for number in range(5)]
    assert results["afterStream"] == {"message": "hello Last", **hello}
    assert [one["answer"]["message"] for one in results["parallel"]] == [f"hello n{n}" for n in range(1, 6)]
    assert {one["status"] for one in results["parallel"]} == {"succeeded"}
    assert len({one["id"] for one in results["parallel"]}) == 5
    assert results["once"]["message"] == "hello Once"
    assert results["onceDetails"]["status"] == "succeeded"
    assert results["twice"]["status"] == 401
    assert results["twice"]["data"]["code"] == "unauthenticated"
