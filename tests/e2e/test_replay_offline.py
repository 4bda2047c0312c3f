"""A recorded run once more, with nothing and nobody outside: the same answer; and who may, and what isn't kept."""

import http.server
import json
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.mesh import PACKAGES, Mesh, own_address, until
from tests.fakes.certificates import Authority

pytestmark = pytest.mark.timeout(300)
CANARY, INSIDE = "c4n4ry-that-is-filled-in", "c4n4ry-that-is-inside"
CODE = """\
# /// script
# dependencies = PACKAGES
# [tool.env-checker]
# env_vars = ["TOKEN", "INNER"]
# [tool.runmesh]
# isolation = "%s"
# ///
import datetime, os, random, time
from datetime import datetime as bound
from fastapi import FastAPI
from pydantic import BaseModel
import httpx, numpy, uvicorn

app, own, generator = FastAPI(), random.Random(), numpy.random.default_rng()
TOKEN, INNER = os.environ["TOKEN"], os.environ["INNER"]

class Asked(BaseModel):
    urls: list[str]
    since: bound | None = None

@app.post("/")
def fetch(asked: Asked):
    said = []
    with httpx.Client() as client:
        for number, url in enumerate(asked.urls):
            headers = {"Authorization": "Bearer " + TOKEN, "X-Inner": INNER, "X-Number": str(random.random())}
            try:
                answer = client.post(url, content=f"{number} {INNER} {EXTRA}", headers=headers)
                said.append([answer.status_code, answer.text[:2000], len(answer.content)])
            except httpx.HTTPError as error:
                said.append(type(error).__name__)
    drawn = [random.random(), own.random(), float(generator.random()), float(numpy.random.random())]
    return {"said": said, "drawn": drawn, "since": asked.since}

@app.post("/clock")
def clock():
    now = bound.now(datetime.timezone.utc)
    both = [time.time(), time.time_ns() / 1e9, now.timestamp(), datetime.datetime.utcnow().replace(
        tzinfo=datetime.timezone.utc).timestamp(), time.clock_gettime(time.CLOCK_REALTIME), bound.now().timestamp()]
    days = [str(datetime.date.today()), time.strftime("%%Y-%%m-%%d"), str(bound.today().date())]
    return {"all": both, "days": days, "kind": type(now).__name__}

@app.post("/nested")
def nested():
    with httpx.Client(base_url=os.environ["CODEWORDS_RUNTIME_URI"]) as client:
        return client.post("/run/luck", headers={"Authorization": "Bearer " + os.environ["CODEWORDS_API_KEY"]}).json()

if __name__ == "__main__":
    uvicorn.run(app)
""".replace("EXTRA", "''").replace("PACKAGES", PACKAGES)
LUCK = """\
# /// script
# dependencies = ["fastapi", "uvicorn"]
# ///
import secrets, uvicorn
from fastapi import FastAPI
app = FastAPI()

@app.post("/")
def luck():
    return {"luck": secrets.token_hex(8)}

if __name__ == "__main__":
    uvicorn.run(app)
"""


class Echo(http.server.BaseHTTPRequestHandler):
    """Says what it was told, and how manieth a request it is."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.heard.append(self.path)  # type: ignore[attr-defined]
        told = {"count": len(self.server.heard), "headers": str(self.headers), "body": body.decode()}  # type: ignore[attr-defined]
        answer = b"x" * 3_000_000 if self.path == "/huge" else json.dumps(told).encode()
        self.send_response(201)
        self.send_header("content-length", str(len(answer)))
        self.send_header("x-echo", self.headers.get("x-inner", ""))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass


class Site:
    """A server at this machine's own address, by TLS where there is an authority."""

    def __init__(self, authority: Authority | None = None) -> None:
        self.server = http.server.ThreadingHTTPServer((own_address(), 0), Echo)
        self.server.daemon_threads = True
        self.heard: list[str] = []
        self.server.heard = self.heard  # type: ignore[attr-defined]
        if authority is not None:
            self.server.socket = authority.server(own_address()).wrap_socket(self.server.socket, server_side=True)
        self.host = f"{own_address()}:{self.server.server_address[1]}"
        self.url = f"http{'s' if authority else ''}://{self.host}"

    @contextmanager
    def serving(self) -> Iterator["Site"]:
        thread = threading.Thread(target=self.server.serve_forever)
        thread.start()
        try:
            yield self
        finally:
            self.server.shutdown()
            thread.join()
            self.server.server_close()


@pytest.fixture(scope="module", autouse=True)
def taped(mesh: Mesh) -> None:
    with mesh.http() as client:
        for name, value in (("TOKEN", CANARY), ("INNER", INSIDE)):
            assert client.put(f"/secrets/{name}", json={"value": value}).status_code == 200
    for isolation in ("run", "instance", "cold"):
        mesh.deploy(f"taped-{isolation}", CODE % isolation)
    mesh.deploy("luck", LUCK)


def recorded(mesh: Mesh, path: str, **body: object) -> dict[str, Any]:
    """The record of a recorded call, over."""
    with mesh.http(timeout=60) as client:
        answer = client.post(f"/run/{path}", json=body, headers={"X-Record": "yes"})
        assert answer.status_code == 200, answer.text
    record = mesh.finished(answer.headers["x-request-id"])
    assert record["recorded"] is True
    assert record["responseContent"] == answer.text
    return record


def replayed(mesh: Mesh, run_id: str, **wish: object) -> tuple[dict[str, Any], dict[str, Any]]:
    """The record of its replay, and how it differs."""
    with mesh.http() as client:
        answer = client.post(f"/request/{run_id}/replay", json={"mode": "offline", **wish})
        assert answer.status_code == 200, answer.text
        record = mesh.finished(answer.json()["request_id"])
        return record, client.get(f"/request/{record['id']}/diff").json()


@pytest.mark.parametrize("isolation", ["run", pytest.param("instance", marks=pytest.mark.slow), "cold"])
def test_the_same_answer_without_the_servers(mesh: Mesh, world: Authority, isolation: str) -> None:
    with Site().serving() as plain, Site(world).serving() as secure:
        with mesh.http() as client:
            body = {"value": CANARY, "hosts": [secure.host]}
            assert client.put("/secrets/TOKEN", json=body).status_code == 200
        urls = [f"{plain.url}/a?key={INSIDE}", f"{plain.url}/a?key={INSIDE}", f"{secure.url}/b", f"{plain.url}/c"]
        first = recorded(mesh, f"taped-{isolation}", urls=urls, since="2030-01-01T00:00:00Z")
        assert (len(plain.heard), len(secure.heard)) == (3, 1)
        said = first["responseJson"]["said"]
        assert [one[0] for one in said] == [201] * 4
        assert [json.loads(one[1])["count"] for one in said] == [1, 2, 1, 3]
        assert "secret://TOKEN" not in said[2][1]  # the server has echoed the value to the workflow
    again, diff = replayed(mesh, first["id"])
    assert again["status"] == "succeeded", again
    drawn = [one["responseJson"]["drawn"] for one in (first, again)]
    if isolation == "cold":  # what was made while it was imported isn't known there
        drawn = [[one[0], one[3]] for one in drawn]
    assert drawn[0] == drawn[1]
    # What the server echoed of a value that was filled in isn't kept; a secret that is inside is put back.
    masked = json.loads(json.dumps(first["responseJson"]["said"]).replace(CANARY, "secret://TOKEN"))
    assert [one[:2] for one in again["responseJson"]["said"]] == [one[:2] for one in masked]
    assert (again["replayMode"], again["trigger"]) == ("offline", "replay")
    assert diff["outbound"]["same"]
    assert [item["change"] for item in diff["outbound"]["items"]] == ["same"] * 4
    assert diff["status"]["same"]
    with mesh.http() as client:
        egress = client.get(f"/request/{again['id']}/egress").json()["items"]
    assert {item["reason"] for item in egress} == {"answered from the recording"}


def test_it_is_the_same_to_the_byte_and_as_often_as_one_likes(mesh: Mesh) -> None:
    mesh.deploy("plainly", (CODE % "run").replace("{INNER}", "").replace('"X-Inner": INNER, ', ""))
    with Site().serving() as plain:
        first = recorded(mesh, "plainly", urls=[f"{plain.url}/{name}" for name in "aab"])
    for _ in range(2):
        again, diff = replayed(mesh, first["id"])
        assert again["responseContent"] == first["responseContent"]
        assert diff["same"] is True, diff
    third, diff = replayed(mesh, again["id"])  # a replay was recorded, too
    assert third["responseContent"] == first["responseContent"]


def test_the_clock_starts_where_it_stood(mesh: Mesh) -> None:
    first = recorded(mesh, "taped-run/clock")
    time.sleep(3)
    again, _ = replayed(mesh, first["id"])
    before, after = first["responseJson"], again["responseJson"]
    assert after["days"] == before["days"]
    assert after["kind"] == "datetime"
    for one, other in zip(before["all"], after["all"], strict=True):
        assert abs(other - one) < 2, (before, after)
    live, _ = replayed(mesh, first["id"], mode="live")
    assert live["responseJson"]["all"][0] - before["all"][0] > 3


def test_nested_calls_are_answered_too(mesh: Mesh) -> None:
    first = recorded(mesh, "taped-run/nested")
    with mesh.http() as client:

        def runs() -> list[dict[str, Any]]:
            return list(client.get("/requests?service_id=luck").json()["items"])

        until(lambda: first["id"] in [each["parentId"] for each in runs()])  # written down a moment later
        before = len(runs())
        again, diff = replayed(mesh, first["id"])
        assert again["responseJson"] == first["responseJson"]
        assert len(runs()) == before
    assert [item["url"] for item in diff["outbound"]["items"]] == ["http://runtime.runmesh/run/luck"]


@pytest.mark.slow
def test_another_version_asks_for_something_else(mesh: Mesh) -> None:
    mesh.deploy("changing", CODE % "run")
    with Site().serving() as plain:
        first = recorded(mesh, "changing", urls=[f"{plain.url}/a", f"{plain.url}/b"])
        mesh.deploy("changing", (CODE % "run").replace("url, content=", 'url.replace("/b", "/z"), content="more" +'))
        again, diff = replayed(mesh, first["id"], version=2)
        assert len(plain.heard) == 2
    said = again["responseJson"]["said"]
    assert said[0][0] == 201
    assert said[1][0] == 502
    assert json.loads(said[1][1])["code"] == "not_recorded"
    changes = [(item["change"], item["url"].rsplit("/", 1)[1]) for item in diff["outbound"]["items"]]
    assert sorted(changes) == [("added", "z"), ("changed", "a"), ("removed", "b")]
    assert diff["same"] is False
    assert diff["versions"]["same"] is False
    with mesh.http() as client:
        egress = client.get(f"/request/{again['id']}/egress").json()["items"]
        assert any(item["verdict"] == "denied" and "/z" in item["reason"] for item in egress)
        assert "its recording has no (other) answer to POST /z" in client.get(f"/logs/{again['id']}").text


def test_what_could_not_be_reached_still_can_not(mesh: Mesh) -> None:
    urls = ["http://10.254.254.254/", "http://nowhere.invalid/"]
    first = recorded(mesh, "taped-run", urls=urls)
    again, _ = replayed(mesh, first["id"])
    for said in (first["responseJson"]["said"], again["responseJson"]["said"]):
        assert all(isinstance(one, str) and one.endswith("Error") for one in said)
    with mesh.http() as client:
        (one,) = [each for each in client.get(f"/request/{again['id']}/egress").json()["items"] if each["port"]]
    assert (one["verdict"], one["host"]) == ("denied", "10.254.254.254")
    assert "as it was recorded: a private address" in one["reason"]


def test_a_huge_answer_is_cut_and_that_is_said(mesh: Mesh) -> None:
    with Site().serving() as plain:
        first = recorded(mesh, "taped-run", urls=[f"{plain.url}/huge", f"{plain.url}/a"])
        assert first["responseJson"]["said"][0][2] == 3_000_000
    again, _ = replayed(mesh, first["id"])
    cut, whole = again["responseJson"]["said"]
    assert (cut[0], json.loads(cut[1])["code"], whole[0]) == (502, "recording_cut", 201)


def test_no_secret_is_on_the_disk_and_nobody_else_can_use_it(mesh: Mesh, world: Authority) -> None:
    with Site(world).serving() as secure:
        with mesh.http() as client:
            body = {"value": CANARY, "hosts": [secure.host]}
            assert client.put("/secrets/TOKEN", json=body).status_code == 200
        mesh.deploy("quiet", (CODE % "run").replace("answer.text[:2000]", "''"))
        first = recorded(mesh, "quiet", urls=[f"{secure.url}/a?key={INSIDE}"])
    recordings = [path for path in Path(mesh.home).rglob("*") if path.is_file() and b'"exchanges"' in path.read_bytes()]
    assert recordings
    for recording in recordings:
        content = recording.read_bytes()
        assert CANARY.encode() not in content
        assert INSIDE.encode() not in content
    stranger = mesh.new_organization("nosy")["key"]
    with mesh.http(stranger) as other:
        for method, path in (("POST", "replay"), ("GET", "diff")):
            answer = other.request(method, f"/request/{first['id']}/{path}", json={"mode": "offline"})
            assert answer.status_code == 404


RAW = """\
# /// script
# dependencies = ["uvicorn"]
# ///
import json, socket

def tried(host, port, first):
    try:
        with socket.create_connection((host, port), 10) as sock:
            if first:
                sock.sendall(first.encode())
                sock.shutdown(socket.SHUT_WR)
            return sock.makefile("rb").read().decode()
    except OSError as error:
        return type(error).__name__

async def app(scope, receive, send):
    if scope["type"] == "http":
        targets = json.loads((await receive())["body"])
        said = json.dumps([tried(*target) for target in targets]).encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": said})

if __name__ == "__main__":
    import uvicorn
    uvicorn.run(app)
"""


class Greeter(socketserver.StreamRequestHandler):
    """Speaks first, as mail servers do, and then repeats what it hears."""

    def handle(self) -> None:
        self.wfile.write(b"220 hello\n")
        self.connection.settimeout(3)
        try:
            self.wfile.write(self.rfile.read())
        except TimeoutError:
            return


@pytest.mark.slow
def test_what_is_not_http_goes_through_and_is_not_answered_offline(mesh: Mesh) -> None:
    mesh.deploy("raw", RAW)
    with socketserver.ThreadingTCPServer((own_address(), 0), Greeter) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        port = server.server_address[1]
        with mesh.http(timeout=60) as client:
            targets = [[own_address(), port, "some words"], [own_address(), port, ""]]
            answer = client.post("/run/raw", json=targets, headers={"X-Record": "yes"})
        server.shutdown()
        thread.join()
    assert answer.json() == ["220 hello\nsome words", "220 hello\n"]
    run_id = answer.headers["x-request-id"]
    assert mesh.finished(run_id)["recorded"] is True
    again, _ = replayed(mesh, run_id)
    assert all(one.endswith("Error") for one in json.loads(again["responseContent"]))
    with mesh.http() as client:
        (one,) = client.get(f"/request/{again['id']}/egress").json()["items"]
    assert (one["verdict"], one["reason"]) == ("denied", "the run is replayed offline, and only HTTP is recorded")
