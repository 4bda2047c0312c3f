"""What the platform promises about a run, as its caller sees it: control, the queue, another attempt."""

import asyncio
import os
import signal
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import httpx
import pytest

from scheduler.clients import Executors
from tests.e2e.mesh import Mesh, mesh_up, until

pytestmark = pytest.mark.timeout(180)

# Calls itself: asynchronously or not, and then sleeps.
TREE = """
# /// script
# requires-python = ">=3.11"
# dependencies = ["fastapi>=0.115", "uvicorn[standard]>=0.34", "httpx>=0.27"]
# ///
import asyncio, os, time
import httpx, uvicorn
from fastapi import FastAPI, Request

app = FastAPI()

@app.post("/tree")
async def tree(request: Request):
    inputs = await request.json()
    print(f"here {inputs['name']}", flush=True)
    async with httpx.AsyncClient(base_url=os.environ["CODEWORDS_RUNTIME_URI"], timeout=100) as client:
        headers = {"authorization": os.environ["CODEWORDS_API_KEY"]}
        for way, below in inputs.get("calls", []):
            await client.post(f"/{way}/tree/tree", json=below, headers=headers)
    await asyncio.sleep(inputs.get("sleep", 0))
    return {"name": inputs["name"]}

@app.post("/deadline")
async def deadline(request: Request):
    inputs = await request.json()
    if inputs.get("below"):
        async with httpx.AsyncClient(base_url=os.environ["CODEWORDS_RUNTIME_URI"], timeout=100) as client:
            headers = {"authorization": os.environ["CODEWORDS_API_KEY"]}
            answer = await client.post("/run/tree/deadline", json={}, headers=headers)
        return [request.headers["x-deadline"], *answer.json()]
    return [request.headers["x-deadline"]]

@app.post("/fails")
async def fails(request: Request):
    print("trying", flush=True)
    os._exit(3)

if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ["PORT"]))
"""


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    with mesh_up(env={"RUNMESH_ORGANIZATION_RUNS": "3", "RUNMESH_ORGANIZATION_QUEUE": "5"}) as mesh:
        mesh.deploy("tree", TREE)
        yield mesh


def start(mesh: Mesh, **inputs: Any) -> str:
    """A tree that is started asynchronously; its root's id."""
    with mesh.http() as client:
        answer = client.post("/run_async/tree/tree", json={"name": "root", **inputs})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["request_id"])


def states(mesh: Mesh) -> dict[str, str]:
    """Of the newest runs, by their ids."""
    with mesh.http() as client:
        return {run["id"]: run["status"] for run in client.get("/requests", params={"limit": 20}).json()["items"]}


def test_a_cancel_reaches_everything_below(mesh: Mesh) -> None:
    before = set(states(mesh))
    leaf = {"name": "leaf", "sleep": 100}
    root = start(mesh, calls=[("run_async", leaf), ("run", {"name": "middle", "calls": [("run", leaf)]})], sleep=100)
    until(lambda: [state for run, state in states(mesh).items() if run not in before] == ["running"] * 4, 60)
    with mesh.http() as client:
        assert client.delete(f"/request/{root}").status_code == 200
        until(lambda: {state for run, state in states(mesh).items() if run not in before} == {"cancelled"}, 10)
        assert client.delete(f"/request/{root}").status_code == 200
        assert client.get(f"/request/{root}").json()["code"] == "cancelled"


def test_a_nested_call_inherits_the_time_that_is_left(mesh: Mesh) -> None:
    with mesh.http() as client:
        outer, inner = client.post("/run/tree/deadline", json={"below": True}).json()
    assert outer
    assert inner <= outer


def test_one_idempotency_key_is_one_run_and_one_answer(mesh: Mesh) -> None:
    def call(_: int) -> httpx.Response:
        with mesh.http() as client:
            headers = {"idempotency-key": "the same"}
            return client.post("/run/tree/tree", json={"name": "x", "sleep": 0.5}, headers=headers)

    with ThreadPoolExecutor(100) as pool:
        answers = list(pool.map(call, range(100)))
    assert {answer.status_code for answer in answers} == {200}, [answer.text for answer in answers]
    assert {answer.text for answer in answers} == {'{"name":"x"}'}
    assert len({answer.headers["x-request-id"] for answer in answers}) == 1
    with mesh.http() as client:
        other = client.post("/run/tree/tree", json={"name": "y"}, headers={"idempotency-key": "the same"})
    assert (other.status_code, other.json()["code"]) == (409, "conflict")


def test_the_queue_tells_places_and_has_an_end(mesh: Mesh) -> None:
    with mesh.http() as client:
        early = client.post("/run/tree/tree", json={"name": "early"}, headers={"idempotency-key": "early"})
        assert early.status_code == 200, early.text
    running = [start(mesh, sleep=60) for _ in range(3)]
    until(lambda: [states(mesh)[run] for run in running] == ["running"] * 3, 30)
    with mesh.http() as client:
        provisioned = client.post("/provision-request").json()["request_id"]
        for named in ({"idempotency-key": "too late"}, {"x-provisioned-request-id": provisioned}):
            began = time.monotonic()
            refused = client.post("/run/tree/tree", json={"name": "too many"}, headers=named)
            assert (refused.status_code, refused.json()["code"]) == (429, "too_many_runs"), refused.text
            assert int(refused.headers["retry-after"]) >= 1
            assert time.monotonic() - began < 5
        again = client.post("/run/tree/tree", json={"name": "early"}, headers={"idempotency-key": "early"})
        assert (again.text, again.headers["x-request-id"]) == (early.text, early.headers["x-request-id"])
        refused = client.post("/run/tree/tree", json={"name": "too many"})
        assert (refused.status_code, refused.json()["code"]) == (429, "too_many_runs")
        assert int(refused.headers["retry-after"]) >= 1
        waiting = [start(mesh) for _ in range(4)]
        hurried = client.post("/run_async/tree/tree", json={"name": "x"}, headers={"x-priority": "high"}).json()
        first = client.get(f"/result/{hurried['request_id']}")
        assert (first.status_code, first.json()["queue"]["position"]) == (408, 1)
        last = client.get(f"/result/{waiting[-1]}")
        assert last.json()["queue"]["position"] == 5
        assert "number 5" in last.json()["detail"]
        assert last.headers["retry-after"]
        full = client.post("/run_async/tree/tree", json={"name": "x"})
        assert (full.status_code, full.json()["code"]) == (429, "too_many_runs")
        elsewhere = mesh.new_organization("other")
        with mesh.http(elsewhere["key"]) as theirs:
            assert theirs.get("/requests").status_code == 200
        for run in running:
            client.delete(f"/request/{run}")
    for run in (*waiting, hurried["request_id"]):
        assert mesh.finished(run, 60)["status"] == "succeeded"


def test_a_workflow_that_fails_is_tried_again_if_the_call_asks(mesh: Mesh) -> None:
    with mesh.http() as client:
        answer = client.post("/run_async/tree/fails", json={}, headers={"x-retries": "2"})
        record = mesh.finished(answer.json()["request_id"], 60)
        assert (record["status"], record["code"], record["attempt"]) == ("failed", "workflow_crashed", 3)
        log = client.get(f"/logs/{record['id']}", headers={"accept": "application/x-ndjson"}).text
        assert log.count("trying") == 3
        once = client.post("/run_async/tree/fails", json={})
        assert mesh.finished(once.json()["request_id"], 60)["attempt"] == 1


def test_a_database_that_somebody_holds_is_told_and_afterwards_all_goes_on(mesh: Mesh) -> None:
    """What needs it is refused within a second; a plain call doesn't, and its run is told of later."""
    body = {"name": "patient"}
    with mesh.http() as client, closing(sqlite3.connect(mesh.home / "data" / "scheduler.db")) as somebody:
        assert client.post("/run/tree/tree", json=body).status_code == 200
        somebody.execute("BEGIN IMMEDIATE")
        for _ in range(3):
            began = time.monotonic()
            refused = client.post("/run_async/tree/tree", json=body)
            assert time.monotonic() - began < 1.5
            assert (refused.status_code, refused.json()["code"]) == (503, "unavailable"), refused.text
            assert int(refused.headers["retry-after"]) >= 1
        direct = client.post("/run/tree/tree", json=body)
        assert direct.json() == body
        somebody.rollback()
        until(lambda: client.post("/run_async/tree/tree", json=body).status_code == 200, 5)
    assert mesh.finished(direct.headers["x-request-id"])["status"] == "succeeded"


@pytest.mark.slow  # a lease has to run out
def test_an_executor_says_that_it_relies_on_its_lease(mesh: Mesh) -> None:
    """Schedulers ask. One that stands still doesn't say so, nor one whose lease has run out."""
    address = f"unix:{mesh.home / 'run' / 'executor.sock'}"

    async def relies() -> bool:
        async with Executors(lambda: address, list, validate_seconds=1) as executors:
            return await executors.alive(address)

    assert asyncio.run(relies())
    executor, scheduler = mesh.pid_of("executor"), mesh.pid_of("scheduler")
    try:
        os.kill(executor, signal.SIGSTOP)
        assert not asyncio.run(relies())
        os.kill(executor, signal.SIGCONT)
        os.kill(scheduler, signal.SIGSTOP)
        assert asyncio.run(relies())
        until(lambda: not asyncio.run(relies()), 25)
    finally:
        os.kill(executor, signal.SIGCONT)
        os.kill(scheduler, signal.SIGCONT)
    until(lambda: asyncio.run(relies()), 10)


@pytest.mark.slow  # tests/faults kills them all the time
def test_a_lost_executor_is_another_attempt(mesh: Mesh) -> None:
    run = start(mesh, sleep=4)
    with mesh.http() as client:
        until(lambda: client.get(f"/request/{run}").json()["status"] == "running", 30)
    time.sleep(1)
    os.kill(mesh.pid_of("executor"), signal.SIGKILL)
    record = mesh.finished(run, 60)
    assert (record["status"], record["attempt"]) == ("succeeded", 2)
    assert record["usage"]["wallSeconds"] >= 4
