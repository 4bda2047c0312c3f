"""What a workflow reaches of the world, what it doesn't, and where that can be read."""

import json
import socketserver
import threading
from collections.abc import Iterator

import httpx
import pytest

from tests.e2e.mesh import Mesh, own_address

pytestmark = pytest.mark.timeout(180)
CODE = """\
# /// script
# dependencies = ["uvicorn"]
# %s
# ///
import json, socket

def tried(host, port):
    try:
        with socket.create_connection((host, port), 10) as sock:
            sock.sendall(b"hello")
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


class Echo(socketserver.StreamRequestHandler):
    """Says what it has heard, when that has ended."""

    def handle(self) -> None:
        self.wfile.write(b"echo " + self.rfile.read())


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True


@pytest.fixture(scope="module")
def echo() -> Iterator[tuple[str, int]]:
    with Server((own_address(), 0), Echo) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield own_address(), server.server_address[1]
        server.shutdown()
        thread.join()


def called(client: httpx.Client, service: str, *targets: tuple[str, int]) -> tuple[list[str], str]:
    answer = client.post(f"/run/{service}", json=targets)
    assert answer.status_code == 200, answer.text
    return answer.json(), answer.headers["x-request-id"]


def test_the_egress_log_of_a_run(mesh: Mesh, echo: tuple[str, int]) -> None:
    mesh.deploy("open", CODE % "")
    with mesh.http(timeout=60) as client:
        said, run_id = called(client, "open", echo, ("10.254.254.254", 5432), ("169.254.169.254", 80))
        assert said[0] == "echo hello"
        assert set(said[1:]) <= {"ConnectionResetError", "BrokenPipeError"}
        record = mesh.finished(run_id)
        assert record["usage"]["egressBytes"] == len("hello" + "echo hello")
        log = client.get(f"/request/{run_id}/egress").json()
        assert log["next"] is None
        assert [(each["host"], each["port"], each["verdict"]) for each in log["items"]] == [
            (*echo, "allowed"),
            ("10.254.254.254", 5432, "denied"),
            ("169.254.169.254", 80, "denied"),
        ]
        assert (log["items"][0]["bytes_in"], log["items"][0]["bytes_out"]) == (10, 5)
        lines = [json.loads(line) for line in client.get(f"/logs/{run_id}").text.splitlines() if line.strip()]
        assert any("10.254.254.254:5432 was refused: a private address" in line["message"] for line in lines)
        quiet, quiet_id = called(client, "open")
        mesh.finished(quiet_id)
        assert client.get(f"/request/{quiet_id}/egress").json() == {"items": [], "next": None}
        assert client.get(f"/request/{run_id[:-1]}/egress").status_code == 404
        stranger = client.post("/organizations", json={"name": "others"}).json()["key"]
    with mesh.http(stranger) as other:
        assert other.get(f"/request/{run_id}/egress").status_code == 404
        assert quiet == []


def test_the_rules_of_the_header(mesh: Mesh, echo: tuple[str, int]) -> None:
    mesh.deploy("closed", CODE % "[tool.runmesh]\n# egress = []")
    mesh.deploy("picky", CODE % f'[tool.runmesh]\n# egress = ["{echo[0]}", "api.example", "!*.example"]')
    with mesh.http(timeout=60) as client:
        said, run_id = called(client, "closed", echo)
        assert said[0] in {"ConnectionResetError", "BrokenPipeError"}
        mesh.finished(run_id)
        items = client.get(f"/request/{run_id}/egress").json()["items"]
        assert [each["reason"] for each in items] == ["the workflow's egress list is empty"]
        said, run_id = called(client, "picky", echo, ("x.example", 80), ("other.test", 80))
        assert said == ["echo hello", "gaierror", "gaierror"]
        refused = client.post(
            "/deploy", json={"code": CODE % '[tool.runmesh]\n# egress = ["https://a"]', "name": "bad"}
        )
        assert (refused.status_code, refused.json()["code"]) == (422, "invalid_workflow")
        assert "'https://a' is no host or network" in refused.json()["detail"]
