"""Money through real Envoy: who may ask, what is told, what is refused, and what goes on to a run."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from mesh.ledger.v1 import ledger_pb2

from edge.auth import FRESH_SECONDS
from tests.integration.edge.mesh import ADMIN, ONE_TIME, PLAIN
from tests.integration.edge.whole import AUTHORIZED, World, whole_edge

pytestmark = pytest.mark.asyncio(loop_scope="module")
MONEY = [
    ("GET", "/credits", None),
    ("POST", "/credits", {"organization_id": "org_2", "amount": 1, "reason": "r"}),
    ("GET", "/usage", None),
    ("POST", "/prices", {"meter": "run", "micro_credits_per_million": 1}),
    ("GET", "/audit", None),
    ("PUT", "/organizations/org_2/rates", {}),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[World]:
    async with whole_edge() as world:
        yield world


@pytest_asyncio.fixture(loop_scope="module")
async def world(running: World) -> World:
    """With nothing remembered of keys."""
    running.asked.requests.clear()
    if running.asked.verified:
        running.asked.verified.clear()
        await asyncio.sleep(FRESH_SECONDS)
    return running


async def test_credits(world: World) -> None:
    found = await world.call("GET", "/credits")
    assert found == {"balance": 2**53 - 1, "reserved": 5, "currency": "micro_credits"}
    assert world.asked.requests["GetBalance"].organization_id == "org_1"
    granted = await world.call("POST", "/credits", json={"organization_id": "org_2", "amount": -5, "reason": "wrong"})
    assert granted == {"organization_id": "org_2", "balance": 2, "currency": "micro_credits"}
    request = world.asked.requests["Grant"]
    assert (request.amount, request.reason) == (-5, "wrong")
    assert (request.actor_key_id, request.actor_organization_id) == ("key_1", "org_1")


async def test_refusals_of_the_ledger_keep_their_meaning(world: World) -> None:
    for organization_id, amount, status, code in (
        ("org_2", -8, 402, "payment_required"),
        ("org_9", 1, 404, "not_found"),
    ):
        grant = {"organization_id": organization_id, "amount": amount, "reason": "r"}
        reply = await world.client.post("/credits", json=grant, headers=AUTHORIZED)
        assert (reply.status_code, reply.json()["code"]) == (status, code)
    price = {"meter": "nothing", "micro_credits_per_million": 1}
    assert (await world.client.post("/prices", json=price, headers=AUTHORIZED)).status_code == 400


async def test_usage_prices_and_audit(world: World) -> None:
    usage = await world.call("GET", "/usage?group_by=day&since=2030-01-01&limit=1")
    assert usage["next"] == "2030-01-01"
    assert (usage["items"][0]["group"], usage["items"][0]["amount"]) == ("2030-01-01", 2**53 - 1)
    request = world.asked.requests["GetUsage"]
    assert (request.group_by, request.limit, request.HasField("until")) == (ledger_pb2.USAGE_GROUP_DAY, 1, False)
    prices = await world.call("GET", "/prices")
    assert prices["items"][0]["valid_until"] == "2030-03-17T17:46:40.000Z"
    given = {"meter": "cpu", "micro_credits_per_million": 5, "valid_from": "2031-01-01T00:00:00Z"}
    assert (await world.call("POST", "/prices", json=given))["micro_credits_per_million"] == 5
    assert world.asked.requests["SetPrice"].actor_key_id == "key_1"
    audit = await world.call("GET", "/audit?limit=1&after=aud_2")
    assert (audit["items"][0]["data"], audit["next"]) == ({"name": "n"}, "aud_1")
    assert world.asked.requests["ListAudit"].after == "aud_2"


async def test_rates_of_an_organization(world: World) -> None:
    found = await world.call("PUT", "/organizations/org_2/rates", json={"api_per_minute": 9})
    assert found == {"id": "org_2", "per_second": None, "api_per_minute": 9}
    request = world.asked.requests["SetRates"]
    assert (request.organization_id, request.HasField("per_second"), request.api_per_minute) == ("org_2", False, 9)


@pytest.mark.parametrize(("method", "path", "body"), MONEY)
async def test_money_is_for_admins(world: World, method: str, path: str, body: Any) -> None:
    for key in (PLAIN, ONE_TIME):
        reply = await world.client.request(method, path, json=body, headers={"X-Api-Key": key})
        assert (reply.status_code, reply.json()["code"]) == (403, "forbidden")
    assert (await world.client.request(method, path, json=body)).status_code == 401
    assert world.asked.requests == {}


async def test_prices_are_for_any_key_but_a_one_time_one(world: World) -> None:
    assert (await world.client.get("/prices", headers={"X-Api-Key": PLAIN})).status_code == 200
    assert (await world.client.get("/prices", headers={"X-Api-Key": ONE_TIME})).status_code == 403
    assert (await world.client.get("/prices")).status_code == 401


async def knows(world: World, key: str, more: dict[str, Any]) -> None:
    """From now on keys says so of this key, and the edge has forgotten what it said before."""
    world.asked.verified[key] = more
    await asyncio.sleep(FRESH_SECONDS)


def run(world: World, key: str = ADMIN, path: str = "/run/hello", **more: Any) -> Any:
    return world.client.post(path, headers={"X-Api-Key": key, **more.pop("headers", {})}, **more)


def budgets(spec: Any) -> list[tuple[str, int]]:
    return [(one.id, one.limit) for one in spec.budgets]


async def test_budgets_go_with_a_run(world: World) -> None:
    await knows(world, ADMIN, {"credit": 1, "budget": ledger_pb2.Budget(id="key:key_0", limit=50)})
    assert (await run(world, headers={"X-Budget": "7"})).status_code == 201
    spec = world.asked.requests["Run"]
    assert budgets(spec) == [("key:key_0", 50), (f"run:{spec.run_id}", 7)]
    assert spec.paying_key_id == "key_1"
    names = [header.name for header in spec.request.headers]
    assert "x-budget" not in names
    assert (await run(world, path="/run_async/hello", headers={"X-Budget": "8"})).status_code == 200
    spec = world.asked.requests["Submit"].spec
    assert budgets(spec)[0] == ("key:key_0", 50)
    assert budgets(spec)[1][1] == 8


async def test_402_before_anything_begins(world: World) -> None:
    await knows(world, ADMIN, {"credit": 0})
    for path in ("/run/hello", "/run_async/hello"):
        reply = await run(world, path=path)
        assert (reply.status_code, reply.json()["code"]) == (402, "payment_required")
        assert "POST /credits" in reply.json()["detail"]
        assert reply.headers["error-origin"] == "runtime"
    assert not {"Run", "Submit"} & set(world.asked.requests)
    assert (await run(world, path="/run/nope")).status_code == 404


async def test_a_budget_of_a_key_that_is_spent(world: World) -> None:
    spent = ledger_pb2.Budget(id="key:key_0", limit=50)
    await knows(world, ADMIN, {"credit": 9, "budget": spent, "budget_left": 0})
    reply = await run(world, path="/run_async/hello")
    assert (reply.status_code, reply.json()["code"]) == (402, "payment_required")
    assert (await run(world)).status_code == 201
    reply = await run(world, headers={"X-Budget": "0"})
    assert (reply.status_code, reply.json()["code"]) == (402, "payment_required")
    assert (await run(world, headers={"X-Budget": "-1"})).status_code == 400


async def test_a_bound_key_does_just_that(world: World) -> None:
    bind = {"service_id": "hello", "path": "/a%2Fb", "body_sha256": hashlib.sha256(b"input").hexdigest()}
    await knows(world, ONE_TIME, {"bind": bind})
    here = "/run_async/hello/a%2Fb"
    for path, body in ((here, b"other"), ("/run_async/hello/a/b", b"input"), ("/run/hello", b"input")):
        reply = await run(world, ONE_TIME, path, content=body)
        assert (reply.status_code, reply.json()["code"]) == (403, "forbidden")

    async def in_pieces() -> AsyncIterator[bytes]:
        for part in (b"in", b"putt"):
            yield part

    assert (await run(world, ONE_TIME, here, content=in_pieces())).status_code == 403
    assert "Submit" not in world.asked.requests
    assert (await run(world, ONE_TIME, f"{here}?free=1", content=b"input")).status_code == 200
    submitted = world.asked.requests["Submit"]
    assert (submitted.body, submitted.one_time_key_id) == (b"input", "key_2")
