"""A receipt of a run, verified by what the mesh publishes, offline."""

import base64
import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.mesh import RUNMESH, Mesh, until

pytestmark = pytest.mark.timeout(180)
CODE = """\
# /// script
# dependencies = ["uvicorn"]
# [tool.runmesh]
# egress = []
# ///
async def app(scope, receive, send):
    if scope["type"] == "http":
        more, body = True, b""
        while more:
            message = await receive()
            body, more = body + message["body"], message["more_body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for piece in (b"you said ", body):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


if __name__ == "__main__":
    import uvicorn

    uvicorn.run(app)
"""


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def receipt(client: httpx.Client, run_id: str) -> dict[str, Any]:
    def there() -> dict[str, Any] | None:
        answer = client.get(f"/request/{run_id}/receipt")
        return answer.json() if answer.status_code == 200 else None

    found: dict[str, Any] = until(there)
    return found


def verified(document: Any, jwks: Any, directory: Path) -> "subprocess.CompletedProcess[str]":
    (directory / "receipt.json").write_text(json.dumps(document))
    (directory / "jwks.json").write_text(json.dumps(jwks))
    words = [str(RUNMESH), "verify-receipt", "receipt.json", "--keys", "jwks.json"]
    return subprocess.run(words, cwd=directory, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("way", ["run", "run_async"])
def test_it_tells_what_went_in_and_came_out(mesh: Mesh, tmp_path: Path, way: str) -> None:
    mesh.deploy("receipts", CODE)
    body = b"x" * 200_000
    with mesh.http() as client:
        answer = client.post(f"/{way}/receipts", content=body)
        run_id = answer.json()["request_id"] if way == "run_async" else answer.headers["x-request-id"]
        record = mesh.finished(run_id)
        document = receipt(client, run_id)
    with mesh.http("") as nobody:
        jwks = nobody.get("/.well-known/jwks.json").json()
        assert nobody.get(f"/request/{run_id}/receipt").status_code == 401
    told = document["receipt"]
    assert told["digests"]["code"] == sha256(CODE.encode())
    assert told["digests"]["input"] == sha256(body)
    assert told["digests"]["output"] == sha256(b"you said " + body)
    assert told["digests"]["egress"] is None
    for name in ("status", "serviceId", "createdAt", "completedAt", "traceId", "usage"):
        assert told[name] == record[name], name
    checked = verified(document, jwks, tmp_path)
    assert (checked.returncode, json.loads(checked.stdout)) == (0, told), checked.stderr
    forged = {"receipt": told | {"status": "failed"}, "jws": document["jws"]}
    assert verified(forged, jwks, tmp_path).returncode == 1


def test_old_receipts_outlive_their_key(mesh: Mesh, tmp_path: Path) -> None:
    mesh.deploy("receipts", CODE)
    with mesh.http() as client:
        run_id = client.post("/run/receipts", content=b"").headers["x-request-id"]
        old = receipt(client, run_id)
        kid = client.post("/receipt-keys/rotate").json()["kid"]
        new = receipt(client, run_id)
        jwks = client.get("/.well-known/jwks.json").json()
    signed_by = [json.loads(base64.urlsafe_b64decode(one["jws"].split(".")[0] + "=="))["kid"] for one in (old, new)]
    assert signed_by[1] == kid != signed_by[0]
    assert [key["kid"] for key in jwks["keys"]][:2] == [kid, signed_by[0]]
    assert verified(old, jwks, tmp_path).returncode == 0
    assert verified(new, jwks, tmp_path).returncode == 0
    only_new = {"keys": [key for key in jwks["keys"] if key["kid"] == kid]}
    assert verified(old, only_new, tmp_path).returncode == 1


def test_nobody_gets_what_is_not_his_or_not_over(mesh: Mesh) -> None:
    mesh.deploy("receipts", CODE)
    stranger = mesh.new_organization("receipt-stranger")["key"]
    with mesh.http() as client, mesh.http(stranger) as other:
        run_id = client.post("/run/receipts", content=b"").headers["x-request-id"]
        assert client.get(f"/request/{run_id}/receipt").status_code == 408  # it has just ended
        assert receipt(client, run_id)
        assert other.get(f"/request/{run_id}/receipt").status_code == 404
        assert other.post("/receipt-keys/rotate").status_code == 403
        waiting = client.post("/provision-request").json()["request_id"]
        refused = client.get(f"/request/{waiting}/receipt")
        assert (refused.status_code, refused.json()["code"]) == (408, "pending")
