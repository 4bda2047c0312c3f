"""Too many calls: what Envoy stops whoever calls, and what the edge refuses a key."""

import asyncio

import httpx
import pytest

from edge.http import Answer, Request
from edge.rates import Defaults
from kit.errors import Unavailable
from tests.integration.edge.rig import BEARER, Rig, proxy_header, rigged

NESTED = b"GET /run/echo HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"


def client(rig: Rig, address: str = "127.0.0.1") -> httpx.AsyncClient:
    """One that calls from that address."""
    transport = httpx.AsyncHTTPTransport(local_address=address)
    return httpx.AsyncClient(transport=transport, base_url=rig.url, timeout=20)


async def flood(http: httpx.AsyncClient, calls: int) -> list[httpx.Response]:
    return await asyncio.gather(*(http.get("/healthz", headers={"X-Correlation-Id": "mine"}) for _ in range(calls)))


async def test_a_flood_is_stopped_before_the_edge() -> None:
    async with rigged(flood_per_second=20) as rig, client(rig) as http:
        replies = await flood(http, 100)
        refused = [reply for reply in replies if reply.status_code == 429]
        assert {reply.status_code for reply in replies} == {200, 429}
        assert 50 < len(refused) <= 80
        for reply in refused:
            assert reply.json() == {
                "detail": "too many calls reach the runtime at once; try again in a second",
                "code": "rate_limited",
            }
            assert reply.headers["retry-after"] == "1"
            assert reply.headers["error-origin"] == "runtime"
            assert reply.headers["x-correlation-id"] == "mine"
            assert reply.headers["x-request-id"].startswith("req_")
        nested = [await rig.nested(proxy_header((0xE0, b"forged")), NESTED) for _ in range(40)]
        assert {answer[:12] for answer in nested} == {b"HTTP/1.1 401"}  # never 429
        await asyncio.sleep(1.0)
        assert (await http.get("/healthz")).status_code == 200


async def test_a_flood_from_one_address_leaves_room_for_others() -> None:
    async with rigged(flood_per_address=10) as rig, client(rig) as http, client(rig, "127.0.0.2") as other:
        replies = await flood(http, 60)
        assert sum(reply.status_code == 429 for reply in replies) > 30
        assert {reply.status_code for reply in await flood(other, 5)} == {200}


async def plain(_request: Request) -> Answer:
    return Answer(200, [("content-type", "text/plain")], b"done")


async def test_a_key_that_calls_too_often_is_refused() -> None:
    async with rigged(Defaults(5, 2)) as rig, client(rig) as http:
        rig.admit()
        rig.handlers["plain"] = plain
        replies = [await http.get("/run/plain", headers=BEARER) for _ in range(6)]
        assert [reply.status_code for reply in replies] == [200] * 5 + [429]
        assert replies[5].json()["detail"] == "this key may call 5 times a second; try again in 1 s"
        assert replies[5].headers["retry-after"] == "1"
        assert "x-ratelimit-limit" not in replies[5].headers
        assert (await http.get("/healthz")).status_code == 200

        replies = [await http.post("/api/v1/run/plain", headers=BEARER) for _ in range(3)]
        assert [reply.status_code for reply in replies] == [200, 200, 429]
        told = [[reply.headers[f"x-ratelimit-{name}"] for name in ("limit", "remaining", "reset")] for reply in replies]
        assert told[:2] == [["2", "1", "30"], ["2", "0", "60"]]
        assert told[2][:2] == ["2", "0"]
        refusal = replies[2].json()
        assert (refusal["success"], refusal["error"], refusal["code"]) == (False, refusal["detail"], "rate_limited")
        assert 1 <= int(replies[2].headers["retry-after"]) <= 30

        rig.permits.refill()
        rig.permits.away = Unavailable("keys is away")
        await asyncio.sleep(0.3)  # the second's bucket isn't known to be empty any more
        reply = await http.get("/run/plain", headers=BEARER)
        assert (reply.status_code, reply.json()["code"]) == (503, "unavailable")


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer cwk-unknown"}])
async def test_who_has_no_valid_key_takes_no_permit(headers: dict[str, str]) -> None:
    async with rigged(Defaults(5, 2)) as rig, client(rig) as http:
        assert (await http.post("/api/v1/run/plain", headers=headers)).status_code == 401
        assert rig.permits.asked == []
