"""What a handler answers, on its way through real Envoy to the caller."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from edge.http import Aborted, Answer, Handler, Request
from kit.errors import Exhausted
from tests.integration.edge.rig import BEARER, KEY, Rig

pytestmark = pytest.mark.asyncio(loop_scope="module")


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\nAuthorization: {KEY}\r\n\r\n".encode()


def answering(answer: Answer) -> Handler:
    async def handler(_request: Request) -> Answer:
        return answer

    return handler


@pytest.mark.parametrize("status", [200, 201, 204, 206, 301, 304, 400, 404, 418, 422, 500, 503, 599])
async def test_any_status_with_its_headers(rig: Rig, client: httpx.AsyncClient, status: int) -> None:
    headers = [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"), ("Content-Type", "text/weird"), ("ETag", '"x"')]
    rig.handlers["status"] = answering(Answer(status, headers, b"body"))
    reply = await client.get("/run/status", headers=BEARER)
    assert reply.status_code == status
    assert reply.headers.get_list("set-cookie") == ["a=1", "b=2"]
    assert (reply.headers["content-type"], reply.headers["etag"]) == ("text/weird", '"x"')
    assert reply.content == (b"" if status in {204, 304} else b"body")
    for name in ("x-request-id", "x-correlation-id"):
        assert len(reply.headers.get_list(name)) == 1


async def test_headers_of_all_kinds(rig: Rig) -> None:
    headers = [
        ("x-latin", "caf\xe9|%41 \t"),
        ("x-unicode", "日本"),
        ("x-split", "a\r\nx-forged: b\0"),
        ("x bad name", "v"),
        ("x-odd%name|", "v"),
        ("date", "Tue, 01 Jan 2030 00:00:00 GMT"),
        ("server", "mine"),
        ("via", "1.1 x"),
        ("connection", "close"),
        ("content-length", "3"),
        ("transfer-encoding", "chunked"),
    ]
    rig.handlers["headers"] = answering(Answer(200, headers, b"whole body"))
    head, _, body = (await rig.raw(get("/run/headers"))).partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert b"x-latin: caf\xe9|%41" in lines
    assert "x-unicode: 日本".encode() in lines
    assert b"x-split: a  x-forged: b" in lines
    assert b"x-odd%name|: v" in lines
    assert b"x bad name" not in head
    assert [line for line in lines if line.startswith((b"date:", b"server:", b"via:"))] == [
        b"date: Tue, 01 Jan 2030 00:00:00 GMT",
        b"server: mine",
        b"via: 1.1 x",
    ]
    assert b"content-length: 10" in lines
    assert b"transfer-encoding" not in head
    assert body == b"whole body"


async def test_a_head_too_large_for_anyone_hurts_nobody_else(rig: Rig, client: httpx.AsyncClient) -> None:
    started, release = asyncio.Event(), asyncio.Event()

    async def waits(_request: Request) -> Answer:
        started.set()
        await release.wait()
        return Answer(200, [], b"fine")

    rig.handlers |= {
        "waits": waits,
        "large": answering(Answer(200, [(f"x-{number}", "y" * 1000) for number in range(100)])),
        "huge": answering(Answer(200, [(f"x-{number}", "\xe9" * 1000) for number in range(100)])),
    }
    waiting = asyncio.create_task(client.get("/run/waits", headers=BEARER))
    await asyncio.wait_for(started.wait(), 5)
    large = await rig.raw(get("/run/large"))
    assert large.startswith(b"HTTP/1.1 200 ")
    assert len(large) > 100_000
    huge = await client.get("/run/huge", headers=BEARER)
    assert (huge.status_code, huge.json()["code"]) == (502, "too_much_output")
    release.set()
    assert (await waiting).content == b"fine"


async def test_a_stream_comes_as_it_is_made(rig: Rig, client: httpx.AsyncClient) -> None:
    steps: asyncio.Queue[bytes] = asyncio.Queue()

    async def body() -> AsyncIterator[bytes]:
        while step := await steps.get():
            yield step

    rig.handlers["stream"] = answering(Answer(200, [("content-type", "text/event-stream")], body()))
    async with client.stream("GET", "/run/stream", headers=BEARER) as reply:
        assert reply.headers["content-type"] == "text/event-stream"  # the head came before any of the body
        parts = reply.aiter_raw()
        for step in (b"data: 1\n\n", b"data: 2\n\n"):
            steps.put_nowait(step)
            assert await asyncio.wait_for(anext(parts), 5) == step
        steps.put_nowait(b"")
        assert [part async for part in parts] == []


@pytest.mark.parametrize("error", [Aborted(), RuntimeError("a bug"), Exhausted("too much", code="too_much_output")])
async def test_a_stream_that_breaks_is_an_aborted_transfer(
    rig: Rig, client: httpx.AsyncClient, error: Exception
) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"begun"
        raise error

    rig.handlers["breaks"] = answering(Answer(200, [], body()))
    received = await rig.raw(get("/run/breaks"))
    assert b"\r\n5\r\nbegun\r\n" in received
    assert b"\r\n0\r\n" not in received  # no last chunk: the end isn't clean
    rig.handlers["breaks"] = answering(Answer(200, [], body()))
    with pytest.raises(httpx.RemoteProtocolError):
        await client.get("/run/breaks", headers=BEARER)


async def test_http_1_0(rig: Rig) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"one"
        yield b"two"

    rig.handlers["old"] = answering(Answer(200, [], body()))
    received = await rig.raw(f"GET /run/old HTTP/1.0\r\nAuthorization: {KEY}\r\n\r\n".encode())
    assert received.startswith(b"HTTP/1.0 200 ")
    assert received.endswith(b"\r\n\r\nonetwo")


async def test_a_large_answer_passes_whole(rig: Rig, client: httpx.AsyncClient) -> None:
    rig.handlers["large"] = answering(Answer(200, [], bytes(range(256)) * 40_000))
    reply = await client.get("/run/large", headers=BEARER)
    assert reply.content == bytes(range(256)) * 40_000
    assert reply.headers["content-length"] == "10240000"


async def test_an_error_before_the_head_is_json(rig: Rig, client: httpx.AsyncClient) -> None:
    async def fails(_request: Request) -> Answer:
        raise RuntimeError("SELECT secret")

    rig.handlers["fails"] = fails
    reply = await client.get("/run/fails", headers=BEARER)
    assert (reply.status_code, reply.json()["code"], reply.headers["error-origin"]) == (500, "runtime_error", "runtime")
    assert "secret" not in reply.text


async def test_hanging_up_reaches_the_handler(rig: Rig) -> None:
    started, cancelled, gone = asyncio.Event(), asyncio.Event(), []

    async def waits(request: Request) -> Answer:
        started.set()
        gone.append(request.gone)
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    rig.handlers["waits"] = waits
    _, writer = await asyncio.open_connection("127.0.0.1", rig.port)
    writer.write(get("/run/waits"))
    await asyncio.wait_for(started.wait(), 5)
    writer.close()
    await asyncio.wait_for(cancelled.wait(), 5)
    await asyncio.wait_for(gone[0].wait(), 5)


async def test_hanging_up_closes_a_stream(rig: Rig) -> None:
    closed = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x" * 1000
                await asyncio.sleep(0.01)
        finally:
            closed.set()

    rig.handlers["endless"] = answering(Answer(200, [], body()))
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
    writer.write(get("/run/endless"))
    await reader.read(100)
    writer.close()
    await asyncio.wait_for(closed.wait(), 5)
