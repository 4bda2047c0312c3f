"""A run's input again: live, against another version, by its caller only; and offline, from a recording."""

import pytest

from tests.e2e.mesh import Mesh, until

pytestmark = pytest.mark.timeout(180)
ECHO = """\
# /// script
# dependencies = ["fastapi", "uvicorn"]
# ///
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
import os, uvicorn

app = FastAPI()

@app.api_route("/{path:path}", methods=["GET", "POST", "PUT"])
async def echo(request: Request, path: str):
    if path == "die":
        os._exit(1)
    headers = {name: request.headers.get(name) for name in ("x-own", "x-request-id", "content-type", "x-record")}
    told = {"version": VERSION, "path": path, "query": request.url.query, "method": request.method}
    told |= {"body": (await request.body()).decode()[:50], "headers": headers}
    return JSONResponse(told, 500 if path == "fail" else 200)

if __name__ == "__main__":
    uvicorn.run(app)
"""


@pytest.fixture(scope="module")
def echo(mesh: Mesh) -> str:
    for version in (1, 2):
        mesh.deploy("again", ECHO.replace("VERSION", str(version)))
    return "again@1"


def replayed(mesh: Mesh, run_id: str, **wish: object) -> dict:  # type: ignore[type-arg]
    """The record of its replay, over."""
    with mesh.http() as client:
        answer = client.post(f"/request/{run_id}/replay", json=wish)
        assert answer.status_code == 200, answer.text
        assert list(answer.json()) == ["request_id"]
    return mesh.finished(answer.json()["request_id"])


def test_the_input_of_a_plain_call_again(mesh: Mesh, echo: str) -> None:
    with mesh.http() as client:
        headers = {"X-Own": "mine", "Content-Type": "text/x-mine"}
        first = client.put(f"/run/{echo}/a%20b?x=1", content=b"the body", headers=headers)
        run_id = first.headers["x-request-id"]
    record = replayed(mesh, run_id)
    again = record["responseJson"]
    assert again.pop("headers") == {**first.json()["headers"], "x-request-id": record["id"]}
    assert {**again, "headers": 0} == {**first.json(), "headers": 0}
    assert (again["method"], again["query"], again["body"]) == ("PUT", "x=1", "the body")
    assert (record["trigger"], record["replayOf"], record["replayMode"]) == ("replay", run_id, "live")
    assert record["id"] != run_id
    other = replayed(mesh, run_id, version=2)
    assert other["responseJson"]["version"] == 2
    with mesh.http() as client:
        diff = client.get(f"/request/{other['id']}/diff").json()
        assert (diff["same"], diff["replayOf"], diff["mode"], diff["versions"]["same"]) == (
            False,
            run_id,
            "live",
            False,
        )
        assert (diff["status"]["same"], diff["headers"]["same"], diff["outbound"]) == (True, True, None)
        assert '-  "version": 1,' in diff["body"]["diff"]
        assert '+  "version": 2,' in diff["body"]["diff"]
        assert client.get(f"/request/{run_id}/diff").status_code == 409


@pytest.mark.parametrize("path", ["fail", "die"])
def test_what_failed_or_died_can_be_replayed(mesh: Mesh, echo: str, path: str) -> None:
    with mesh.http() as client:
        run_id = client.post(f"/run/{echo}/{path}", content=b"once more").headers["x-request-id"]
    first = mesh.finished(run_id)
    assert first["status"] == "failed"
    record = replayed(mesh, run_id)
    assert (record["status"], record["code"], record["responseStatus"]) == (
        "failed", first["code"], first["responseStatus"],
    )  # fmt: skip
    again = replayed(mesh, record["id"])
    assert again["replayOf"] == record["id"]


def test_a_long_input_is_kept_on_the_durable_way_only(mesh: Mesh, echo: str) -> None:
    long = b"x" * 300_000
    with mesh.http() as client:
        direct = client.post(f"/run/{echo}/", content=long).headers["x-request-id"]
        durable = client.post(f"/run_async/{echo}/", content=long).json()["request_id"]
        mesh.finished(direct)
        refused = client.post(f"/request/{direct}/replay")
        assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
        assert "wasn't kept" in refused.json()["detail"]
    mesh.finished(durable)
    assert replayed(mesh, durable)["responseJson"]["body"] == "x" * 50


def test_whose_run_it_is_is_checked(mesh: Mesh, echo: str) -> None:
    stranger = mesh.new_organization("curious")["key"]
    one_time = mesh.new_key(kind="one_time", scopes=["run"])["key"]
    other = mesh.new_key(scopes=["run:probe"])["key"]
    with mesh.http() as client:
        client.patch("/workflows/again", json={"visibility": "public"}).raise_for_status()
        run_id = client.post(f"/run/{echo}/", content=b"mine").headers["x-request-id"]
        organization = client.get("/workflows/again").json()["url"].rsplit("/", 1)[1]
    mesh.finished(run_id)
    for key, status in ((stranger, 404), (other, 404), (one_time, 403)):
        with mesh.http(key) as client:
            assert client.post(f"/request/{run_id}/replay").status_code == status
            assert client.get(f"/request/{run_id}/diff").status_code in {403, 404}
    with mesh.http(stranger) as client:  # calls our public workflow: we see that run, but its input is theirs
        theirs = client.post(f"/run/{organization}@1/", content=b"theirs").headers["x-request-id"]
        refused = client.post(f"/run/{organization}/", headers={"X-Record": "yes"})
        assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    with mesh.http() as client:
        assert mesh.finished(theirs)["status"] == "succeeded"
        assert client.post(f"/request/{theirs}/replay").status_code == 404
    with mesh.http(stranger) as client:
        assert client.post(f"/request/{theirs}/replay").status_code == 200
        assert client.post(f"/request/{theirs}/replay", json={"mode": "offline"}).status_code == 404
        with mesh.http() as ours:
            ours.patch("/workflows/again", json={"visibility": "private"}).raise_for_status()
        until(lambda: client.post(f"/request/{theirs}/replay").status_code == 404)


def test_bad_wishes(mesh: Mesh, echo: str) -> None:
    with mesh.http() as client:
        run_id = client.post(f"/run/{echo}/").headers["x-request-id"]
        mesh.finished(run_id)
        for query, body, status in (
            ("?version=0", None, 400),
            ("?version=99", None, 404),
            ("", {"version": "two"}, 400),
            ("", {"mode": "dream"}, 400),
            ("", {"what": 1}, 400),
            ("", [], 400),
            ("", {"mode": "offline"}, 409),
        ):
            answer = client.post(f"/request/{run_id}/replay{query}", json=body)
            assert answer.status_code == status, answer.text
        assert client.post(f"/request/{run_id[:-1]}/replay").status_code == 404
        assert client.get(f"/request/{run_id}/replay").status_code == 405
        assert client.post(f"/run/{echo}/", headers={"X-Record": "perhaps"}).status_code == 400
