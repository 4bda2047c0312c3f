"""Inbound webhooks, through the whole mesh: signed as the senders sign, by their own words."""

import hashlib
import hmac
import json
import time
from datetime import UTC, datetime
from typing import Any

import httpx
from standardwebhooks import Webhook

from tests.e2e.mesh import Mesh

CODE = """\
# /// script
# dependencies = ["fastapi", "uvicorn"]
# ///
import uvicorn
from fastapi import FastAPI, Request

app = FastAPI()


@app.post("/")
async def take(request: Request) -> dict:
    body = await request.body()
    return {"body": body.decode(), "type": request.headers["content-type"], "names": sorted(request.headers)}


if __name__ == "__main__":
    uvicorn.run(app)
"""
JSON = {"content-type": "application/json"}


def slack(secret: str, body: bytes, at: float | None = None) -> dict[str, str]:
    seconds = str(int(time.time() if at is None else at))
    digest = hmac.new(secret.encode(), f"v0:{seconds}:".encode() + body, hashlib.sha256).hexdigest()
    return {"x-slack-request-timestamp": seconds, "x-slack-signature": f"v0={digest}", **JSON}


def hub(secret: str, body: bytes) -> dict[str, str]:
    return {"x-hub-signature-256": "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest(), **JSON}


def made(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    answer = client.post("/hooks", json=fields)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def code_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def test_signed_events_start_a_run_once(mesh: Mesh) -> None:
    organization = mesh.new_organization("with hooks")
    mesh.deploy("inbox", CODE, organization["key"])
    with mesh.http(organization["key"]) as client, mesh.http("") as sender:
        hook = made(client, service_id="inbox", kind="slack", secret="slack-secret")
        assert "secret" not in hook
        body = json.dumps({"type": "event_callback", "event": {"text": "hé"}}).encode()
        headers = slack("slack-secret", body) | {"x-callback-url": "https://evil.example", "x-record": "yes"}
        answer = sender.post(hook["url"], content=body, headers=headers)
        assert answer.status_code == 200, answer.text
        run_id = answer.json()["request_id"]
        result = client.get(f"/result/{run_id}?timeout=30").json()
        assert (result["body"], result["type"]) == (body.decode(), "application/json")
        assert result["run"]["trigger"] == "hook"
        assert not {"x-callback-url", "idempotency-key", "x-record"} & set(result["names"])
        assert client.get(f"/request/{run_id}/deliveries").json()["items"] == []
        # Sent again, as Slack does when it isn't sure: the same run.
        again = sender.post(hook["url"], content=body, headers=slack("slack-secret", body, time.time() - 60))
        assert again.json()["request_id"] == run_id
        asked = json.dumps({"type": "url_verification", "challenge": "3eZ"}).encode()
        answer = sender.post(hook["url"], content=asked, headers=slack("slack-secret", asked))
        assert answer.json() == {"challenge": "3eZ"}

        refused = (401, "unauthenticated")
        for wrong in (
            slack("other", body),
            slack("slack-secret", body, time.time() - 400),
            hub("slack-secret", body),
            {},
        ):
            assert code_of(sender.post(hook["url"], content=body, headers=wrong)) == refused
        assert code_of(sender.post(hook["url"], content=asked, headers=slack("other", asked))) == refused
        assert code_of(sender.get(hook["url"])) == (404, "not_found")
        assert code_of(sender.post(hook["url"] + "x", content=body)) == (404, "not_found")
        assert len(client.get("/requests?service_id=inbox").json()["items"]) == 1

        assert [each["id"] for each in client.get("/hooks").json()["items"]] == [hook["id"]]
        assert client.delete(f"/hooks/{hook['id']}").json() == {"id": hook["id"], "deleted": True}
        gone = sender.post(hook["url"], content=body, headers=slack("slack-secret", body))
        assert code_of(gone) == (404, "not_found")
        acts = [entry["act"] for entry in client.get("/audit").json()["items"]]
        assert acts[:2] == ["hook.deleted", "hook.created"]


def test_the_other_kinds(mesh: Mesh) -> None:
    organization = mesh.new_organization("with other hooks")
    mesh.deploy("inbox", CODE, organization["key"])
    with mesh.http(organization["key"]) as client, mesh.http("") as sender:

        def started(answer: httpx.Response) -> str:
            assert answer.status_code == 200, answer.text
            return str(client.get(f"/result/{answer.json()['request_id']}?timeout=30").json()["body"])

        hook = made(client, service_id="inbox", kind="whatsapp", secret="meta", verify_token="agreed")
        asks = {"hub.mode": "subscribe", "hub.challenge": "1158201444", "hub.verify_token": "agreed"}
        answer = sender.get(hook["url"], params=asks)
        assert answer.text == "1158201444"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert code_of(sender.get(hook["url"], params=asks | {"hub.verify_token": "x"})) == (403, "forbidden")
        body = b'{"object": "whatsapp_business_account"}'
        assert started(sender.post(hook["url"], content=body, headers=hub("meta", body))) == body.decode()
        hook = made(client, service_id="inbox", kind="github", secret="hub")
        assert started(sender.post(hook["url"], content=b"{}", headers=hub("hub", b"{}"))) == "{}"
        hook = made(client, service_id="inbox")
        assert hook["kind"] == "standard"
        now = datetime.now(UTC)
        signed = {
            "webhook-id": "msg_1",
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": Webhook(hook["secret"]).sign("msg_1", now, "plain"),
            "content-type": "text/plain",
        }
        assert started(sender.post(hook["url"], content=b"plain", headers=signed)) == "plain"


def test_what_is_refused(mesh: Mesh) -> None:
    one, two = mesh.new_organization("one"), mesh.new_organization("two")
    mesh.deploy("inbox", CODE, one["key"])
    with mesh.http(one["key"]) as client, mesh.http(two["key"]) as other:
        for bad in (
            {},
            {"service_id": "inbox", "kind": "carrier pigeon"},
            {"service_id": "inbox", "kind": "slack"},
            {"service_id": "inbox", "kind": "slack", "secret": " "},
            {"service_id": "inbox", "kind": "github", "secret": "\0"},
            {"service_id": "inbox", "kind": "whatsapp", "secret": "pasted\n"},
            {"service_id": "inbox", "secret": "whsec_short"},
            {"service_id": "inbox", "secret": "no whsec"},
            {"service_id": "inbox", "path": "/x"},
        ):
            assert code_of(client.post("/hooks", json=bad)) == (400, "bad_request"), bad
        assert code_of(client.post("/hooks", json={"service_id": "nowhere"})) == (404, "not_found")
        assert code_of(other.post("/hooks", json={"service_id": f"{one['id']}.inbox"})) == (404, "not_found")
        hook = made(client, service_id="inbox")
        assert code_of(other.delete(f"/hooks/{hook['id']}")) == (404, "not_found")
        assert other.get("/hooks").json()["items"] == []
        with mesh.http(mesh.new_key(scopes=["run"])["key"]) as runner:
            assert code_of(runner.post("/hooks", json={"service_id": "inbox"})) == (403, "forbidden")
