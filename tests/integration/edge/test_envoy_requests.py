"""What a caller sends, on its way through real Envoy to a handler."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from edge.http import Answer, Request, json_answer
from kit.errors import Invalid
from tests.integration.edge.rig import BEARER, KEY, Rig

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
async def test_each_method_reaches_a_workflow_with_its_body(client: httpx.AsyncClient, method: str) -> None:
    reply = await client.request(method, "/run/echo/a", content=b"hello", headers=BEARER)
    seen = reply.json()
    assert (seen["method"], seen["path"], seen["body"]) == (method, "/a", "hello")


@pytest.mark.parametrize(
    ("sent", "path", "query"),
    [
        ("/run/echo", "/", ""),
        ("/run/echo/", "/", ""),
        ("/run/echo?", "/", ""),
        ("/run/echo/a%20b/%C3%A9/%2F/%zz/c/", "/a%20b/%C3%A9/%2F/%zz/c/", ""),
        ("/run/echo//a/../b/./:verb;x=1", "//a/../b/./:verb;x=1", ""),
        (
            "/run/echo/x?service_id=other&path=%2Fy&body.data=z&?=%ff",
            "/x",
            "service_id=other&path=%2Fy&body.data=z&?=%ff",
        ),
    ],
)
async def test_path_and_query_arrive_as_they_were_sent(rig: Rig, sent: str, path: str, query: str) -> None:
    reply = await rig.raw(
        f"GET {sent} HTTP/1.1\r\nHost: h\r\nConnection: close\r\nAuthorization: {KEY}\r\n\r\n".encode()
    )
    seen = httpx.Response(200, content=reply.partition(b"\r\n\r\n")[2]).json()
    assert (seen["path"], seen["query"]) == (path, query)


async def test_headers_arrive_as_they_were_sent_but_for_internal_ones(rig: Rig) -> None:
    lines = [
        b"GET /run/echo HTTP/1.1",
        b"Host: example.test:81",
        b"Connection: close",
        b"Authorization: " + KEY.encode(),
        b"X-Two: 1",
        b"x-two: 2",
        b"X-Latin: caf\xe9 \t%41|b",
        b"X-Odd$Name: v",
        b"Content-Type: text/weird",
        b"X-Request-Id: mine",
        b"x-envoy-original-path: /run/other",
        b"x-envoy-upstream-rq-timeout-ms: 1",
        b"x-http-code: 200",
        b"x-runmesh-run: forged",
        b"x-runmesh-path: /run/other",
        b"grpc-timeout: 1n",
        b"x-evil-bin: !!",
        b"TE: trailers",
    ]
    reply = await rig.raw(b"\r\n".join(lines) + b"\r\n\r\n")
    headers = httpx.Response(200, content=reply.partition(b"\r\n\r\n")[2]).json()["headers"]
    by_platform = {"authorization", "x-forwarded-for", "x-forwarded-proto"}
    assert [pair for pair in headers if pair[0] not in by_platform] == [
        ["host", "example.test:81"],
        ["x-two", "1"],
        ["x-two", "2"],
        ["x-latin", "caf\xe9 \t%41|b"],
        ["x-odd$name", "v"],
        ["content-type", "text/weird"],
        ["x-request-id", "mine"],
    ]


async def test_a_large_body_comes_in_chunks(rig: Rig, client: httpx.AsyncClient) -> None:
    async def sizes(request: Request) -> Answer:
        return json_answer({"sizes": [len(part) async for part in request.body]})

    rig.handlers["sizes"] = sizes
    seen = (await client.post("/run/sizes", content=b"x" * 20_000_000, headers=BEARER)).json()["sizes"]
    assert sum(seen) == 20_000_000
    assert max(seen) <= 1024 * 1024


async def test_a_body_reaches_the_handler_while_it_is_sent(rig: Rig, client: httpx.AsyncClient) -> None:
    first = asyncio.Event()

    async def reads(request: Request) -> Answer:
        parts = []
        async for part in request.body:
            parts.append(part)
            first.set()
        return json_answer({"body": b"".join(parts).decode()})

    async def slow() -> AsyncIterator[bytes]:
        yield b"one"
        await asyncio.wait_for(first.wait(), 10)
        yield b"two"

    rig.handlers["reads"] = reads
    reply = await client.post("/run/reads", content=slow(), headers=BEARER)
    assert reply.json() == {"body": "onetwo"}


async def test_the_key_is_checked_before_the_body_is_there(rig: Rig) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
    writer.write(b"POST /run/echo HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n")
    assert (await asyncio.wait_for(reader.readline(), 2)).startswith(b"HTTP/1.1 401 ")
    writer.close()


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_refused_body_is_answered_though_nobody_reads_it(
    rig: Rig, client: httpx.AsyncClient, chunked: bool
) -> None:
    async def refuses(request: Request) -> Answer:
        raise Invalid("no", code="too_large")

    rig.handlers["refuses"] = refuses

    async def parts() -> AsyncIterator[bytes]:
        for _ in range(200):
            yield b"x" * 100_000

    body = parts() if chunked else b"x" * 20_000_000
    reply = await client.post("/run/refuses", content=body, headers=BEARER)
    assert (reply.status_code, reply.json()["code"]) == (413, "too_large")


async def test_expect_continue(rig: Rig) -> None:
    head = f"POST /run/echo HTTP/1.1\r\nHost: h\r\nConnection: close\r\nAuthorization: {KEY}\r\n"
    reply = await rig.raw(f"{head}Expect: 100-continue\r\nContent-Length: 2\r\n\r\nhi".encode())
    assert reply.startswith(b"HTTP/1.1 100 Continue")
    assert b"HTTP/1.1 200 OK" in reply


@pytest.mark.parametrize("content_type", ["application/grpc", "Application/gRPC+json", "application/grpc-web"])
@pytest.mark.parametrize("path", ["/run/echo", "/mesh.edge.v1.Runs/Run"])
async def test_native_grpc_gets_no_further(client: httpx.AsyncClient, content_type: str, path: str) -> None:
    headers = BEARER | {"Content-Type": content_type, "x-envoy-original-path": "/run/echo"}
    reply = await client.post(path, content=b"\0\0\0\0\0", headers=headers)
    assert (reply.status_code, reply.json()["code"]) == (400, "bad_request")


@pytest.mark.parametrize("size", [59_000, 70_000])
async def test_large_heads(rig: Rig, size: int) -> None:
    head = f"GET /run/echo HTTP/1.1\r\nHost: h\r\nConnection: close\r\nAuthorization: {KEY}\r\nX-Big: "
    reply = await rig.raw(head.encode() + b"\xe9" * size + b"\r\n\r\n")
    if size < 61_000:
        assert reply.startswith(b"HTTP/1.1 200 ")
        assert b'"x-big","\xc3\xa9' in reply
    else:
        assert reply.startswith(b"HTTP/1.1 431 ")
        assert b'"code":"too_large"' in reply


async def test_unknown_paths_and_methods_get_our_own_answers(client: httpx.AsyncClient) -> None:
    for method, path, status, code in [
        ("GET", "/nope/a%2Fb?x", 404, "not_found"),
        ("POST", "/", 404, "not_found"),
        ("POST", "/run:async/echo", 404, "not_found"),
        ("POST", "/mesh.edge.v1.Runs/Run", 404, "not_found"),
        ("PATCH", "/keys", 405, "method_not_allowed"),
        ("OPTIONS", "/run/echo/x", 405, "method_not_allowed"),
        ("TRACE", "/run/echo", 405, "method_not_allowed"),
        ("HEAD", "/nope", 404, None),
    ]:
        reply = await client.request(method, path, headers=BEARER)
        assert reply.status_code == status, path
        assert code is None or reply.json()["code"] == code
    assert (await client.patch("/keys")).headers["allow"] == "GET, POST"


async def test_errors_under_api_v1_have_two_fields_more(client: httpx.AsyncClient) -> None:
    big = {"X-Big": "x" * 70_000}
    for method, path, headers, status, code in [
        ("POST", "/api/v1/run/x", {}, 401, "unauthenticated"),
        ("POST", "/api/v1/run/x/stream", {}, 401, "unauthenticated"),
        ("POST", "/api/v1/nope", BEARER, 404, "not_found"),
        ("GET", "/api/v1/run/x", BEARER, 405, "method_not_allowed"),
        ("POST", "/api/v1/run/x", BEARER | {"Content-Type": "application/grpc"}, 400, "bad_request"),
        ("GET", "/api/v1/run/x", {"Connection": "Upgrade", "Upgrade": "websocket"}, 501, "not_supported"),
    ]:
        reply = await client.request(method, path, headers=headers)
        assert (reply.status_code, reply.json()["code"]) == (status, code), path
        told = reply.json()
        assert (told["success"], told["error"], reply.headers["error-origin"]) == (False, told["detail"], "runtime")
    # Too large to be read: nobody knows where it was to go.
    assert (await client.post("/api/v1/run/x", headers=big)).json()["code"] == "too_large"


async def test_head_is_a_get_without_a_body_but_starts_no_run(client: httpx.AsyncClient) -> None:
    reply = await client.head("/healthz")
    assert (reply.status_code, reply.content, reply.headers["content-length"]) == (200, b"", "15")
    assert (await client.head("/run/echo", headers=BEARER)).status_code == 405


async def test_a_websocket_upgrade_is_not_supported(client: httpx.AsyncClient) -> None:
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    reply = await client.get("/run/echo", headers=BEARER | upgrade | {"Sec-WebSocket-Key": "eA=="})
    assert (reply.status_code, reply.json()["code"], reply.headers["error-origin"]) == (501, "not_supported", "runtime")


async def test_garbage_gets_json_too(rig: Rig) -> None:
    reply = await rig.raw(b"FOO /run/echo HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    assert reply.startswith(b"HTTP/1.1 400 ")
    assert b'"code":"bad_request"' in reply


async def test_a_handler_that_gave_up_reading_still_answers(rig: Rig) -> None:
    async def gives_up(request: Request) -> Answer:
        try:
            async with asyncio.timeout(0.05):
                await request.read(1000)
        except TimeoutError:
            return json_answer({"given": "up"})
        raise AssertionError

    rig.handlers["gives-up"] = gives_up
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
    head = f"POST /run/gives-up HTTP/1.1\r\nHost: h\r\nAuthorization: {KEY}\r\nContent-Length: 100\r\n\r\n"
    writer.write(head.encode() + b"x" * 50)
    reply = await asyncio.wait_for(reader.readuntil(b'up"}'), 2)
    assert reply.startswith(b"HTTP/1.1 200 ")
    writer.write(b"x" * 50)
    assert await asyncio.wait_for(reader.read(), 2) == b""  # closed when all is sent, not reset before
    writer.close()
