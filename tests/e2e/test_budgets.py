"""Keys that are given away: bound to one call, with a budget; and the log of who made them."""

import hashlib
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.e2e.mesh import WORKFLOWS, Mesh

pytestmark = pytest.mark.timeout(180)
BODY = b'{"name": "Ada"}'
SHA = hashlib.sha256(BODY).hexdigest()
JSON = {"Content-Type": "application/json"}


def bound(mesh: Mesh, **bind: str) -> str:
    key: str = mesh.new_key(kind="one_time", bind=bind)["key"]
    return key


def refused(answer: httpx.Response) -> bool:
    return (answer.status_code, answer.json()["code"]) == (403, "forbidden")


def test_a_bound_key_starts_that_run_and_no_other(mesh: Mesh) -> None:
    mesh.deploy("other_probe", (WORKFLOWS / "probe.py").read_text())
    key = bound(mesh, service_id="probe", path="/", body_sha256=SHA)
    with mesh.http(key, headers=JSON) as client:
        assert refused(client.post("/run/other_probe", content=BODY))
        assert refused(client.post("/run/probe/sleep", content=BODY))
        assert refused(client.post("/run/probe", content=BODY + b" "))
        assert refused(client.post("/run_async/probe", content=iter([b"{", b"}"])))
        answer = client.post("/run/probe", content=BODY)
        assert answer.status_code == 200, answer.text
        assert client.get(f"/result/{answer.headers['x-request-id']}?timeout=60").json()["run"]["status"] == "succeeded"
        assert client.post("/run/probe", content=BODY).status_code == 401


def test_of_many_who_race_with_a_bound_key_one_wins(mesh: Mesh) -> None:
    key = bound(mesh, body_sha256=SHA)

    def call(number: int) -> int:
        with mesh.http(key, headers=JSON) as client:
            return client.post("/run/probe", content=BODY if number % 2 else b"{}").status_code

    with ThreadPoolExecutor(8) as pool:
        found = sorted(pool.map(call, range(16)))
    # Once it is spent, the edge may say so before it looks at the body.
    assert found.count(200) == 1
    assert found[1:] == sorted([401] * found.count(401) + [403] * found.count(403))


def test_a_run_without_a_budget_is_none(mesh: Mesh) -> None:
    with mesh.http() as client:
        answer = client.post("/run/probe", json={}, headers={"X-Budget": "0"})
        assert (answer.status_code, answer.json()["code"]) == (402, "payment_required")
        assert client.post("/run_async/probe", json={}, headers={"X-Budget": "1.5"}).status_code == 400


def test_a_keys_limits_are_listed_and_go_on_with_its_successor(mesh: Mesh) -> None:
    made = mesh.new_key(budget=10**15, rates={"per_second": 1000})
    with mesh.http() as admin:
        successor = admin.post(f"/keys/{made['id']}/rotate", json={}).json()["id"]
        keys = {key["id"]: key for key in admin.get("/keys?limit=1000").json()["items"]}
    for key_id in (made["id"], successor):
        assert (keys[key_id]["budget"], keys[key_id]["rates"]["per_second"]) == (10**15, 1000)


def test_each_organization_reads_its_own_audit_log(mesh: Mesh) -> None:
    other = mesh.new_organization("audited")
    with mesh.http() as admin, mesh.http(other["key"]) as client:
        assert admin.put(f"/organizations/{other['id']}/rates", json={"per_second": 900}).status_code == 200
        assert client.put(f"/organizations/{other['id']}/rates", json={}).status_code == 403
        made = client.post("/keys", json={"kind": "standard"}).json()
        assert client.put("/secrets/TOKEN", json={"value": "s3cret"}).status_code == 200
        assert client.delete(f"/keys/{made['id']}").status_code == 200
        mine, theirs = client.get("/audit").json()["items"], admin.get("/audit?limit=1000").text
    acts = ["key.revoked", "secret.put", "key.issued", "rates.changed", "organization.created"]
    assert [entry["act"] for entry in mine] == acts
    assert mine[0]["subject"] == mine[2]["subject"] == made["id"]
    assert {entry["actor_organization_id"] for entry in mine[:3]} == {other["id"]}
    assert "s3cret" not in str(mine)
    assert made["id"] not in theirs
    assert other["id"] in theirs
