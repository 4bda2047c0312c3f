"""What files may take together and what they cost, through the whole mesh."""

import os
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import httpx
import pytest

from tests.e2e.mesh import Mesh, mesh_up, until

pytestmark = pytest.mark.timeout(180)
MIB = 1 << 20
MOST = 3 * MIB


@pytest.fixture(scope="module")
def small() -> Iterator[Mesh]:
    with mesh_up(env={"RUNMESH_ORGANIZATION_FILE_BYTES": str(MOST)}) as running:
        yield running


def put(client: httpx.Client, content: bytes | Iterator[bytes]) -> httpx.Response:
    made = client.post("/file?filename=a").json()
    return httpx.put(made["upload_uri"], content=content, trust_env=False, timeout=60)


def test_what_does_not_fit_is_refused_and_says_what_does(small: Mesh) -> None:
    organization = small.new_organization("full")
    with small.http(organization["key"]) as client:
        assert put(client, b"x" * 2 * MIB).status_code == 200
        for content in (b"x" * (MIB + 1), iter([b"x" * MIB, b"x"])):
            refused = put(client, content)
            assert (refused.status_code, refused.json()["code"]) == (413, "too_large")
            assert f"at most {MOST} bytes; {MIB} are left" in refused.json()["detail"]
        assert put(client, b"x" * MIB).status_code == 200
    with small.http() as other:
        assert put(other, b"x" * MOST).status_code == 200


def test_what_is_kept_is_charged_and_shown(small: Mesh) -> None:
    """Ten days of 2 MiB, of which the filestore is told that they have passed."""
    organization = small.new_organization("keeper")
    with small.http(organization["key"]) as client:
        assert put(client, b"x" * 2 * MIB).status_code == 200
        before = client.get("/credits").json()["balance"]
        ten_days_ago(small, organization["id"])
        os.kill(small.pid_of("filestore"), signal.SIGKILL)
        (line,) = until(lambda: used(client), 30)
        assert (line["group"], line["runs"], line["amount"]) == ("/file", 0, 14)
        assert client.get("/credits").json() == {"balance": before - 14, "reserved": 0, "currency": "micro_credits"}
        (day,) = client.get("/usage?group_by=day").json()["items"]
        assert (day["runs"], day["amount"]) == (0, 14)


def ten_days_ago(mesh: Mesh, organization: str) -> None:
    with closing(sqlite3.connect(mesh.home / "data" / "filestore.db")) as db, db:
        earlier = "strftime('%Y-%m-%d %H:%M:%S.000000', since, '-10 days')"
        told = f"UPDATE storage SET since = {earlier}, counted_at = {earlier} WHERE organization_id = ?"
        assert db.execute(told, [organization]).rowcount == 1


def used(client: httpx.Client) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = client.get("/usage?group_by=service").json()["items"]
    return items


def test_without_credit_no_file_is_begun(small: Mesh) -> None:
    organization = small.new_organization("spent")
    with small.http(organization["key"]) as client, small.http() as admin:
        assert client.post("/file?filename=a").status_code == 200
        taken = {"organization_id": organization["id"], "reason": "test"}
        everything = client.get("/credits").json()["balance"]
        assert admin.post("/credits", json={**taken, "amount": -everything}).status_code == 200
        until(lambda: client.post("/file?filename=a").status_code == 402)
        refused = client.post("/file?filename=a").json()
        assert (refused["code"], "no credits" in refused["detail"]) == ("payment_required", True)
        assert admin.post("/credits", json={**taken, "amount": 1}).status_code == 200
        until(lambda: client.post("/file?filename=a").status_code == 200)
