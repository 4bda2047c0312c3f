"""A secret with hosts through the whole mesh: put, declared, sent where it may go, and seen nowhere else."""

import http.server
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.mesh import PACKAGES, Mesh, own_address
from tests.e2e.test_egress_clients import serving
from tests.fakes.certificates import Authority

pytestmark = pytest.mark.timeout(300)
CANARY, CHANGED = "c4n4ry-0f-the-first-value", "c4n4ry-0f-the-second-value"
CODE = """\
# /// script
# dependencies = PACKAGES
# [tool.env-checker]
# env_vars = ["TOKEN"]
# [tool.runmesh]
# isolation = "%s"
# ///
import json, os, urllib.request, uuid
from fastapi import FastAPI
import aiohttp, httpx, requests, uvicorn

app, loaded = FastAPI(), uuid.uuid4().hex
TOKEN, client = os.environ["TOKEN"], httpx.Client()

@app.post("/fetch")
def fetch(asked: dict):
    url, headers = asked["url"], {"Authorization": "Bearer " + TOKEN}
    session = requests.Session()
    said = [client.get(url, headers=headers).text, session.get(url, headers=headers).text,
            session.get(url, auth=("ada", TOKEN)).text,
            urllib.request.urlopen(urllib.request.Request(url, headers=headers)).read().decode()]
    with client.stream("POST", url, headers=headers, content=(b"x" * 100_000 for _ in range(20))) as answer:
        said.append(len(answer.read()))
    print("the token is", TOKEN)
    return {"said": said, "loaded": loaded}

@app.post("/aiohttp")
async def fetch_async(asked: dict):
    async with aiohttp.ClientSession() as session, session.get(asked["url"], headers={"X-Key": TOKEN}) as answer:
        return await answer.text()

@app.post("/problem")
def problem(asked: dict):
    answer = client.get(asked["url"], headers={"X-Key": TOKEN, **asked.get("headers", {})})
    return [answer.status_code, answer.json()]

@app.post("/seen")
def seen():
    def held(path):
        try:
            return open(path).read()
        except OSError:
            return ""
    proc = [held(f"/proc/{pid}/{what}") for pid in os.listdir("/proc") for what in ("environ", "cmdline")]
    return {"environ": dict(os.environ), "proc": proc, "etc": held("/etc/runmesh/ca-certificates.crt")[-3000:]}

if __name__ == "__main__":
    uvicorn.run(app)
""".replace("PACKAGES", PACKAGES)


class Recorder(http.server.BaseHTTPRequestHandler):
    """Keeps what it is told, in `server.heard`; answers with the length of a body."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.heard.append(str(self.headers))  # type: ignore[attr-defined]
        self._answer(b"hello")

    def do_POST(self) -> None:
        self.server.heard.append(str(self.headers))  # type: ignore[attr-defined]
        body = b""
        while count := int(self.rfile.readline(), 16):
            body += self.rfile.read(count)
            self.rfile.readline()
        self.rfile.readline()
        self._answer(body)

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Site:
    """A server of this machine's own address, with a certificate by `authority`."""

    def __init__(self, authority: Authority, name: str) -> None:
        self.server = http.server.ThreadingHTTPServer((own_address(), 0), Recorder)
        self.server.daemon_threads = True
        self.heard: list[str] = []
        self.server.heard = self.heard  # type: ignore[attr-defined]
        self.server.socket = authority.server(name).wrap_socket(self.server.socket, server_side=True)

    @property
    def host(self) -> str:
        return f"{own_address()}:{self.server.server_address[1]}"

    @property
    def url(self) -> str:
        return f"https://{self.host}/"


@pytest.fixture(scope="module", autouse=True)
def deployed(mesh: Mesh) -> None:
    for isolation in ("run", "instance", "cold"):
        mesh.deploy(f"fill-{isolation}", CODE % isolation)


@pytest.fixture
def named(world: Authority) -> Iterator[Site]:
    site = Site(world, own_address())
    with serving(site.server):
        yield site


@pytest.fixture
def other(world: Authority) -> Iterator[Site]:
    site = Site(world, own_address())
    with serving(site.server):
        yield site


def put(mesh: Mesh, value: str, *hosts: str) -> None:
    with mesh.http() as client:
        others = [item for item in client.get("/secrets").json()["items"] if item["name"] != "TOKEN"]
        answer = client.put("/secrets/TOKEN", json={"value": value, "hosts": hosts})
        assert answer.status_code == 200, answer.text
        items = client.get("/secrets").json()["items"]
        assert [(item["name"], item["hosts"]) for item in items if item not in others] == [("TOKEN", list(hosts))]
        assert len(items) == len(others) + 1
        assert value not in client.get("/secrets").text


def called(mesh: Mesh, path: str, **what: object) -> tuple[Any, str]:
    """The answer, and the run's id."""
    with mesh.http(timeout=60) as client:
        answer = client.post(f"/run/{path}", json=what)
    assert answer.status_code == 200, answer.text
    return answer.json(), answer.headers["x-request-id"]


def told(mesh: Mesh, run_id: str) -> str:
    """All that can be read of a run once it is over."""
    record = mesh.finished(run_id)
    with mesh.http() as client:
        pages = [client.get(f"/{what}/{run_id}").text for what in ("result", "logs")]
        return json.dumps(record) + "".join(pages) + client.get(f"/request/{run_id}/egress").text


@pytest.mark.parametrize("isolation", ["run", "instance", "cold"])
def test_the_value_reaches_its_host_and_nothing_else(mesh: Mesh, named: Site, other: Site, isolation: str) -> None:
    put(mesh, CANARY, named.host)
    said, run_id = called(mesh, f"fill-{isolation}/fetch", url=named.url)
    assert said["said"] == ["hello"] * 4 + [2_000_000]
    assert called(mesh, f"fill-{isolation}/aiohttp", url=named.url)[0] == "hello"
    heard = "".join(named.heard)
    assert heard.count(f"Authorization: Bearer {CANARY}") == 4
    assert f"X-Key: {CANARY}" in heard
    assert "secret://" not in heard
    assert "Basic " in heard
    again, other_id = called(mesh, f"fill-{isolation}/fetch", url=other.url)
    assert again["said"] == said["said"]
    assert "".join(other.heard).count("Authorization: Bearer secret://TOKEN") == 4
    assert CANARY not in "".join(other.heard)
    seen, seen_id = called(mesh, f"fill-{isolation}/seen")
    assert seen["environ"]["TOKEN"] == "secret://TOKEN"
    assert seen["environ"]["SSL_CERT_FILE"] == seen["environ"]["NODE_EXTRA_CA_CERTS"]
    told_ = "".join(told(mesh, each) for each in (run_id, other_id, seen_id)) + json.dumps(seen)
    assert "the token is secret://TOKEN" in told_
    assert '"secrets":["TOKEN"]' in told_.replace(" ", "")
    assert CANARY not in told_
    assert CANARY not in "".join(mesh.output)


def test_a_changed_value_needs_no_new_template(mesh: Mesh, named: Site) -> None:
    put(mesh, CANARY, named.host)
    first, _ = called(mesh, "fill-run/fetch", url=named.url)
    named.heard.clear()
    put(mesh, CHANGED, named.host)
    second, _ = called(mesh, "fill-run/fetch", url=named.url)
    assert f"Bearer {CHANGED}" in "".join(named.heard)
    assert CANARY not in "".join(named.heard)
    assert second["loaded"] == first["loaded"]


def test_without_hosts_the_value_is_in_the_environment(mesh: Mesh) -> None:
    put(mesh, CANARY)
    seen, _ = called(mesh, "fill-run/seen")
    assert seen["environ"]["TOKEN"] == CANARY
    assert "REQUESTS_CA_BUNDLE" not in seen["environ"]


def test_a_server_with_the_wrong_certificate_hears_nothing(mesh: Mesh, tmp_path: Path, world: Authority) -> None:
    for authority, name in ((world, "evil.example"), (Authority(tmp_path), own_address())):
        site = Site(authority, name)
        with serving(site.server):
            put(mesh, CANARY, site.host)
            (status, problem), run_id = called(mesh, "fill-run/problem", url=site.url)
        assert (status, problem["code"]) == (502, "upstream_not_verified")
        assert site.heard == []
        assert f"a connection to {site.host} was refused: the certificate of {own_address()}" in told(mesh, run_id)


def test_the_host_header_must_be_the_connections(mesh: Mesh, named: Site) -> None:
    put(mesh, CANARY, named.host)
    (status, problem), run_id = called(mesh, "fill-run/problem", url=named.url, headers={"Host": "evil.example"})
    assert (status, problem["code"]) == (421, "host_mismatch")
    assert named.heard == []
    assert "the Host header must name" in told(mesh, run_id)


def test_another_organizations_run_uses_its_own(mesh: Mesh, named: Site) -> None:
    put(mesh, CANARY, named.host)
    stranger = mesh.new_organization("stranger")["key"]
    mesh.deploy("theirs", CODE % "run", key=stranger)
    with mesh.http(stranger) as client:
        assert client.post("/run/theirs/seen").status_code == 424
        body = {"value": "theirs-and-not-ours", "hosts": [named.host]}
        assert client.put("/secrets/TOKEN", json=body).status_code == 200
        assert client.post("/run/theirs/fetch", json={"url": named.url}).status_code == 200
    assert "Bearer theirs-and-not-ours" in "".join(named.heard)
    assert CANARY not in "".join(named.heard)


@pytest.mark.parametrize("hosts", [["*.com"], ["ftp://a.example"], ["a.example/path"], "a.example"])
def test_bad_hosts_are_refused(mesh: Mesh, hosts: object) -> None:
    with mesh.http() as client:
        answer = client.put("/secrets/TOKEN", json={"value": "v", "hosts": hosts})
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")
        answer = client.put("/secrets/TOKEN", json={"value": "v\nX: y", "hosts": ["a.example"]})
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")
