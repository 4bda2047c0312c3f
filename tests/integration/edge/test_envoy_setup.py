"""What an operator sets: TLS, origins, a collector of traces; and what Envoy says when it stands alone."""

import asyncio
import json
import re
import shutil
import ssl
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from tests.integration.edge.rig import BEARER, envoy_running, proxy_header, rigged

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture(scope="module")
def certificate() -> Iterator[tuple[str, str]]:
    directory = Path(tempfile.mkdtemp(prefix="tls-"))
    cert, key = str(directory / "cert.pem"), str(directory / "key.pem")
    subject = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1")
    command = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", cert, *subject)
    subprocess.run(command, check=True, capture_output=True)
    yield cert, key
    shutil.rmtree(directory)


async def test_tls_for_callers_and_sandboxes(certificate: tuple[str, str]) -> None:
    cert, key = certificate
    trusting = ssl.create_default_context(cafile=cert)
    async with rigged(tls_cert=cert, tls_key=key) as rig:
        rig.admit()
        async with httpx.AsyncClient(verify=trusting) as client:
            reply = await client.get(f"https://127.0.0.1:{rig.port}/run/echo", headers=BEARER)
            assert ["x-forwarded-proto", "https"] in reply.json()["headers"]
        nested = await _nested_over_tls(rig.run_dir / "nested-tls.sock", trusting)
        assert nested.startswith(b"HTTP/1.1 401 ")  # past the PROXY header and TLS, up to the identity


async def _nested_over_tls(path: Path, trusting: ssl.SSLContext) -> bytes:
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(proxy_header((0xE0, b"nobody")))
    await writer.start_tls(trusting, server_hostname="localhost")
    writer.write(b"GET /run/echo HTTP/1.1\r\nHost: runtime\r\nConnection: close\r\n\r\n")
    received = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return received


async def test_only_configured_origins_get_cors_answers() -> None:
    preflight = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    async with rigged(cors_origins=("https://app.example",)) as rig, httpx.AsyncClient(base_url=rig.url) as client:
        rig.admit()
        good, bad = {"Origin": "https://app.example"}, {"Origin": "https://evil.example"}
        reply = await client.options("/run/echo", headers=preflight | good)
        assert reply.status_code == 200
        assert reply.headers["access-control-allow-origin"] == "https://app.example"
        assert "Authorization" in reply.headers["access-control-allow-headers"]
        reply = await client.get("/run/echo", headers=BEARER | good)
        assert reply.headers["access-control-allow-origin"] == "https://app.example"
        assert "X-Request-Id" in reply.headers["access-control-expose-headers"]
        reply = await client.options("/run/echo", headers=preflight | bad)
        assert (reply.status_code, "access-control-allow-origin" in reply.headers) == (405, False)
        reply = await client.get("/run/echo", headers=BEARER | bad)
        assert "access-control-allow-origin" not in reply.headers


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self) -> None:
        self.spans: asyncio.Queue[Any] = asyncio.Queue()

    async def Export(self, request: Any, context: Any) -> trace_service_pb2.ExportTraceServiceResponse:
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                for span in scope.spans:
                    self.spans.put_nowait(span)
        return trace_service_pb2.ExportTraceServiceResponse()


@asynccontextmanager
async def collecting() -> AsyncIterator[tuple[Collector, int]]:
    collector, server = Collector(), grpc.aio.server()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield collector, port
    finally:
        await server.stop(0)


async def test_envoys_span_stands_between_the_callers_and_the_edges() -> None:
    trace, span = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    async with (
        collecting() as (collector, port),
        rigged(otlp_endpoint=f"http://127.0.0.1:{port}") as rig,
        httpx.AsyncClient(base_url=rig.url) as client,
    ):
        rig.admit()
        headers = BEARER | {"traceparent": f"00-{trace}-{span}-01"}
        reply = await client.get("/run/echo", headers=headers)
        assert reply.headers["traceparent"].split("-")[1] == trace
        assert ["traceparent", headers["traceparent"]] in reply.json()["headers"]  # as the caller sent it
        exported = await asyncio.wait_for(collector.spans.get(), 20)
        assert (exported.trace_id.hex(), exported.parent_span_id.hex()) == (trace, span)


async def test_envoy_alone_answers_in_our_own_shape() -> None:
    run_dir = Path(tempfile.mkdtemp(prefix="edge-"))
    try:
        async with (
            envoy_running(run_dir) as port,
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
        ):
            for path in ("/api/v1/run/x", "/api/v1/run/x/stream?a", "/run/echo", "/files/x/y", "/nope"):
                reply = await client.post(path, content=b"x", headers=BEARER)
                assert (reply.status_code, reply.json()["code"]) == (503, "unavailable"), path
                more = {"success": False, "error": reply.json()["detail"]} if path.startswith("/api/v1/") else {}
                assert {name: value for name, value in reply.json().items() if name in {"success", "error"}} == more
                assert (reply.headers["retry-after"], reply.headers["error-origin"]) == ("1", "runtime")
                _check_ids(reply.headers)
            assert reply.headers["x-correlation-id"] == reply.headers["x-request-id"]
            given = {"X-Correlation-Id": "a|b%0d%0ac", "traceparent": TRACEPARENT}
            reply = await client.get("/run/echo", headers=BEARER | given)
            assert (reply.headers["x-correlation-id"], reply.headers["traceparent"]) == ("a|b%0d%0ac", TRACEPARENT)
            for path in ("/run/echo", "/files/x/y"):
                forged = {"x-runmesh-correlation": "a%0d%0ax-forged: b", "traceparent": "00-forged-01-01"}
                reply = await client.get(path, headers=BEARER | forged)
                assert "x-forged" not in reply.headers
                _check_ids(reply.headers)
            reply = await client.get("/x", headers={"Connection": "upgrade", "Upgrade": "websocket"})
            assert (reply.status_code, reply.json()["code"]) == (501, "not_supported")
            _check_ids(reply.headers)
    finally:
        shutil.rmtree(run_dir)


def _check_ids(headers: httpx.Headers) -> None:
    """What every answer bears, once each."""
    for name, shape in {
        "x-request-id": r"req_[0-9a-f-]{36}",
        "x-correlation-id": r"\S[ -~]*",
        "traceparent": r"00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]",
    }.items():
        (value,) = headers.get_list(name)
        assert re.fullmatch(shape, value), (name, value)


async def test_malformed_requests_get_our_own_shape_too() -> None:
    async with rigged() as rig:
        for request in (b"GARBAGE\r\n\r\n", b"GET /healthz HTTP/1.1\r\n\r\n", b"FOO / HTTP/1.1\r\nHost: h\r\n\r\n"):
            head, _, body = (await rig.raw(request)).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 400 ")
            assert json.loads(body) == {"code": "bad_request", "detail": "the request isn't well-formed HTTP"}
            lines = (line.partition(b": ") for line in head.split(b"\r\n")[1:])
            _check_ids(httpx.Headers([(name, value) for name, _, value in lines]))


async def test_connect_is_refused_like_any_unknown_path() -> None:
    async with rigged() as rig:
        request = b"CONNECT h:80 HTTP/1.1\r\nHost: h\r\nx-runmesh-path: /healthz\r\nConnection: close\r\n\r\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        writer.write(request)
        received = await asyncio.wait_for(reader.readuntil(b"}"), 10)
        writer.close()
        assert received.startswith(b"HTTP/1.1 404 ")
        assert b'there is nothing at /"' in received
        assert "script log" not in (rig.run_dir / "envoy.log").read_text()


async def test_the_content_type_of_a_file_is_no_head_of_ours() -> None:
    async def filestore(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nX-Runmesh-Edge: 1\r\nConnection: close\r\n")
        writer.write(b"Content-Type: x-runmesh-answer|201|set-cookie:a\r\nX-Own: a\r\n\r\nx")
        writer.close()
        await writer.wait_closed()

    async with (
        rigged() as rig,
        httpx.AsyncClient(base_url=rig.url) as client,
        await asyncio.start_unix_server(filestore, rig.run_dir / "files.sock"),
    ):
        reply = await client.get("/files/f_1")
    assert (reply.status_code, reply.headers["x-own"]) == (200, "a")
    assert not {"set-cookie", "x-runmesh-edge"} & set(reply.headers)


async def test_file_bytes_bypass_the_edge() -> None:
    received = []

    async def filestore(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 206 Partial Content\r\nContent-Length: 3\r\nX-Own: a\r\nConnection: close\r\n\r\nabc")
        writer.close()
        await writer.wait_closed()

    async with (
        rigged() as rig,
        httpx.AsyncClient(base_url=rig.url) as client,
        await asyncio.start_unix_server(filestore, rig.run_dir / "files.sock"),
    ):
        reply = await client.get("/files/d/f_1?sig=a%2Fb&x=%20", headers={"Range": "bytes=0-2", "X-Amz-Acl": "p"})
    assert (reply.status_code, reply.content, reply.headers["x-own"]) == (206, b"abc", "a")
    assert received[0].startswith(b"GET /files/d/f_1?sig=a%2Fb&x=%20 HTTP/1.1\r\n")
    assert b"range: bytes=0-2\r\n" in received[0].lower()
