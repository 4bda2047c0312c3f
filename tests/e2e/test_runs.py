"""A run from the outside: what goes in reaches the workflow, what comes out the caller, and the record tells."""

import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.e2e.mesh import WORKFLOWS, Mesh, until

pytestmark = pytest.mark.timeout(180)


def test_method_path_query_headers_and_body_arrive_as_sent(mesh: Mesh) -> None:
    with mesh.http() as client:
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
            answer = client.request(
                method,
                "/run/probe/echo/a%2Fb/c%20d?x=1&x=2&service_id=other&y=%20",
                content=b"\x00\xff" if method != "GET" else None,
                headers=[(b"X-Many", b"1"), (b"X-Many", b"2"), (b"X-Latin", b"caf\xe9")],
            )
            assert answer.status_code == 200, answer.text
            seen = answer.json()
            assert seen["method"] == method
            assert seen["raw_path"] == "/echo/a%2Fb/c%20d"
            assert seen["query"] == "x=1&x=2&service_id=other&y=%20"
            assert [value for name, value in seen["headers"] if name == "x-many"] == ["1", "2"]
            assert seen["length"] == (2 if method != "GET" else 0)


def test_trailing_slash_and_empty_path(mesh: Mesh) -> None:
    with mesh.http() as client:
        for path in ("/run/probe", "/run/probe/"):
            assert client.post(path, json={"name": "x"}).json()["message"] == "hello x"


def test_no_key_reaches_the_workflow(mesh: Mesh) -> None:
    for header in ("Authorization", "X-Api-Key", "x-goog-api-key"):
        with mesh.http("") as client:
            answer = client.get("/run/probe/echo/x", headers={header: mesh.key})
        assert answer.status_code == 200
        assert mesh.key not in answer.text


def test_the_workflow_learns_who_and_what(mesh: Mesh) -> None:
    with mesh.http() as client:
        answer = client.get("/run/probe/echo/x", headers={"X-Correlation-Id": "mine"})
    headers = dict(answer.json()["headers"])
    assert headers["x-request-id"] == answer.headers["x-request-id"]
    assert headers["x-correlation-id"] == "mine" == answer.headers["x-correlation-id"]
    assert headers["codewords-caller-id"].startswith("org_")
    assert headers["traceparent"].split("-")[1] == answer.headers["traceparent"].split("-")[1]
    assert "x-deadline" in headers
    for name in ("x-request-id", "x-correlation-id", "traceparent"):
        assert len(answer.headers.get_list(name)) == 1


def test_status_headers_and_cookies_come_back(mesh: Mesh) -> None:
    with mesh.http() as client:
        teapot = client.post("/run/probe/teapot")
        assert (teapot.status_code, teapot.json()) == (418, {"detail": "short and stout"})
        assert teapot.headers["error-origin"] == "service"
        empty = client.post("/run/probe/no_content")
        assert (empty.status_code, empty.content) == (204, b"")
        assert len(client.post("/run/probe/cookies").headers.get_list("set-cookie")) == 2
        redirect = client.get("/run/probe/redirect")
        assert redirect.status_code == 307
        assert redirect.headers["location"] == f"{mesh.url}/run/probe/echo/target"


def test_an_answer_streams_while_it_streams(mesh: Mesh) -> None:
    with mesh.http() as client, client.stream("POST", "/run/probe/stream") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        arrivals = [time.monotonic() for _ in answer.iter_raw()]
    assert arrivals[-1] - arrivals[0] > 0.2


def test_a_broken_stream_is_an_aborted_transfer(mesh: Mesh) -> None:
    with mesh.http() as client:
        with client.stream("POST", "/run/probe/broken_stream") as answer:
            request_id = answer.headers["x-request-id"]
            with pytest.raises(httpx.RemoteProtocolError):
                answer.read()
        record = mesh.finished(request_id)
    assert (record["status"], record["code"]) == ("failed", "workflow_crashed")


@pytest.mark.parametrize(("path", "status"), [("raise", 500), ("exit", 502), ("kill", 502)])
def test_a_failing_workflow_is_told_apart_from_the_platform(mesh: Mesh, path: str, status: int) -> None:
    with mesh.http() as client:
        answer = client.post(f"/run/probe/{path}")
    assert answer.status_code == status
    assert answer.headers["error-origin"] == ("service" if status == 500 else "runtime")
    record = mesh.finished(answer.headers["x-request-id"])
    assert record["status"] == "failed"
    if status == 502:
        assert answer.json()["code"] == record["code"] == "workflow_crashed"
    if path == "exit":
        assert "about to go" in answer.json()["detail"]


def test_the_record(mesh: Mesh) -> None:
    with mesh.http() as client:
        answer = client.post("/run/probe", json={"name": "x"})
        record = mesh.finished(answer.headers["x-request-id"])
    assert record["status"] == "succeeded"
    assert record["responseStatus"] == 200
    assert record["responseJson"] == answer.json()
    assert record["responseContent"] == answer.text
    assert record["serviceId"] == "probe"
    assert record["trigger"] == "api"
    assert record["traceId"] == answer.headers["traceparent"].split("-")[1]
    assert record["createdAt"] <= record["startedAt"] <= record["completedAt"]


def test_async_result_and_history(mesh: Mesh) -> None:
    with mesh.http() as client:
        accepted = client.post("/run_async/probe/sleep", json={"seconds": 1})
        assert accepted.status_code == 200
        request_id = accepted.json()["request_id"]
        pending = client.get(f"/result/{request_id}")
        assert (pending.status_code, pending.json()["code"]) == (408, "pending")
        assert "retry-after" in pending.headers
        assert client.get(f"/result/{request_id}?timeout=0").status_code == 504
        done = client.get(f"/result/{request_id}?timeout=30")
        assert (done.status_code, done.json()["ok"], done.json()["responseJson"]) == (200, True, {"ok": True})
        listed = client.get("/requests?service_id=probe&limit=1000").json()["items"]
        assert request_id in [item["id"] for item in listed]
        assert "responseContent" not in listed[0]
        made = [item["createdAt"] for item in listed]
        assert made == sorted(made, reverse=True)


def test_a_large_answer_is_kept(mesh: Mesh) -> None:
    with mesh.http() as client:
        request_id = client.post("/run_async/probe/large", json={"bytes": 1_000_000}).json()["request_id"]
        done = client.get(f"/result/{request_id}?timeout=30").json()
    assert done["responseContent"] == "x" * 1_000_000


def test_cancel_kills_and_is_idempotent(mesh: Mesh) -> None:
    with mesh.http() as client:
        request_id = client.post("/run_async/probe/sleep", json={"seconds": 60}).json()["request_id"]
        until(lambda: client.get(f"/request/{request_id}").json()["status"] == "running", 20)
        assert client.delete(f"/request/{request_id}").status_code == 200
        record = mesh.finished(request_id, 5)
        assert (record["status"], record["code"]) == ("cancelled", "cancelled")
        assert client.delete(f"/request/{request_id}").status_code == 200
        assert client.get(f"/result/{request_id}").status_code == 200


def test_a_caller_that_hangs_up_ends_its_run(mesh: Mesh) -> None:
    with mesh.http() as client:
        before = {item["id"] for item in client.get("/requests?limit=1000").json()["items"]}
        with pytest.raises(httpx.ReadTimeout):
            client.post("/run/probe/sleep", json={"seconds": 60}, timeout=4)

        def ended() -> bool:
            new = [item for item in client.get("/requests").json()["items"] if item["id"] not in before]
            return any(item["status"] == "cancelled" for item in new)

        until(ended, 10)


@pytest.mark.parametrize("way", ["continue", "kill"])
def test_passing_the_sync_limit(mesh: Mesh, way: str) -> None:
    with mesh.http() as client:
        limits = {"limits": {"sync_timeout_ms": 1500}}
        code = f"probe_{way}"
        mesh.deploy(code, (WORKFLOWS / "probe.py").read_text())
        assert client.patch(f"/workflows/{code}", json=limits).status_code == 200
        answer = client.post(f"/run/{code}/sleep", json={"seconds": 3}, headers={"X-On-Timeout": way})
        assert (answer.status_code, answer.json()["code"]) == (504, "timeout")
        assert "/run_async" in answer.json()["detail"]
        record = mesh.finished(answer.json()["request_id"])
    assert record["status"] == {"continue": "succeeded", "kill": "timed_out"}[way]


@pytest.mark.parametrize("rounds", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_a_one_time_key_starts_exactly_one_run(mesh: Mesh, rounds: int) -> None:
    """A hundred callers race for it, in each round with a new one."""
    for _ in range(rounds):
        key = mesh.new_key(kind="one_time")["key"]

        def call(_: int, key: str = key) -> int:
            with mesh.http(key) as client:
                return client.post("/run/probe", json={"name": "x"}).status_code

        with ThreadPoolExecutor(100) as pool:
            statuses = list(pool.map(call, range(100)))
        assert sorted(statuses) == [200] + [401] * 99


def test_the_other_kinds_of_app(mesh: Mesh) -> None:
    for name in ("starlette_app", "bare_asgi", "sdist_app", "pinned"):
        mesh.deploy(name)
    with mesh.http() as client:
        assert client.post("/run/starlette_app", content=b"123").json() == {"framework": "starlette", "length": 3}
        assert client.post("/run/bare_asgi").text == "bare"
        assert client.post("/run/sdist_app").json() == {"--fast": True}
        pinned = client.post("/run/pinned", json={"name": "x"})
        assert pinned.json() == {"other": {"message": "hello x", "calls": 1, "processed_count": 3}}, pinned.text
        with client.stream("GET", f"/logs/{pinned.headers['x-request-id']}") as answer:
            text = answer.read().decode()
    assert "calling the other one" in text


def test_a_workflow_runs_at_most_so_often_at_once(mesh: Mesh) -> None:
    code = (WORKFLOWS / "probe.py").read_text()
    limit = "# [tool.runmesh]\n# concurrency = 1\n"
    mesh.deploy("alone", code.replace("# [tool.env-checker]", limit + "# [tool.env-checker]"))
    with mesh.http() as client:
        one_by_one = [client.post("/run/alone", json={"name": "Ada"}).status_code for _ in range(5)]
        assert one_by_one == [200] * 5  # one that has answered is in nobody's way
        first = client.post("/run_async/alone/sleep", json={"seconds": 4}).json()["request_id"]
        until(lambda: client.get(f"/request/{first}").json()["status"] == "running", 20)
        second = client.post("/run_async/alone", json={"name": "patient"}).json()["request_id"]
        refused = client.post("/run/alone", json={"name": "impatient"})
        assert (refused.status_code, refused.json()["code"]) == (429, "too_many_runs"), refused.text
        assert client.get(f"/result/{second}?timeout=30").json()["message"] == "hello patient"
        assert client.get(f"/request/{first}").json()["status"] == "succeeded"
