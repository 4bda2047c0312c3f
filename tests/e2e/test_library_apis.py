"""The library's services of others' APIs and devx_mcp through the whole mesh; their providers are on this machine."""

import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from tests.e2e.mesh import ROOT, Mesh, library_of, mesh_up, own_address, until
from tests.e2e.test_hooks import hub
from tests.e2e.test_hooks import slack as slack_signed
from tests.providers import github, hunter, pipedream, reddit, searchapi, slack, whatsapp
from tests.providers.apis import World, apis

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
NAMES = ("github", "reddit", "searchapi", "hunter", "pipedream", "devx_mcp", "slack_trigger", "whatsapp_trigger")
SECRETS = (github.KEY, reddit.SECRET, searchapi.KEY, hunter.KEY, pipedream.SECRET)
ASKING = """
# /// script
# dependencies = ["fastapi>=0.115", "uvicorn[standard]>=0.34", "httpx>=0.28"]
# ///
import os
import httpx, uvicorn
from fastapi import FastAPI, Response

app = FastAPI()

@app.post("/")
def ask(body: dict):
    key = {"Authorization": "Bearer " + os.environ["CODEWORDS_API_KEY"], **body.get("headers", {})}
    answer = httpx.post(os.environ["CODEWORDS_RUNTIME_URI"] + body["path"], json=body["json"], headers=key, timeout=100)
    return Response(answer.content, answer.status_code, media_type=answer.headers["content-type"])

if __name__ == "__main__":
    uvicorn.run(app)
"""


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """At this machine's own address, which is private: the operator's settings lead there, and nothing else does."""
    with apis(own_address()) as running:
        yield running


@pytest.fixture(scope="module")
def mesh(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """Its operator has an account everywhere but at hunter.io."""
    library = library_of(tmp_path_factory.mktemp("library"), *NAMES)
    settings = {name: value for name, value in world.settings().items() if name != "RUNMESH_HUNTER_API_KEY"}
    with mesh_up(env={"RUNMESH_LIBRARY": str(library), **settings}) as running:
        with running.http() as client:
            for name in NAMES:
                until(lambda: client.get(f"/workflows/{name}").json().get("visibility") == "public", 150)  # noqa: B023
        yield running


def told(mesh: Mesh, path: str, body: Any, key: str | None = None) -> tuple[int, Any]:
    """The status and JSON."""
    with mesh.http(key) as client:
        answer = client.post(f"/run/{path}", json=body or {})
    assert not [secret for secret in SECRETS if secret in answer.text]
    return answer.status_code, answer.json()


def test_each_reaches_its_provider(mesh: Mesh, world: World) -> None:
    assert told(mesh, "github/search_profiles", {"query": "cats", "limit": 3})[1]["total"] == 250
    assert told(mesh, "github/repository", {"repository": "octo/renamed"})[1]["repository"] == "octo/moved"
    for _ in range(2):
        assert len(told(mesh, "reddit/posts", {"subreddit": "python", "limit": 2})[1]["posts"]) == 2
    tokens = [each for each in world.requests if each.path == "/reddit/api/v1/access_token"]
    assert len(tokens) == 1  # an instance keeps it from call to call
    assert told(mesh, "searchapi", {"engine": "bing", "q": "cats"})[1]["results"][0]["title"] == "Cats 1"
    assert told(mesh, "github/search_profiles", {"query": "[limited]"})[0] == 429
    assert told(mesh, "github/search_profiles", {})[0] == 422


def test_what_isnt_configured_says_what_to_set(mesh: Mesh) -> None:
    status, said = told(mesh, "hunter/verify", {"email": "ada@engines.example"})
    assert (status, said["code"]) == (424, "missing_secret")
    assert "RUNMESH_HUNTER_API_KEY" in said["detail"]


def test_accounts_belong_to_who_asks(mesh: Mesh, world: World) -> None:
    """Eve's public workflow, which Ada calls and pays, gets at none of Ada's accounts."""
    ada, eve = mesh.new_organization("Ada"), mesh.new_organization("Eve")
    send = {"app": "slack", "action": "send-message", "props": {"text": "hello"}}
    status, said = told(mesh, "pipedream", send, ada["key"])
    assert (status, said["code"]) == (424, "not_connected")
    account = pipedream.connect(world, ada["id"])
    assert told(mesh, "pipedream/connect", {"app": "slack"}, ada["key"])[1]["connected"] is True
    assert told(mesh, "pipedream", send, ada["key"])[1]["result"] == {"by": account, "for": ada["id"]}
    for who in (ada, eve):
        mesh.deploy("asking", ASKING, who["key"])
    with mesh.http(eve["key"]) as client:
        assert client.patch("/workflows/asking", json={"visibility": "public"}).status_code == 200
    ask = {"path": "/run/pipedream", "json": send}
    assert told(mesh, "asking", ask, ada["key"])[1]["result"]["by"] == account
    forged = {**ask, "headers": {"x-runmesh-organization-id": ada["id"], "codewords-caller-id": ada["id"]}}
    for body in (ask, forged):
        assert told(mesh, f"{eve['id']}.asking", body, ada["key"])[1]["code"] == "not_connected"
    with mesh.http(eve["key"], headers=forged["headers"]) as client:
        assert client.post("/run/pipedream", json=send).json()["code"] == "not_connected"


INBOX = ASKING.replace(
    "def ask(body: dict):",
    """def take(event: dict):
    said = {"channel": event["event"]["channel"], "text": "You said " + event["event"]["text"]}
    return ask({"path": "/run/slack_trigger/answer", "json": said, "headers": {"Run-As-Template": "yes"}})

def ask(body: dict):""",
)


def test_an_event_of_slack_is_answered(mesh: Mesh, world: World) -> None:
    """From the event to the answer: its workflow asks slack_trigger, which says it with the organization's token."""
    who = mesh.new_organization("Slackers")
    mesh.deploy("inbox", INBOX, who["key"])
    made = told(mesh, "slack_trigger", {"service_id": "inbox", "signing_secret": "slack-secret"}, who["key"])[1]
    assert told(mesh, "slack_trigger/list", None, who["key"])[1]["items"][0]["id"] == made["id"]
    with mesh.http(who["key"]) as client, mesh.http("") as sender:
        token = {"value": slack.TOKEN, "hosts": [f"http://{world.host}:{world.port}"]}  # it stays out of the sandbox
        assert client.put("/secrets/SLACK_BOT_TOKEN", json=token).status_code == 200
        body = json.dumps({"type": "event_callback", "event": {"channel": "C1", "text": "hello"}}).encode()
        answer = sender.post(made["url"], content=body, headers=slack_signed("slack-secret", body))
        assert answer.status_code == 200, answer.text
        result = client.get(f"/result/{answer.json()['request_id']}?timeout=60").json()
        assert (result["channel"], result["run"]["trigger"]) == ("C1", "hook")
        assert world.last.body == {"channel": "C1", "text": "You said hello"}
        without = client.post("/run/slack_trigger/answer", json={"channel": "C1", "text": "x"})
        assert (without.status_code, without.json()["code"]) == (424, "missing_secret")
        assert sender.post(made["url"], content=body, headers=slack_signed("wrong", body)).status_code == 401
        assert told(mesh, "slack_trigger/remove", {"id": made["id"]}, who["key"])[1]["deleted"] is True
        assert sender.post(made["url"], content=body, headers=slack_signed("slack-secret", body)).status_code == 404
    with mesh.http(mesh.new_organization("Others")["key"], headers={"Run-As-Template": "yes"}) as other:
        foreign = other.post("/run/slack_trigger/answer", json={"channel": "C1", "text": "x"})
        assert (foreign.status_code, foreign.json()["code"]) == (424, "missing_secret")


def test_triggers_take_the_right_of_the_key(mesh: Mesh) -> None:
    runner = mesh.new_key(scopes=["run"])["key"]
    for name in ("slack_trigger", "whatsapp_trigger"):
        body = {"service_id": "github", "signing_secret": "a-secret-of-theirs"}
        assert told(mesh, name, body, runner)[0] == 403
        made = told(mesh, name, body)[1]
        assert told(mesh, f"{name}/remove", {"id": made["id"]}, runner)[0] == 403
        assert told(mesh, f"{name}/remove", {"id": made["id"]}, mesh.new_organization("x")["key"])[0] == 404
        assert told(mesh, f"{name}/remove", {"id": made["id"]})[0] == 200


def test_whatsapp(mesh: Mesh, world: World) -> None:
    mesh.deploy("slow", SLOW)
    own = {"service_id": "slow", "app_secret": "app-secret", "verify_token": "agreed-upon"}
    made = told(mesh, "whatsapp_trigger", own)[1]
    with mesh.http("") as sender:
        asked = {"hub.mode": "subscribe", "hub.verify_token": "agreed-upon", "hub.challenge": "1158201444"}
        assert sender.get(made["url"], params=asked).text == "1158201444"
        body = b'{"object": "whatsapp_business_account", "entry": []}'
        assert "request_id" in sender.post(made["url"], content=body, headers=hub("app-secret", body)).json()
    secrets = {"token": whatsapp.TOKEN, "phone_number_id": whatsapp.NUMBER}
    sent = told(mesh, "whatsapp_trigger/answer", {"to": "+4915112345670", "text": "hello", **secrets})
    assert sent == (200, {"id": "wamid.1", "to": "4915112345670"})
    assert kept(mesh, whatsapp.TOKEN) == []


@asynccontextmanager
async def mcp(mesh: Mesh, key: str, mode: Any = "auto") -> AsyncIterator[Any]:
    """The SDK's own client."""
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx2.AsyncClient(headers=headers, timeout=150, trust_env=False) as http:
        transport = streamable_http_client(f"{mesh.url}/run/devx_mcp/mcp", http_client=http)
        async with Client(transport, mode=mode) as client:
            yield client


async def called(client: Any, tool: str, **arguments: Any) -> tuple[bool, str]:
    """Whether it succeeded, and what it said."""
    result = await client.call_tool(tool, arguments)
    return not result.is_error, result.content[0].text


def kept(mesh: Mesh, text: str) -> list[Path]:
    """The files that hold it."""
    files = [path for path in mesh.home.rglob("*") if path.is_file() and "environments" not in path.parts]
    return [path for path in files if text.encode() in path.read_bytes()]


SLOW = ASKING.replace("def ask(body: dict):", "def ask(body: dict):\n    import time; time.sleep(7); return 1")


async def test_the_sdks_own_client(mesh: Mesh) -> None:
    """With an answer that streams: progress comes while the workflow still runs."""
    mesh.deploy("slow", SLOW)
    heard: list[tuple[str | None, float]] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        heard.append((message, time.monotonic()))

    for mode in ("legacy", "2026-07-28"):
        async with mcp(mesh, mesh.key, mode) as client:
            assert len((await client.list_tools()).tools) == 18
            await client.call_tool("run_workflow", {"service_id": "slow", "inputs": {}}, progress_callback=hear)
            assert time.monotonic() - heard[-1][1] > 0.5
    assert [message for message, _ in heard] == ["running slow, 5 s"] * 2


async def test_it_may_do_what_the_key_may(mesh: Mesh) -> None:
    canary = "canary-of-a-secret-that-was-set-by-an-agent"
    deployer = mesh.new_key(scopes=["run", "deploy"])
    async with mcp(mesh, deployer["key"]) as client:
        assert (await called(client, "set_secret", name="TOKEN", value=canary))[0]
        assert "TOKEN" in (await called(client, "list_secrets"))[1]
        assert (await called(client, "create_schedule", service_id="slow", cron_expression="0 0 1 1 *"))[0]
    with mesh.http() as admin:
        done = [each for each in admin.get("/audit").json()["items"] if each["act"] == "secret.put"]
    assert (done[0]["subject"], done[0]["actor_key_id"]) == ("TOKEN", deployer["id"])
    assert kept(mesh, canary) == []
    assert told(mesh, "slow", {"said": "to a workflow of ones own"})[0] == 200
    assert until(lambda: kept(mesh, "to a workflow of ones own"))  # which would have been found
    async with mcp(mesh, mesh.new_key(scopes=["run"])["key"]) as client:
        for tool, arguments in {
            "list_secrets": {},
            "set_secret": {"name": "TOKEN", "value": "x"},
            "deploy_workflow": {"code": "x", "name": "x"},
            "list_schedules": {},
        }.items():
            succeeded, text = await called(client, tool, **arguments)
            assert not succeeded
            assert "lacks the scope deploy" in text
        assert (await called(client, "list_runs"))[0]
    hello = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    for key in (mesh.new_key(scopes=["run:devx_mcp", "deploy"])["key"], mesh.new_key(kind="one_time")["key"]):
        status, said = told(mesh, "devx_mcp/mcp", hello, key)
        assert (status, said["code"]) == (403, "forbidden")


def test_a_workflow_gets_no_more_by_it(mesh: Mesh) -> None:
    """Not even the organization's own, called with a key that has all scopes."""
    mesh.deploy("asking", ASKING)
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "list_secrets", "arguments": {}}}
    accept = {"Accept": "application/json, text/event-stream"}
    with mesh.http(headers=accept) as client:
        directly = client.post("/run/devx_mcp/mcp", json=call).text
        nested = client.post("/run/asking", json={"path": "/run/devx_mcp/mcp", "json": call, "headers": accept}).text
    assert "TOKEN" in directly
    assert "lacks the scope deploy" in nested


def test_openai_agents(mesh: Mesh) -> None:
    home = ROOT / ".venv" / "clients" / "agents-1"
    if not (home / "ready").exists():
        uv = Path(sys.executable).parent / "uv"
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, home], check=True)
        install: list[str | Path] = [
            uv,
            "pip",
            "install",
            "--quiet",
            "--python",
            home / "bin" / "python",
            "openai-agents>=0.24,<1",
        ]
        subprocess.run(install, check=True)
        (home / "ready").touch()
    environ = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    run = subprocess.run(
        [home / "bin" / "python", Path(__file__).parent / "clients" / "agents_mcp.py"],
        env={**environ, "MESH_URL": mesh.url, "MESH_KEY": mesh.key},
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:] + "".join(mesh.output[-30:])
    found = json.loads(run.stdout)
    assert "deploy_workflow" in found["tools"]
    assert (found["deployed"]["service_id"], found["deployed"]["version"]) == ("by-agent", 1)
    assert found["ran"]["result"] == {"message": "Hello Ada"}
    assert found["result"]["message"] == "Hello Bob"
    assert [line["message"] for line in found["logs"]["lines"] if line["stream"] == "stdout"] == ["greeting Bob"]
    assert "not_found" in found["missing"]["error"]
