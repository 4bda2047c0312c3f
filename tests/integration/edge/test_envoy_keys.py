"""Keys and identities of runs through real Envoy: who is let in, and for how long."""

import asyncio
import base64
import hashlib
import hmac
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from mesh.runs.v1 import identity_pb2

from edge.http import Answer, Request
from tests.integration.edge.rig import BEARER, KEY, MESH_KEY, Rig, proxy_header

pytestmark = pytest.mark.asyncio(loop_scope="module")
RUN = 0xE0
GET = b"GET /run/echo/n?q HTTP/1.1\r\nHost: runtime\r\nConnection: close\r\n"


def token(*, key: bytes = MESH_KEY, seconds: float = 60) -> bytes:
    run = identity_pb2.RunIdentity(run_id="run_1", root_id="run_0", acting_id="org_a", caller_id="org_c", depth=2)
    run.deadline.FromDatetime(datetime.now(UTC) + timedelta(seconds=seconds))
    payload = run.SerializeToString()
    parts = payload, hmac.digest(key, payload, hashlib.sha256)
    return b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)


def body(reply: bytes) -> httpx.Response:
    head, _, content = reply.partition(b"\r\n\r\n")
    return httpx.Response(int(head.split(b" ")[1]), content=content)


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": KEY},
        {"Authorization": f"bEaReR  {KEY}"},
        {"X-Api-Key": KEY},
        {"x-goog-api-key": KEY},
    ],
)
async def test_a_key_is_taken_from_any_of_four_places(client: httpx.AsyncClient, headers: dict[str, str]) -> None:
    assert (await client.get("/run/echo", headers=headers)).status_code == 200


@pytest.mark.parametrize(
    "key", ["", "cwk-unknown", "cwk-run-abc", "sk-other", "Basic dXNlcjpwYXNz", "cwk-" + "x" * 5000]
)
async def test_others_are_refused(client: httpx.AsyncClient, key: str) -> None:
    reply = await client.get("/run/echo", headers={"Authorization": key})
    assert (reply.status_code, reply.json()["code"]) == (401, "unauthenticated")


async def test_open_calls_end_within_a_second_of_a_revocation(rig: Rig, client: httpx.AsyncClient) -> None:
    async def waits(_request: Request) -> Answer:
        await asyncio.Event().wait()
        raise AssertionError

    async def ticks() -> AsyncIterator[bytes]:
        while True:
            yield b"tick"
            await asyncio.sleep(0.05)

    async def streams(_request: Request) -> Answer:
        return Answer(200, [], ticks())

    rig.handlers |= {"waits": waits, "streams": streams}
    waiting = asyncio.create_task(client.get("/run/waits", headers=BEARER))
    async with client.stream("GET", "/run/streams", headers=BEARER) as reply:
        parts = reply.aiter_raw()
        await anext(parts)
        del rig.keys.valid[KEY]
        since = time.monotonic()
        with pytest.raises(httpx.RemoteProtocolError):
            async for _ in parts:
                pass
        assert time.monotonic() - since < 1.0
    assert (await waiting).status_code == 401
    assert (await client.get("/run/echo", headers=BEARER)).status_code == 401


async def test_an_event_ends_a_key_at_once(rig: Rig, client: httpx.AsyncClient) -> None:
    assert (await client.get("/run/echo", headers=BEARER)).status_code == 200
    del rig.keys.valid[KEY]
    await rig.auth.revoked("key_1")
    assert (await client.get("/run/echo", headers=BEARER)).status_code == 401


async def test_a_stream_that_nobody_reads_still_breaks_off(rig: Rig) -> None:
    async def floods() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 100_000

    async def handler(_request: Request) -> Answer:
        return Answer(200, [], floods())

    rig.handlers["floods"] = handler
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
    writer.write(f"GET /run/floods HTTP/1.1\r\nHost: h\r\nAuthorization: {KEY}\r\n\r\n".encode())
    assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
    del rig.keys.valid[KEY]
    await asyncio.sleep(1)  # the flood stands still: nobody reads
    received = b""
    while part := await asyncio.wait_for(reader.read(1 << 20), 5):
        received = (received + part)[-100:]
    writer.close()
    assert not received.endswith(b"\r\n0\r\n\r\n")


async def test_a_run_is_known_by_its_connection(rig: Rig) -> None:
    forged = b"x-runmesh-run: " + token(key=b"f" * 32) + b"\r\nAuthorization: Bearer cwk-run-x\r\nX-Api-Key: k\r\n\r\n"
    reply = body(await rig.nested(proxy_header((RUN, token())), GET + forged))
    assert reply.status_code == 200
    seen = reply.json()
    assert (seen["kind"], seen["path"], seen["query"]) == ("run", "/n", "q")
    names = {name for name, _ in seen["headers"]}
    assert not names & {"authorization", "x-api-key", "x-runmesh-run"}


@pytest.mark.parametrize(
    "key",
    [
        b"",
        b"Authorization:\r\n",
        b"Authorization: Basic dXNlcjpwYXNz\r\n",  # http://user:pass@runtime…
        b"Authorization: Bearer Basic cwk-\r\n",
        b"Proxy-Authorization: Bearer cwk-run-placeholder\r\n",
        b"x-runmesh-keyed: yes\r\n",
    ],
)
async def test_a_connection_alone_is_nobodys_wish(rig: Rig, key: bytes) -> None:
    """An address that somebody gave a workflow to fetch leads to the runtime, too: nothing is done in its name."""
    reply = body(await rig.nested(proxy_header((RUN, token())), GET + key + b"\r\n"))
    assert (reply.status_code, reply.json()["code"]) == (401, "unauthenticated")
    assert "CODEWORDS_API_KEY" in reply.json()["detail"]


@pytest.mark.parametrize(
    "key",
    [
        b"Authorization: cwk-run-placeholder",
        b"authorization: bEARER  cwk-run-placeholder",
        b"X-Api-Key: cwk-run-placeholder",
        b"x-goog-api-key: cwk-run-placeholder",
        b"Authorization: Basic eDp5\r\nX-Api-Key: cwk-run-placeholder",
    ],
)
async def test_its_key_in_any_place_is(rig: Rig, key: bytes) -> None:
    reply = body(await rig.nested(proxy_header((RUN, token())), GET + key + b"\r\n\r\n"))
    assert reply.status_code == 200


@pytest.mark.parametrize(
    "prelude",
    [
        proxy_header(),
        proxy_header((0xE1, token())),
        proxy_header((RUN, token()), command=0x20),  # LOCAL: its records count for nothing
        proxy_header((RUN, b"")),
        proxy_header((RUN, b"garbage.garbage")),
        proxy_header((RUN, token(key=b"o" * 32))),
        proxy_header((RUN, token(seconds=-1))),
    ],
)
async def test_a_connection_without_a_valid_identity_is_refused(rig: Rig, prelude: bytes) -> None:
    request = GET + f"Authorization: {KEY}\r\nx-runmesh-run: ".encode() + token() + b"\r\n\r\n"
    reply = body(await rig.nested(prelude, request))
    assert (reply.status_code, reply.json()["code"]) == (401, "unauthenticated")


async def test_the_sandboxes_listener_wants_the_proxy_protocol(rig: Rig) -> None:
    assert await rig.nested(b"", GET + b"\r\n") == b""


async def test_the_public_listener_knows_no_runs(rig: Rig) -> None:
    reply = body(await rig.raw(GET + b"x-runmesh-run: " + token() + b"\r\n\r\n"))
    assert reply.status_code == 401
