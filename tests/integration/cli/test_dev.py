"""`runmesh dev` as a process, and its port, against a server that says what a test wants."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from cli.relay import relaying
from cli.servers import Server
from tests.e2e.mesh import until
from tests.fakes.api_server import ApiServer, Asked, Reply

RUNMESH = Path(sys.executable).parent / "runmesh"
NO_RUNS: dict[str, object] = {"items": [], "next": None}


class Dev:
    """A running one. `output` grows as it prints; stdout and stderr together."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.output: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.output.extend(iter(self.process.stdout.readline, ""))

    def text(self) -> str:
        return "".join(self.output)

    def says(self, text: str) -> None:
        until(lambda: text in self.text() or self.process.poll() is not None, 20)
        assert text in self.text(), self.text()

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        status = self.process.wait(20)
        self._reader.join(5)
        return status


@contextmanager
def dev(api: ApiServer, folder: Path, *argv: str) -> Iterator[Dev]:
    environ = {**os.environ, "RUNMESH_URL": api.url, "RUNMESH_API_KEY": "cwk-of-the-test"}
    process = subprocess.Popen(
        [RUNMESH, "dev", *argv], cwd=folder, env=environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        yield Dev(process)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


def deploys(api: ApiServer) -> None:
    """Code with `bad` in it is refused."""
    versions = iter(range(1, 100))

    def deploy(asked: Asked) -> Reply:
        if "bad" in asked.json["code"]:
            failed = {"check": "syntax", "passed": False, "detail": "SyntaxError: invalid syntax", "line": 1}
            return Reply(422, {"detail": "it wasn't deployed", "code": "invalid_workflow", "report": [failed]})
        warning = {"check": "secrets", "passed": False, "detail": "no secret is set for A", "line": 4}
        told = {"service_id": "my-flow-dev", "version": next(versions), "url": f"{api.url}/run/org.my-flow-dev"}
        return Reply(200, told | {"report": [warning]})

    api.answers["POST /deploy"] = deploy
    api.says("GET /requests", NO_RUNS)
    api.says("DELETE /workflows/my-flow-dev", {})


def test_it_deploys_at_each_save_and_cleans_up(api: ApiServer, nowhere: Path) -> None:
    deploys(api)
    file = nowhere / "My Flow.py"
    file.write_text("good")
    with dev(api, nowhere, file.name) as running:
        running.says("version 1 is served")
        running.says("My Flow.py:4: secrets: no secret is set for A")
        assert api.last("POST /deploy").json == {"code": "good", "name": "my-flow-dev", "service_id": "my-flow-dev"}
        file.write_text("bad code")
        running.says("error: My Flow.py:1: syntax: SyntaxError: invalid syntax")
        file.unlink()  # as some editors do
        (nowhere / "new").write_text("good again")
        (nowhere / "new").rename(file)
        running.says("version 2 is served")
        log = {"createdAt": "2030-01-31T12:00:00.000Z", "seq": 1, "stream": "stdout", "level": "info", "data": {}}
        chunks = (json.dumps(log | {"message": "from the run"}).encode() + b"\n",)
        api.answers["GET /logs/run_000001"] = Reply(200, chunks=chunks)
        api.says("GET /requests", {"items": [{"id": "run_000001"}], "next": None})
        running.says("from the run")
        assert running.end(signal.SIGINT) == 130
        assert "my-flow-dev is removed" in running.text()
    assert api.last("DELETE /workflows/my-flow-dev")
    assert len([asked for asked in api.asked if asked.path == "/deploy"]) == 3


def test_what_was_there_before_stays(api: ApiServer, nowhere: Path) -> None:
    deploys(api)
    api.says("GET /workflows/my-flow-dev", {})
    (nowhere / "my_flow.py").write_text("good")
    with dev(api, nowhere, "my_flow.py") as running:
        running.says("version 1 is served")
        assert running.end(signal.SIGTERM) == 130
    assert "DELETE" not in {asked.method for asked in api.asked}


def test_without_a_mesh_it_says_how_to_start_one(nowhere: Path) -> None:
    (nowhere / "a.py").write_text("good")
    run = subprocess.run([RUNMESH, "dev", "a.py"], cwd=nowhere, capture_output=True, text=True, timeout=30, check=False)
    assert run.returncode == 4
    assert "`runmesh up` starts one here" in run.stderr


@pytest.fixture
def port(api: ApiServer) -> Iterator[str]:
    """The address of a relay."""
    with relaying(Server(api.url, "cwk-of-the-test", "a test"), "greet-dev", 0) as url:
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", url)
        yield url.rstrip("/")


def test_the_port_passes_calls_on_with_the_key(api: ApiServer, port: str) -> None:
    headers = {"content-type": "text/event-stream", "x-request-id": "run_1"}
    api.answers["POST /run/greet-dev/a%2Fb"] = Reply(201, headers=headers, chunks=(b"one", b"two"))
    with httpx.Client(trust_env=False) as client:
        sent = {"Authorization": "Bearer other", "X-Mine": "1"}
        answer = client.post(f"{port}/a%2Fb?c=d", content=b"body", headers=sent)
    assert (answer.status_code, answer.content, answer.headers["x-request-id"]) == (201, b"onetwo", "run_1")
    asked = api.last("POST /run/greet-dev/a%2Fb")
    assert (asked.query, asked.body, asked.headers["x-mine"]) == ({"c": "d"}, b"body", "1")
    assert asked.headers["authorization"] == "Bearer cwk-of-the-test"


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Host": "evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},  # <img src="http://127.0.0.1:…">
    ],
)
def test_pages_from_elsewhere_get_nothing_by_the_port(api: ApiServer, port: str, headers: dict[str, str]) -> None:
    with httpx.Client(trust_env=False) as client:
        assert client.post(f"{port}/", content=b"{}", headers=headers).status_code == 403
    assert not api.asked


@pytest.mark.parametrize(
    "path", ["/../../keys", "/a/../../../keys", "/%2e%2e/%2E%2e/keys", "/..%2f..%2fkeys", "/.\\..\\"]
)
def test_no_path_leads_out_of_the_workflow(api: ApiServer, port: str, path: str) -> None:
    host, _, number = port.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(number)), timeout=10) as connection:  # clients would tidy the path up
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        assert connection.makefile("rb").readline().split()[1] == b"400"
    assert not api.asked


def test_a_page_of_this_machine_may(api: ApiServer, port: str) -> None:
    api.says("GET /run/greet-dev/", {"a": 1})
    with httpx.Client(trust_env=False) as client:
        page = {"Origin": "http://localhost:3000", "Sec-Fetch-Site": "cross-site"}
        assert client.get(f"{port}/", headers=page).json() == {"a": 1}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("a=b; HttpOnly; Path=/run/greet-dev", "a=b; HttpOnly; Path=/"),
        ("a=b; Path=/run/greet-dev/x", "a=b; Path=/x"),
        ("a=b; Path=/run/other", "a=b; Path=/run/other"),
        ("a=b", "a=b"),
    ],
)
def test_a_cookie_comes_back_to_the_port(api: ApiServer, port: str, given: str, told: str) -> None:
    api.answers["GET /run/greet-dev/"] = Reply(200, headers={"set-cookie": given}, chunks=(b"x",))
    with httpx.Client(trust_env=False) as client:
        assert client.get(f"{port}/").headers["set-cookie"] == told
