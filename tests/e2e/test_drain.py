"""What callers see whose calls are under way when the mesh is stopped."""

import signal
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.e2e.mesh import mesh_up, until

pytestmark = pytest.mark.timeout(200)

SLEEPS = """
# /// script
# requires-python = ">=3.11"
# dependencies = ["fastapi", "uvicorn"]
# ///
import asyncio
import fastapi, uvicorn
from fastapi.responses import StreamingResponse

app = fastapi.FastAPI()

@app.post("/")
async def sleep():
    await asyncio.sleep(60)

@app.post("/stream")
async def stream():
    async def parts():
        yield b"begun"
        await asyncio.sleep(60)
    return StreamingResponse(parts())

if __name__ == "__main__":
    uvicorn.run(app, port=8000)
"""


def check_unavailable(reply: httpx.Response, correlation_id: str) -> None:
    assert (reply.status_code, reply.headers["content-type"]) == (503, "application/json"), reply.text
    assert reply.json()["code"] == "unavailable"
    assert (reply.headers["error-origin"], reply.headers["retry-after"]) == ("runtime", "1")
    assert reply.headers["x-correlation-id"] == correlation_id
    assert reply.headers["x-request-id"]
    assert reply.headers["traceparent"]


@pytest.mark.slow  # half a minute of waiting; test_envoy_drain.py has the edge's part
def test_calls_that_outlast_the_drain_are_told() -> None:
    with mesh_up(env={"RUNMESH_DRAIN_SECONDS": "1"}) as mesh, mesh.http() as client, ThreadPoolExecutor(3) as callers:
        mesh.deploy("sleeps", SLEEPS)
        accepted = client.post("/run_async/sleeps").json()["request_id"]
        provisioned = client.post("/provision-request").json()["request_id"]

        def call(method: str, path: str, correlation_id: str, **headers: str) -> httpx.Response:
            return client.request(method, path, headers={"X-Correlation-Id": correlation_id, **headers})

        direct = callers.submit(call, "POST", "/run/sleeps", "direct")
        durable = callers.submit(call, "POST", "/run/sleeps", "durable", **{"X-Provisioned-Request-Id": provisioned})
        waiting = callers.submit(call, "GET", f"/result/{accepted}?timeout=60", "waiting")
        with client.stream("POST", "/run/sleeps/stream") as streamed:
            parts = streamed.iter_raw()
            assert next(parts) == b"begun"
            until(lambda: len(client.get("/requests?status=running").json()["items"]) == 4, 30)
            mesh.process.send_signal(signal.SIGTERM)
            with pytest.raises(httpx.RemoteProtocolError):
                next(parts)
        for future, correlation_id in ((direct, "direct"), (durable, "durable"), (waiting, "waiting")):
            check_unavailable(future.result(30), correlation_id)
        for future in (direct, durable):
            assert future.result().json()["request_id"] == future.result().headers["x-request-id"]
        assert durable.result().headers["x-request-id"] == provisioned
        assert mesh.process.wait(60) == 0
