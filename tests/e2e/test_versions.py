"""Versions of a workflow, through the whole mesh: called by their number, rolled back, sharing its calls."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.e2e.mesh import Mesh

CODE = """\
# /// script
# dependencies = ["uvicorn"]
# [tool.runmesh]
# isolation = "ISOLATION"
# ///
async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"NUMBER"})


if __name__ == "__main__":
    import uvicorn

    uvicorn.run(app)
"""
PER_SECOND = 50


def deploy(client: httpx.Client, service_id: str, number: int, *, publish: bool = True, isolation: str = "run") -> None:
    code = CODE.replace("NUMBER", str(number)).replace("ISOLATION", isolation)
    body = {"name": service_id, "code": code, "service_id": service_id}
    answer = client.post(f"/deploy?publish={str(publish).lower()}", json=body, timeout=60)
    assert (answer.status_code, answer.json().get("version")) == (200, number), answer.text


def said(client: httpx.Client, reference: str) -> str:
    answer = client.post(f"/run/{reference}")
    assert answer.status_code == 200, answer.text
    return answer.text


def test_by_number_back_and_shared(mesh: Mesh) -> None:
    with mesh.http() as client:
        for number in (1, 2):
            deploy(client, "versions", number)
        deploy(client, "versions", 3, publish=False)
        assert [said(client, f"versions{at}") for at in ("", "@1", "@2", "@3")] == ["2", "1", "2", "3"]
        listed = client.get("/workflows/versions/versions?limit=2").json()
        assert [(one["version"], one["traffic"]) for one in listed["items"]] == [(3, 0), (2, 100)]
        record = client.get(f"/request/{client.post('/run/versions').headers['x-request-id']}").json()
        assert record["versionId"] == listed["items"][1]["id"]
        rest = client.get(f"/workflows/versions/versions?limit=2&after={listed['next']}").json()
        assert ([one["version"] for one in rest["items"]], rest["next"]) == ([1], None)
        assert client.post(listed["items"][0]["url"]).text == "3"

        back = client.post("/workflows/versions/rollback")
        assert (back.status_code, back.json()["version"], back.json()["traffic"]) == (200, 1, {"1": 100})
        assert said(client, "versions") == "1"
        again = client.post("/workflows/versions/rollback")
        assert (again.status_code, again.json()["code"]) == (409, "conflict")

        split = client.put("/workflows/versions/traffic", json={"1": 50, "3": 50})
        assert (split.status_code, split.json()["traffic"]) == (200, {"1": 50, "3": 50})
        assert {said(client, "versions") for _ in range(30)} == {"1", "3"}  # else a chance of one in a billion
        accepted = [client.post("/run_async/versions").json()["request_id"] for _ in range(20)]
        answers = {client.get(f"/result/{run_id}?timeout=30").json()["responseContent"] for run_id in accepted}
        assert answers == {"1", "3"}
        assert client.get("/workflows/versions").json()["traffic"] == {"1": 50, "3": 50}


def test_what_is_refused(mesh: Mesh) -> None:
    with mesh.http() as client, mesh.http(mesh.new_organization("others")["key"]) as other:
        deploy(client, "versions-refused", 1)
        mine = "/workflows/versions-refused"
        asked: list[tuple[httpx.Response, int]] = [
            (client.put(f"{mine}/traffic", json={"1": 99}), 400),
            (client.put(f"{mine}/traffic", json={"one": 100}), 400),
            (client.put(f"{mine}/traffic", json=[]), 400),
            (client.put(f"{mine}/traffic"), 400),
            (client.put(f"{mine}/traffic", json={"1": 50, "2": 50}), 404),
            (client.post(f"{mine}/rollback", json={"version": 9}), 404),
            (client.post(f"{mine}/rollback", json={"version": "1"}), 400),
            (client.post(f"{mine}/rollback"), 409),
            (client.get(f"{mine}/versions?after=x"), 400),
            *((ask(f"{mine}{path}"), 404) for ask, path in ((other.get, "/versions"), (other.post, "/rollback"))),
            (other.put(f"{mine}/traffic", json={"1": 100}), 404),
            (client.get("/run/versions-refused@2"), 404),
        ]
        assert [(answer.status_code, answer.text) for answer, status in asked if answer.status_code != status] == []
        assert client.get(mine).json()["traffic"] == {"1": 100}


class Callers:
    """Calls at a fixed rate, whether they are answered or not; `answers` are (when it was asked, status, what)."""

    def __init__(self, mesh: Mesh, service_id: str) -> None:
        self._mesh = mesh
        self._path = f"/run/{service_id}"
        self.answers: list[tuple[float, int, str]] = []

    async def during(self, work: Callable[[], Any]) -> None:
        """`work` goes on in a thread meanwhile."""
        limits = httpx.Limits(max_connections=200)
        headers = {"Authorization": f"Bearer {self._mesh.key}"}
        async with (
            httpx.AsyncClient(base_url=self._mesh.url, headers=headers, timeout=60, limits=limits) as client,
            asyncio.TaskGroup() as calls,
        ):
            working = asyncio.create_task(asyncio.to_thread(work))
            following = time.monotonic()
            while not working.done():
                calls.create_task(self._call(client))
                following += 1 / PER_SECOND
                await asyncio.sleep(max(0.0, following - time.monotonic()))
            await working

    async def _call(self, client: httpx.AsyncClient) -> None:
        asked = time.monotonic()
        answer = await client.post(self._path)
        self.answers.append((asked, answer.status_code, answer.text))

    def since(self, began: float, ended: float) -> Counter[str]:
        """What was answered to calls that were made meanwhile."""
        return Counter(text for asked, _, text in self.answers if began <= asked < ended)


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_under_load_no_call_fails_and_each_version_has_its_share(mesh: Mesh) -> None:
    """50 calls a second: ten redeploys, a rollback, a share of 10 %. Instances: two processors that run the callers
    too would be full with as many fresh sandboxes (docs/benchmarks.md).
    """
    callers, times = Callers(mesh, "versions-load"), dict[str, float]()

    def work() -> None:
        for number in range(2, 12):
            deploy(client, "versions-load", number, isolation="instance")
            time.sleep(1)
        times["back"] = time.monotonic()
        assert client.post("/workflows/versions-load/rollback").json()["version"] == 10
        times["is back"] = time.monotonic()
        time.sleep(3)
        times["split"] = time.monotonic()
        assert client.put("/workflows/versions-load/traffic", json={"10": 90, "11": 10}).status_code == 200
        times["is split"] = time.monotonic()
        time.sleep(40)
        times["end"] = time.monotonic()

    with mesh.http() as client:
        deploy(client, "versions-load", 1, isolation="instance")
        said(client, "versions-load")
        await callers.during(work)
    failed = [answer for answer in callers.answers if answer[1] != 200]
    assert failed == []
    assert set(callers.since(0, times["back"])) == set(map(str, range(1, 12)))
    assert set(callers.since(times["is back"], times["split"])) == {"10"}
    shared = callers.since(times["is split"], times["end"])
    assert set(shared) == {"10", "11"}
    assert shared.total() > 0.9 * PER_SECOND * (times["end"] - times["is split"])
    assert abs(100 * shared["11"] / shared.total() - 10) < 3, shared
