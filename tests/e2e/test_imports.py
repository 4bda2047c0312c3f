"""Workflows that contact others while they are imported: deployed, loaded once, and written down."""

import json
import time

import pytest

from tests.e2e.mesh import Mesh, until
from tests.e2e.test_egress import echo

__all__ = ["echo"]
pytestmark = pytest.mark.timeout(180)
CODE = """\
# /// script
# dependencies = ["uvicorn"]
# %s
# ///
import json, os, socket, time, urllib.error, urllib.request

def tried(host, port):
    with socket.create_connection((host, port), 10) as sock:
        sock.sendall(b"hello")
        sock.shutdown(socket.SHUT_WR)
        return sock.makefile("rb").read().decode()

def asked():
    try:
        urllib.request.urlopen(os.environ["CODEWORDS_RUNTIME_URI"] + "/run/open/", timeout=10)
    except urllib.error.HTTPError as error:
        return [error.code, json.loads(error.read())["code"]]

LOADED = time.time_ns()
SAID = %s

async def app(scope, receive, send):
    if scope["type"] == "http":
        said = json.dumps([LOADED, SAID]).encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": said})


if __name__ == "__main__":
    import uvicorn

    uvicorn.run(app)
"""


def contacts(mesh: Mesh, run_id: str) -> tuple[list[tuple[str, int, str]], int]:
    """(host, port, verdict) of each, and the bytes in the record."""
    record = mesh.finished(run_id)
    with mesh.http() as client:
        items = client.get(f"/request/{run_id}/egress").json()["items"]
    return [(each["host"], each["port"], each["verdict"]) for each in items], record["usage"]["egressBytes"]


def test_an_import_is_loaded_once_and_charged_to_the_run_that_it_was_for(mesh: Mesh, echo: tuple[str, int]) -> None:
    deployed = time.time_ns()
    mesh.deploy("loads", CODE % ("", f"tried({echo[0]!r}, {echo[1]})"))
    done = time.time_ns()
    with mesh.http() as client:
        first, second = client.get("/run/loads/"), client.get("/run/loads/")
        assert first.json()[1] == "echo hello"
        assert first.json() == second.json()  # one import served both, that of the deploy
        assert deployed < first.json()[0] < done
        assert contacts(mesh, first.headers["x-request-id"]) == ([], 0)
        # Other limits, another template: now there is a run to charge.
        client.patch("/workflows/loads", json={"limits": {"memory_bytes": 300 << 20}}).raise_for_status()
        third = until(lambda: found if (found := client.get("/run/loads/")).json()[0] > done else None)
        fourth = client.get("/run/loads/")
    assert third.json() == fourth.json()
    assert contacts(mesh, third.headers["x-request-id"]) == ([(*echo, "allowed")], len("hello" + "echo hello"))
    assert contacts(mesh, fourth.headers["x-request-id"]) == ([], 0)


def test_an_import_is_no_run(mesh: Mesh) -> None:
    """It is told so, at the check as in the template."""
    mesh.deploy("asks", CODE % ("", "asked()"))
    with mesh.http() as client:
        first, second = client.get("/run/asks/").json(), client.get("/run/asks/").json()
    assert first[1] == [409, "conflict"]
    assert first == second


@pytest.mark.parametrize(
    ("header", "port", "reason"),
    [("", 5432, "a private address"), ("[tool.runmesh]\n# egress = []", 0, "the workflow's egress list is empty")],
)
def test_an_import_that_may_not(mesh: Mesh, echo: tuple[str, int], header: str, port: int, reason: str) -> None:
    target = ("10.254.254.254", port) if port else echo
    with mesh.http() as client:
        code = CODE % (header, f"tried({target[0]!r}, {target[1]})")
        refused = client.post("/deploy", json={"code": code, "name": "may-not"}, timeout=120)
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_workflow")
    told = json.dumps(refused.json())
    assert f"a connection to {target[0]}:{target[1]} was refused: {reason}" in told
