"""Calls that are still under way when the edge's drain is over; Envoy outlives the edge, as under `runmesh up`."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from edge.http import Answer, Request
from edge.model import Principal
from tests.integration.edge.rig import BEARER, KEY, Rig, envoy_running, rigged

ORIGIN = "https://app.example"
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
RUN_ID = "run_01hf0000000000000000000000"


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with rigged(cors_origins=(ORIGIN,)) as rig:
        rig.admit()
        yield rig


@pytest.fixture
async def client(rig: Rig) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=rig.url, timeout=20) as http:
        yield http


def check_stopped(reply: httpx.Response) -> None:
    """503, of the edge's or of Envoy's making."""
    check_shape(reply, 503, "unavailable")
    assert reply.headers["retry-after"] == "1"


def check_shape(reply: httpx.Response, status: int, code: str) -> None:
    """What every error bears."""
    assert (reply.status_code, reply.headers["content-type"]) == (status, "application/json"), reply.text
    assert reply.json()["code"] == code
    assert reply.json()["detail"]
    assert reply.headers["error-origin"] == "runtime"
    for name in ("x-request-id", "x-correlation-id"):
        assert len(reply.headers.get_list(name)) == 1, name
    assert not [name for name in reply.headers if name.startswith(("grpc-", "x-runmesh-"))]


async def test_a_call_under_way_is_answered(rig: Rig, client: httpx.AsyncClient) -> None:
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def hangs(_request: Request) -> Answer:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    rig.handlers["hangs"] = hangs
    sent = BEARER | {"Origin": ORIGIN, "X-Correlation-Id": "mine", "traceparent": TRACEPARENT}
    waiting = asyncio.create_task(client.get("/run/hangs", headers=sent))
    await asyncio.wait_for(started.wait(), 5)
    await asyncio.wait_for(rig.door.aclose(), 5)
    reply = await asyncio.wait_for(waiting, 5)
    check_stopped(reply)
    assert reply.headers["x-correlation-id"] == "mine"
    assert reply.headers["traceparent"].split("-")[1] == TRACEPARENT.split("-")[1]
    assert reply.headers["access-control-allow-origin"] == ORIGIN
    assert "request_id" not in reply.json()
    assert cancelled.is_set()


async def test_the_run_that_the_call_began_is_named(rig: Rig, client: httpx.AsyncClient) -> None:
    started = asyncio.Event()

    async def runs(request: Request) -> Answer:
        request.begun.append(RUN_ID)
        started.set()
        await asyncio.Event().wait()
        raise AssertionError

    rig.handlers["runs"] = runs
    waiting = asyncio.create_task(client.post("/run/runs", headers=BEARER, content=b"x"))
    await asyncio.wait_for(started.wait(), 5)
    await asyncio.wait_for(rig.door.aclose(), 5)
    reply = await asyncio.wait_for(waiting, 5)
    check_stopped(reply)
    assert reply.json()["request_id"] == reply.headers["x-request-id"] == reply.headers["x-correlation-id"] == RUN_ID
    assert f"/request/{RUN_ID}" in reply.json()["detail"]


async def test_a_call_whose_key_is_being_checked(rig: Rig, client: httpx.AsyncClient) -> None:
    asked = asyncio.Event()

    async def hangs(_key: str) -> Principal:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    rig.keys.verify = hangs  # type: ignore[method-assign, assignment]
    waiting = asyncio.create_task(client.get("/run/echo", headers=BEARER))
    await asyncio.wait_for(asked.wait(), 5)
    await asyncio.wait_for(rig.door.aclose(), 5)
    check_stopped(await asyncio.wait_for(waiting, 5))


async def test_a_call_whose_body_is_still_coming(rig: Rig) -> None:
    started = asyncio.Event()

    async def reads(request: Request) -> Answer:
        started.set()
        return Answer(200, [], await request.read(1000))

    rig.handlers["reads"] = reads
    head = f"POST /run/reads HTTP/1.1\r\nHost: h\r\nAuthorization: {KEY}\r\nContent-Length: 9\r\n\r\n"
    answered = asyncio.create_task(rig.raw(head.encode() + b"half"))
    await asyncio.wait_for(started.wait(), 5)
    await asyncio.wait_for(rig.door.aclose(), 10)
    received = await asyncio.wait_for(answered, 10)
    assert received.startswith(b"HTTP/1.1 503 ")
    assert b'"code":"unavailable"' in received


async def test_a_call_that_ends_within_the_grace_has_its_own_answer(rig: Rig, client: httpx.AsyncClient) -> None:
    started, go = asyncio.Event(), asyncio.Event()

    async def slow(_request: Request) -> Answer:
        started.set()
        await go.wait()
        return Answer(200, [], b"done")

    rig.handlers["slow"] = slow
    waiting = asyncio.create_task(client.get("/run/slow", headers=BEARER))
    await asyncio.wait_for(started.wait(), 5)
    closing = asyncio.create_task(rig.door.aclose())
    asyncio.get_running_loop().call_later(0.05, go.set)
    assert (await asyncio.wait_for(waiting, 5)).content == b"done"
    await asyncio.wait_for(closing, 5)


async def test_a_stream_that_has_begun_breaks_off(rig: Rig, client: httpx.AsyncClient) -> None:
    async def silence() -> AsyncIterator[bytes]:
        yield b"begun"
        await asyncio.Event().wait()

    async def streams(_request: Request) -> Answer:
        return Answer(200, [], silence())

    rig.handlers["streams"] = streams
    async with client.stream("GET", "/run/streams", headers=BEARER) as reply:
        parts = reply.aiter_raw()
        assert await anext(parts) == b"begun"
        closing = asyncio.create_task(rig.door.aclose())
        with pytest.raises(httpx.RemoteProtocolError):
            await asyncio.wait_for(anext(parts), 5)
        await asyncio.wait_for(closing, 5)


async def test_calls_on_their_way_when_the_drain_begins_are_answered_in_our_own_shape(rig: Rig) -> None:
    """Taken by nobody: gRPC refuses what arrives between the stop and its GOAWAY; later ones find no edge."""
    over = asyncio.Event()
    busy = asyncio.Event()
    replies: list[httpx.Response] = []

    async def calls() -> None:
        async with httpx.AsyncClient(base_url=rig.url, timeout=20) as http:
            while not over.is_set():
                replies.append(await http.get("/run/echo", headers=BEARER))
                if len(replies) >= 40:
                    busy.set()

    async with asyncio.TaskGroup() as callers:
        for _ in range(20):
            callers.create_task(calls())
        await asyncio.wait_for(busy.wait(), 20)
        await rig.door.aclose()
        over.set()
    refused = [reply for reply in replies if reply.status_code != 200]
    assert refused
    for reply in refused:
        check_stopped(reply)


@pytest.mark.parametrize(
    ("grpc_status", "status", "code"),
    [
        (grpc.StatusCode.CANCELLED, 503, "unavailable"),
        (grpc.StatusCode.UNAVAILABLE, 503, "unavailable"),
        (grpc.StatusCode.INTERNAL, 500, "runtime_error"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, 500, "runtime_error"),
    ],
)
async def test_an_error_of_grpc_itself_gets_our_own_shape(
    tmp_path: Path, grpc_status: grpc.StatusCode, status: int, code: str
) -> None:
    class Refuses(grpc.GenericRpcHandler):
        def service(self, _details: grpc.HandlerCallDetails) -> Any:
            async def abort(_requests: Any, context: Any) -> None:
                await context.abort(grpc_status, "not for callers")

            return grpc.stream_stream_rpc_method_handler(abort)

    server = grpc.aio.server(handlers=(Refuses(),))
    server.add_insecure_port(f"unix:{tmp_path}/edge.sock")
    await server.start()
    sent = {"Origin": ORIGIN, "X-Correlation-Id": "a|b%0d%0ac", "traceparent": TRACEPARENT}
    try:
        async with (
            envoy_running(tmp_path, cors_origins=(ORIGIN,)) as port,
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as client,
        ):
            reply = await client.post("/run/x", content=b"x", headers=sent)
            check_shape(reply, status, code)
            assert "not for callers" not in reply.text
            assert ("retry-after" in reply.headers) == (status == 503)
            assert reply.headers["x-correlation-id"] == sent["X-Correlation-Id"]
            assert reply.headers["traceparent"] == TRACEPARENT
            assert reply.headers["access-control-allow-origin"] == ORIGIN
            bare = [await client.get("/run/x") for _ in range(2)]
            for each in bare:
                check_shape(each, status, code)
                assert each.headers["x-correlation-id"] == each.headers["x-request-id"]
                assert len(each.headers["traceparent"]) == 55
            assert bare[0].headers["x-request-id"] != bare[1].headers["x-request-id"]
            head = await client.head("/run/x")
            assert (head.status_code, head.content, head.headers["error-origin"]) == (status, b"", "runtime")
            check_shape(await client.get("/run/x"), status, code)  # over the same connection
            api = await client.post("/api/v1/run/x", content=b"x")
            check_shape(api, status, code)
            assert (api.json()["success"], api.json()["error"]) == (False, api.json()["detail"])
    finally:
        await server.stop(None)


async def test_an_edge_that_is_killed_in_the_middle_of_a_call(tmp_path: Path) -> None:
    async def dies(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\0\0\0\4\0\0\0\0\0")  # HTTP/2's SETTINGS; the call comes before their acknowledgement
        await reader.readuntil(b"\0\0\0\4\1\0\0\0\0")
        writer.close()

    async with (
        await asyncio.start_unix_server(dies, tmp_path / "edge.sock"),
        envoy_running(tmp_path) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as client,
    ):
        reply = await client.get("/run/x", headers={"traceparent": TRACEPARENT})
        check_shape(reply, 500, "runtime_error")  # no 503: a caller would repeat what may have been done
        assert "may have been done" in reply.json()["detail"]
        assert "retry-after" not in reply.headers
