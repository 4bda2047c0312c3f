"""Prices and credits of a mesh, and what its ledger says."""

import asyncio
import sqlite3
from collections import Counter
from contextlib import closing
from typing import Any

import httpx

from kit.db import open_db
from tests.e2e.mesh import Mesh, until
from tests.ledger_books import audit

FEE = 200
NOTHING = {"run": 0, "cpu": 0, "memory": 0, "egress": 0}
BARE = """\
# /// script
# dependencies = ["uvicorn"]
# ///
async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})


if __name__ == "__main__":
    import uvicorn

    uvicorn.run(app)
"""


def set_prices(mesh: Mesh, **each: int) -> None:
    """Micro-credits for one unit of each meter, from now on; executors hear of it by and by."""
    with mesh.http() as client:
        for meter, amount in each.items():
            told = {"meter": meter, "micro_credits_per_million": amount * 1_000_000}
            answer = client.post("/prices", json=told)
            assert answer.status_code == 200, answer.text


def funded(mesh: Mesh, name: str, amount: int) -> dict[str, Any]:
    """A new organization with so many micro-credits."""
    made = mesh.new_organization(name)
    grant(mesh, made["id"], amount)
    return made


def grant(mesh: Mesh, organization_id: str, amount: int) -> None:
    with mesh.http() as client:
        told = {"organization_id": organization_id, "amount": amount, "reason": "test"}
        assert not amount or client.post("/credits", json=told).status_code == 200


def credits_of(mesh: Mesh, key: str) -> tuple[int, int]:
    """(balance, reserved)."""
    with mesh.http(key) as client:
        told = client.get("/credits").json()
    return told["balance"], told["reserved"]


def settled(mesh: Mesh, key: str) -> int:
    """The balance once nothing is set aside any more: all bills are booked, and what wasn't needed is back."""

    def found() -> list[int]:
        balance, reserved = credits_of(mesh, key)
        return [balance] if not reserved else []

    return int(until(found, 20)[0])


def by_key(mesh: Mesh, key: str) -> dict[str, int]:
    """What each key has to answer for."""
    with mesh.http(key) as client:
        items = client.get("/usage?group_by=key").json()["items"]
    return {item["group"]: item["amount"] for item in items}


def faults_of(url: str) -> dict[str, list[Any]]:
    """What is wrong with the books in this database; nothing, if they are right."""

    async def look() -> dict[str, list[Any]]:
        async with open_db(url) as db:
            return await audit(db)

    return asyncio.run(look())


def faults(mesh: Mesh) -> dict[str, list[Any]]:
    """Of a mesh on SQLite."""
    return faults_of(f"sqlite+aiosqlite:///{mesh.home}/data/keys.db")


def booked(mesh: Mesh, root_id: str) -> dict[str, int]:
    """By run: what the ledger, on SQLite, charged for each of a tree."""
    with closing(sqlite3.connect(f"file:{mesh.home}/data/keys.db?mode=ro", uri=True)) as db:
        rows = db.execute("SELECT run_id, sum(charge) FROM bills WHERE root_id = ? GROUP BY run_id", (root_id,))
        return dict(rows.fetchall())


async def at_once(url: str, key: str, path: str, calls: int) -> list[httpx.Response]:
    """As many answers to POST."""
    limits = httpx.Limits(max_connections=calls)
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(
        base_url=url, headers=headers, limits=limits, timeout=120, trust_env=False, verify=False
    ) as client:
        return await asyncio.gather(*(client.post(path) for _ in range(calls)))


def fifty_of_two_hundred(mesh: Mesh, path: str) -> None:
    """Of 200 runs at once, for FEE each, an organization with credit for 50 gets just those."""
    poor = funded(mesh, "poor", 50 * FEE)
    answers = asyncio.run(at_once(mesh.url, poor["key"], path, 200))
    assert Counter(answer.status_code for answer in answers) == {200: 50, 402: 150}
    assert {answer.json()["code"] for answer in answers if answer.status_code == 402} == {"payment_required"}
    until(lambda: credits_of(mesh, poor["key"]) == (0, 0))
    with mesh.http(poor["key"]) as client:
        (used,) = client.get("/usage").json()["items"]
        records = client.get("/requests?limit=1000").json()["items"]
    assert (used["runs"], used["amount"]) == (50, 50 * FEE)
    assert {record["id"] for record in records} == {
        answer.headers["x-request-id"] for answer in answers if answer.status_code == 200
    }
    assert [record["cost"]["total"] for record in records] == [FEE] * 50
