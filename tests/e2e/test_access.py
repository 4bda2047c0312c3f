"""Keys, scopes, and organizations that can't see one another; test_access_matrix.py has every call by everybody."""

import time

import httpx
import pytest

from tests.e2e.mesh import Mesh

pytestmark = pytest.mark.timeout(180)
ENDPOINTS = [
    ("POST", "/provision-request", None),
    ("POST", "/run/probe", {}),
    ("POST", "/run_async/probe", {}),
    ("GET", "/requests", None),
    ("GET", "/request/{run}", None),
    ("DELETE", "/request/{run}", None),
    ("GET", "/result/{run}", None),
    ("GET", "/logs/{run}", None),
    ("POST", "/validate", {"code": "x = 1"}),
    ("POST", "/deploy", {"code": "x = 1", "name": "n"}),
    ("GET", "/workflows", None),
    ("GET", "/workflows/probe", None),
    ("PATCH", "/workflows/probe", {"name": "probe"}),
    ("DELETE", "/workflows/nothing", None),
    ("GET", "/secrets", None),
    ("PUT", "/secrets/X", {"value": "1"}),
    ("DELETE", "/secrets/NOTHING", None),
    ("GET", "/schedules", None),
    ("POST", "/schedules", {"service_id": "probe", "cron_expression": "* * * * *"}),
    ("DELETE", "/schedules/sch_x", None),
    ("POST", "/file?filename=x", None),
    ("POST", "/keys", {"kind": "standard"}),
    ("GET", "/keys", None),
    ("DELETE", "/keys/key_x", None),
    ("POST", "/keys/key_x/rotate", None),
    ("POST", "/organizations", {"name": "o"}),
    ("PUT", "/organizations/org_x/rates", {}),
    ("GET", "/credits", None),
    ("POST", "/credits", {"organization_id": "org_x", "amount": 1, "reason": "r"}),
    ("GET", "/usage", None),
    ("GET", "/prices", None),
    ("POST", "/prices", {"meter": "run", "micro_credits_per_million": 1}),
    ("GET", "/audit", None),
]


@pytest.fixture(scope="module")
def run(mesh: Mesh) -> str:
    with mesh.http() as client:
        return client.post("/run/probe", json={"name": "x"}).headers["x-request-id"]


def send(client: httpx.Client, method: str, path: str, body: object, run: str) -> httpx.Response:
    return client.request(method, path.format(run=run), json=body)


@pytest.mark.parametrize("key", ["nonsense", "cwk-" + "a" * 36, "x" * 5000])
def test_no_endpoint_answers_to_a_garbled_key(mesh: Mesh, run: str, key: str) -> None:
    with mesh.http(key) as client:
        for method, path, body in ENDPOINTS:
            answer = send(client, method, path, body, run)
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated"), (method, path)
            assert answer.headers["error-origin"] == "runtime"


def test_a_revoked_key_is_refused_everywhere_within_a_second(mesh: Mesh, run: str) -> None:
    made = mesh.new_key(scopes=["run", "files", "deploy", "admin"])
    with mesh.http(made["key"]) as client, mesh.http() as admin:
        assert client.get("/requests").status_code == 200
        assert admin.delete(f"/keys/{made['id']}").status_code == 200
        time.sleep(1)  # the promise is about this second
        for method, path, body in ENDPOINTS:
            assert send(client, method, path, body, run).status_code == 401, (method, path)


def test_a_stream_ends_with_its_key(mesh: Mesh) -> None:
    made = mesh.new_key()
    with mesh.http(made["key"]) as client, mesh.http() as admin:
        request_id = client.post("/run_async/probe/sleep", json={"seconds": 20}).json()["request_id"]
        started = time.monotonic()
        try:
            with client.stream("GET", f"/logs/{request_id}") as answer:
                admin.delete(f"/keys/{made['id']}")
                answer.read()
        except httpx.RemoteProtocolError:
            pass
        assert time.monotonic() - started < 5
        admin.delete(f"/request/{request_id}")


def test_scopes(mesh: Mesh, run: str) -> None:
    with mesh.http(mesh.new_key(scopes=["files"])["key"]) as client:
        assert client.post("/file?filename=x").status_code == 200
        assert client.post("/run/probe", json={}).status_code == 403
        assert client.get("/secrets").json()["code"] == "forbidden"
    with mesh.http(mesh.new_key(scopes=["run:probe"])["key"]) as client:
        assert client.post("/run/probe", json={"name": "x"}).status_code == 200
        assert client.post("/run/other", json={"name": "x"}).status_code == 403
    with mesh.http(mesh.new_key()["key"]) as client:
        assert client.post("/keys", json={"kind": "standard"}).status_code == 403
        assert client.post("/organizations", json={"name": "o"}).status_code == 403


def test_a_key_gives_no_scope_that_it_lacks(mesh: Mesh) -> None:
    limited = mesh.new_key(scopes=["admin"])["key"]
    with mesh.http(limited) as client:
        assert client.post("/keys", json={"kind": "standard", "scopes": ["deploy"]}).status_code == 403


def test_another_organizations_ids_are_unknown(mesh: Mesh, run: str) -> None:
    other = mesh.new_organization("other")
    with mesh.http() as admin, mesh.http(other["key"]) as client:
        own_key = mesh.new_key()["id"]
        admin.put("/secrets/MINE", json={"value": "1"})
        file_run = admin.post("/provision-request").json()["request_id"]
        requests = [
            ("POST", "/run/probe"),
            ("POST", "/run_async/probe"),
            ("GET", f"/request/{run}"),
            ("DELETE", f"/request/{run}"),
            ("GET", f"/result/{run}"),
            ("GET", f"/result/{run}?timeout=1"),
            ("GET", f"/logs/{run}"),
            ("GET", f"/request/{file_run}"),
            ("GET", "/workflows/probe"),
            ("PATCH", "/workflows/probe"),
            ("DELETE", "/workflows/probe"),
            ("DELETE", "/secrets/MINE"),
            ("DELETE", f"/keys/{own_key}"),
            ("POST", f"/keys/{own_key}/rotate"),
        ]
        for method, path in requests:
            answer = client.request(method, path, json={} if method in {"POST", "PATCH"} else None)
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), (method, path, answer.text)
        stolen = client.post("/run/probe", json={}, headers={"X-Provisioned-Request-Id": file_run})
        assert stolen.status_code == 404
        assert client.get("/requests").json()["items"] == []
        assert "probe" not in [item["service_id"] for item in client.get("/workflows").json()["items"]]


def test_rotation_overlaps(mesh: Mesh) -> None:
    made = mesh.new_key(name="rotating")
    with mesh.http() as admin:
        successor = admin.post(f"/keys/{made['id']}/rotate", json={"overlap_seconds": 60}).json()
    for key in (made["key"], successor["key"]):
        with mesh.http(key) as client:
            assert client.get("/requests").status_code == 200


def test_a_key_is_shown_once(mesh: Mesh) -> None:
    made = mesh.new_key(name="listed")
    with mesh.http() as admin:
        text = admin.get("/keys?limit=1000").text
    assert made["id"] in text
    assert made["key"] not in text
    for path in (mesh.home / "data").iterdir():
        assert made["key"].encode() not in path.read_bytes(), path


def test_a_public_workflow_of_another_organization(mesh: Mesh) -> None:
    other = mesh.new_organization("callers")
    with mesh.http() as admin, mesh.http(other["key"]) as client:
        url = mesh.deploy("shared", PUBLIC)["url"]
        admin.patch("/workflows/shared", json={"visibility": "public"})
        answer = client.post(url.removeprefix(mesh.url), json={})
        assert answer.status_code == 200, answer.text
        run = answer.headers["x-request-id"]
        assert client.get(f"/request/{run}").status_code == 200
        lines = client.get(f"/logs/{run}").text
        assert "secret of the owner" not in lines
        assert len([line for line in lines.splitlines() if line.strip()]) == 1
        assert "secret of the owner" in admin.get(f"/logs/{run}").text


PUBLIC = """
# /// script
# dependencies = ["uvicorn"]
# ///
import uvicorn
async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    print("secret of the owner")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"{}"})
if __name__ == "__main__":
    uvicorn.run(app)
"""
