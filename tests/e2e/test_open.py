"""Open workflows, through the whole mesh: anybody calls them, their owner pays."""

from concurrent.futures import ThreadPoolExecutor

import httpx

from tests.e2e.mesh import Mesh

CODE = """\
# /// script
# dependencies = ["fastapi", "uvicorn"]
# ///
import os
import sys

import uvicorn
from fastapi import FastAPI, Request

app = FastAPI()


@app.post("/{path:path}")
async def answer(path: str, request: Request) -> dict:
    if path == "die":
        print("a secret of the owner's", flush=True)
        os._exit(3)
    return {"path": path, "caller": request.headers["codewords-caller-id"]}


if __name__ == "__main__":
    uvicorn.run(app)
"""


def test_anybody_calls_it_and_its_owner_pays(mesh: Mesh) -> None:
    owner = mesh.new_organization("of an open workflow")
    mesh.deploy("door", CODE, owner["key"])
    name = f"{owner['id']}.door"
    with mesh.http(owner["key"]) as client, mesh.http("") as anybody:

        def refused(path: str, **headers: str) -> tuple[int, str]:
            answer = anybody.post(path, headers=headers)
            return answer.status_code, answer.json()["code"]

        needs_a_key = (401, "unauthenticated")
        assert refused(f"/run/{name}") == needs_a_key
        for visibility in ("public", "template"):
            client.patch("/workflows/door", json={"visibility": visibility})
            assert refused(f"/run/{name}") == needs_a_key
        changed = client.patch("/workflows/door", json={"visibility": "open"})
        assert (changed.status_code, changed.json()["visibility"]) == (200, "open")
        before = client.get("/credits").json()["balance"]

        answer = anybody.post(f"/run/{name}/a/b", json={})
        assert answer.status_code == 200, answer.text
        assert (answer.status_code, answer.json()) == (200, {"path": "a/b", "caller": ""})
        assert answer.headers["content-security-policy"].startswith("sandbox ")
        mine = client.post(f"/run/{name}/a/b", json={})
        assert (mine.json()["caller"], "content-security-policy" in mine.headers) == (owner["id"], False)
        run_id = answer.headers["x-request-id"]
        assert anybody.post(f"/run/{name}@1").status_code == 200
        record = client.get(f"/request/{run_id}?timeout=5").json()
        assert (record["userId"], record["status"]) == (owner["id"], "succeeded")
        assert client.get("/credits").json()["balance"] < before
        assert name in [
            f"{owner['id']}.{one['service_id']}" for one in client.get("/workflows?visibility=open").json()["items"]
        ]

        for path in (f"/request/{run_id}", f"/result/{run_id}", f"/logs/{run_id}", "/run/door", f"/run_async/{name}"):
            answer = anybody.post(path) if path.startswith("/run") else anybody.get(path)
            assert (answer.status_code, answer.json()["code"]) == needs_a_key, path
        for header in ("Idempotency-Key", "X-Callback-Url", "X-Provisioned-Request-Id", "Run-As-Template", "X-Record"):
            assert refused(f"/run/{name}", **{header: "yes"}) == needs_a_key
        assert refused(f"/run/{name}", Authorization="Bearer cwk-nonsense") == needs_a_key

        died = anybody.post(f"/run/{name}/die")
        assert (died.status_code, "a secret of" in died.text) == (502, False), died.text

        client.patch("/workflows/door", json={"limits": {"calls_per_second": 2}})
        with ThreadPoolExecutor(20) as pool:
            answers = list(pool.map(lambda _: anybody.get(f"/run/{name}"), range(40)))
        assert {each.status_code for each in answers} == {405, 429}
        limited = next(each for each in answers if each.status_code == 429)
        assert (limited.json()["code"], limited.headers["error-origin"]) == ("rate_limited", "runtime")
        assert "retry-after" in limited.headers

        client.patch("/workflows/door", json={"visibility": "private"})
        assert refused(f"/run/{name}") == needs_a_key


def test_somebody_with_a_key_pays_for_himself(mesh: Mesh) -> None:
    owner, caller = mesh.new_organization("owner"), mesh.new_organization("caller")
    mesh.deploy("gate", CODE, owner["key"])
    with mesh.http(owner["key"]) as theirs, mesh.http(caller["key"]) as mine:
        theirs.patch("/workflows/gate", json={"visibility": "open"})
        answer: httpx.Response = mine.post(f"/run/{owner['id']}.gate/x")
        assert answer.json()["caller"] == caller["id"]
