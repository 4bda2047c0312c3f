"""The library's model services through the whole mesh: the vendors' own SDKs, unmodified, from outside and inside."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from executor.egress.fixed import NEAR
from tests.e2e.mesh import ROOT, Mesh, events, library_of, mesh_up, until
from tests.providers.provider import FOUND, KEYS, Vendor, provider

HERE = Path(__file__).parent / "clients"
pytestmark = pytest.mark.timeout(300)
MODELS = {"openai": "gpt-4o-mini", "anthropic": "claude-3-5-haiku", "gemini": "gemini-2.0-flash"}
PLAIN = {"model": MODELS["openai"], "prompt": "hello"}


@pytest.fixture(scope="module")
def vendor() -> Iterator[Vendor]:
    """On the loopback: where nothing but the services of the operator's choice may go."""
    with provider() as running:
        yield running


@pytest.fixture(scope="module")
def mesh(vendor: Vendor, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """Its operator has keys of all vendors."""
    library = library_of(tmp_path_factory.mktemp("library"), *KEYS)
    with mesh_up(env={"RUNMESH_LIBRARY": str(library), **vendor.settings()}) as running:
        with running.http() as client:
            for name in KEYS:
                until(lambda: client.get(f"/workflows/{name}").json().get("visibility") == "public", 150)  # noqa: B023
        yield running


@pytest.fixture(scope="module")
def sdks() -> Path:
    """The interpreter of an environment that holds the SDKs."""
    home = ROOT / ".venv" / "clients" / "models-1"
    if not (home / "ready").exists():
        uv = Path(sys.executable).parent / "uv"
        packages = ("openai>=3.57,<4", "anthropic>=2.14,<3", "google-genai>=3.6,<4", "openai-agents>=0.24,<1")
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, home], check=True)
        subprocess.run([uv, "pip", "install", "--quiet", "--python", home / "bin" / "python", *packages], check=True)
        (home / "ready").touch()
    return home / "bin" / "python"


@pytest.fixture(scope="module")
def driven(mesh: Mesh, sdks: Path) -> dict[str, Any]:
    """What the SDKs were told."""
    environ = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    run = subprocess.run(
        [sdks, HERE / "models.py"],
        env={**environ, "MESH_URL": mesh.url, "MESH_KEY": mesh.key},
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:] + "".join(mesh.output[-30:])
    results: dict[str, Any] = json.loads(run.stdout)
    return results


SAID = "You said: hello"


def test_openai(driven: dict[str, Any]) -> None:
    assert driven["openai.chat"] == {"text": SAID, "in": 12, "out": 3}
    assert driven["openai.chat_stream"] == {"text": SAID, "usage": [], "chunks": 5}
    assert driven["openai.chat_stream_usage"] == {"out": 3, "choices": 0}
    assert driven["openai.responses"] == {"text": SAID, "in": 12, "out": 3}
    assert driven["openai.responses_stream"] == {"text": SAID, "last": "response.completed", "out": 3}
    assert driven["openai.embeddings"] == {"vectors": [[1.0, 2.0]] * 2, "in": 16}
    assert driven["openai.models"] == ["gpt-4o-mini", "gpt-other", "gpt-other"]
    assert driven["openai.image"] == "You said: look"
    assert driven["openai.parse"] == '{"city": "text"}'
    assert driven["openai.at_once"] == [f"You said: number {n}" for n in range(5)]


def test_tools_of_all_three(driven: dict[str, Any]) -> None:
    call = {"name": "weather", "arguments": '{"city":"Paris"}', "text": "You said: sunny"}
    assert driven["openai.tools"] == call
    assert driven["anthropic.tools"] == {"name": "weather", "input": {"city": "text"}, "reason": "tool_use"}
    assert driven["gemini.tools"] == {"name": "weather", "args": {"city": "Paris"}}


@pytest.mark.parametrize("kind", ["chat", "responses", "stream"])
def test_agents(driven: dict[str, Any], kind: str) -> None:
    assert driven[f"agents.{kind}"] == "You said: sunny in Paris"


def test_anthropic(driven: dict[str, Any]) -> None:
    assert driven["anthropic.messages"] == {"text": SAID, "out": 3, "read": 3}
    assert driven["anthropic.stream"] == {"text": SAID, "out": 3}
    assert driven["anthropic.image"] == "You said: look"
    assert driven["anthropic.count"] == 9
    assert driven["anthropic.models"] == ["claude-3-5-haiku"]


def test_gemini(driven: dict[str, Any]) -> None:
    assert driven["gemini.generate"] == {"text": SAID, "in": 12, "out": 3, "thoughts": 3}
    assert driven["gemini.stream"] == SAID
    assert driven["gemini.image"] == "You said: look"
    assert driven["gemini.embed"] == [1.0, 2.0]
    assert driven["gemini.count"] == 9
    assert driven["gemini.models"] == ["models/gemini-2.0-flash"]


@pytest.mark.parametrize(
    ("name", "raised", "status"),
    [
        ("openai.401", "AuthenticationError", 401),
        ("openai.429", "RateLimitError", 429),
        ("openai.500", "InternalServerError", 500),
        ("openai.files", "NotFoundError", 404),
        ("openai.stranger", "AuthenticationError", 401),
        ("anthropic.429", "RateLimitError", 429),
        ("anthropic.529", "OverloadedError", 529),
        ("gemini.429", "ClientError", 429),
    ],
)
def test_errors_are_the_vendors(driven: dict[str, Any], name: str, raised: str, status: int) -> None:
    assert (driven[name]["raised"], driven[name]["status"]) == (raised, status), driven[name]
    if status == 429:
        assert driven[name]["retry_after"] in {"7", None if name.startswith("gemini") else "7"}


def test_a_stream_that_breaks_at_the_vendor_is_never_a_clean_end(driven: dict[str, Any]) -> None:
    assert driven["openai.break"]["raised"] in {"APIConnectionError", "RemoteProtocolError", "APIError"}, driven[
        "openai.break"
    ]


@pytest.mark.parametrize(
    "path", ["/openai/v1/models", "/openai/models", "/run/openai/v1/models", "/run/openai/models", "/openai/v1/models/"]
)
def test_one_address_is_as_good_as_another(mesh: Mesh, path: str) -> None:
    for key in ({"Authorization": f"Bearer {mesh.key}"}, {"X-Api-Key": mesh.key}, {"x-goog-api-key": mesh.key}):
        with mesh.http("") as client:
            assert client.get(path, headers=key).json()["data"][0]["id"] == "gpt-4o-mini"


@pytest.mark.parametrize("name", KEYS)
def test_the_plain_form(mesh: Mesh, name: str) -> None:
    with mesh.http() as client:
        answer = client.post(f"/run/{name}", json={**PLAIN, "model": MODELS[name]})
        assert (answer.status_code, answer.json()) == (200, {"response": SAID})
        shaped = client.post(
            f"/run/{name}",
            json={**PLAIN, "model": MODELS[name], "example_output": {"title": "x", "tags": ["a"], "n": 1}},
        )
        assert shaped.json() == {"response": {"title": "text", "tags": ["text"], "n": 3}}
        assert client.post(f"/run/{name}", json={"model": "gpt-4o-mini"}).status_code == 400


def test_the_vendor_sees_the_operators_key_and_nothing_of_ours(mesh: Mesh, vendor: Vendor) -> None:
    with mesh.http() as client:
        headers = {"x-correlation-id": "mine", "cookie": "a=b", "openai-organization": "another's", "x-own": "1"}
        assert client.post("/run/openai", json=PLAIN, headers=headers).status_code == 200
    told = vendor.last.headers
    assert told["authorization"] == f"Bearer {KEYS['openai']}"
    assert told.keys() <= {
        "host",
        "accept",
        "user-agent",
        "authorization",
        "accept-encoding",
        "connection",
        "content-type",
        "content-length",
    }
    assert mesh.key not in json.dumps([dict(one.headers) for one in vendor.requests])


def test_a_vendors_error_keeps_its_headers_but_the_operators_account(mesh: Mesh) -> None:
    with mesh.http() as client:
        body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "[status=429]"}]}
        answer = client.post("/openai/v1/chat/completions", json=body)
    assert answer.status_code == 429
    assert answer.json()["error"]["code"] == "made_up"
    assert answer.headers["retry-after"] == "7"
    assert answer.headers["x-ratelimit-remaining-requests"] == "0"
    assert answer.headers["error-origin"] == "service"
    assert "openai-organization" not in answer.headers
    assert answer.headers["x-request-id"].startswith("run_")


def test_a_caller_that_leaves_a_stream_is_charged_by_an_estimate(mesh: Mesh, vendor: Vendor) -> None:
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "[slow=0.1] [long=500]"}], "stream": True}
    with mesh.http() as client, client.stream("POST", "/openai/v1/chat/completions", json=body) as answer:
        assert answer.status_code == 200
        lines = answer.iter_lines()
        while "word" not in next(lines):
            pass
        run_id = answer.headers["x-request-id"]
    assert mesh.finished(run_id)["status"] == "cancelled"
    (told,) = until(lambda: [line for line in mesh.output if "run.tokens_estimated" in line and run_id in line])
    assert "openai/gpt-4o-mini" in told


@pytest.mark.parametrize("model", [f"{vendor}/{model}" for vendor, model in MODELS.items()])
def test_a_prompt_workflow_asks_each(mesh: Mesh, vendor: Vendor, model: str) -> None:
    prompt = {"name": "p", "kind": "prompt", "template": "{{ text }}", "model": model, "web_search": True}
    with mesh.http() as client:
        made = client.post("/deploy", json=prompt, timeout=120)
        assert made.status_code == 200, made.text
        service_id = made.json()["service_id"]
        assert client.post(f"/workflows/{service_id}/publish").status_code == 200
        run = f"/api/v1/run/{service_id}"
        whole = {"success": True, "result": SAID, "citations": [FOUND]}
        answer = client.post(run, json={"inputs": {"text": "hello"}})
        assert (answer.status_code, answer.json()) == (200, whole), answer.text
        assert vendor.last.body["tools"]
        cost = mesh.finished(answer.headers["x-request-id"])["cost"]
        assert min(cost["own"], cost["nested"]) >= 100
        streamed = events(client.post(f"{run}/stream", json={"text": "hello"}).text)
        assert ("".join(told["delta"] for _, told in streamed[:-1]), streamed[-1]) == (SAID, ("end", whole))
        assert len(streamed) == 4
        broken = client.post(f"{run}/stream", json={"text": "a b c [break]"})
        assert events(broken.text)[-1][1]["code"] == "workflow_crashed"
        full = client.post(run, json={"text": "[status=429]"})
        assert (full.status_code, full.json()["code"]) == (429, "rate_limited")
        for failed in (broken, full):
            assert mesh.finished(failed.headers["x-request-id"])["cost"]["total"] == 0


INSIDE = """\
# /// script
# requires-python = ">=3.11"
# dependencies = ["uvicorn", "starlette", "openai>=3.57,<4", "anthropic>=2.14,<3"]
# [tool.env-checker]
# env_vars = ["RUNMESH_OPENAI_API_KEY=none", "RUNMESH_OPENAI_BASE_URL=none"]
# ///
import os
import socket
import anthropic, openai, uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

URL, KEY = os.environ["CODEWORDS_RUNTIME_URI"], os.environ["CODEWORDS_API_KEY"]

async def ask(request):
    said = [{"role": "user", "content": "hello"}]
    async with openai.AsyncOpenAI(base_url=f"{URL}/openai/v1", api_key=KEY) as client:
        plain = await client.chat.completions.create(model="gpt-4o-mini", messages=said)
        stream = await client.chat.completions.create(model="gpt-4o-mini", messages=said, stream=True)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    async with anthropic.AsyncAnthropic(base_url=f"{URL}/run/anthropic", api_key=KEY) as client:
        message = await client.messages.create(model="claude-3-5-haiku", max_tokens=50, messages=said)
    return JSONResponse([plain.choices[0].message.content, text, message.content[0].text])

async def look(request):
    reached = []
    for host, port in await request.json():
        try:
            with socket.create_connection((host, port), 5):
                reached.append("reached")
        except OSError as error:
            reached.append(type(error).__name__)
    seen = []
    for pid in [name for name in os.listdir("/proc") if name.isdigit()]:
        try:
            seen.append(open(f"/proc/{pid}/environ").read())
        except OSError as error:
            seen.append(repr(error))
    return JSONResponse({"environ": dict(os.environ), "others": seen, "reached": reached})

app = Starlette(routes=[Route("/ask", ask, methods=["POST"]), Route("/look", look, methods=["POST"])])
if __name__ == "__main__":
    uvicorn.run(app)
"""


@pytest.fixture(scope="module")
def inside(mesh: Mesh) -> Iterator[httpx.Client]:
    """A workflow that has the SDKs among its dependencies."""
    mesh.deploy("inside", INSIDE)
    with mesh.http() as client:
        yield client


def test_from_inside_a_workflow(inside: httpx.Client) -> None:
    answer = inside.post("/run/inside/ask")
    assert (answer.status_code, answer.json()) == (200, [SAID] * 3), answer.text


def test_no_other_run_sees_a_vendors_key_or_reaches_the_vendor(inside: httpx.Client, vendor: Vendor) -> None:
    answer = inside.post("/run/inside/look", json=[[host, vendor.port] for host in (vendor.host, NEAR)])
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["reached"]) == 2
    assert "reached" not in answer.json()["reached"]
    assert answer.json()["environ"]["RUNMESH_OPENAI_API_KEY"] == "none"
    assert not [key for key in KEYS.values() if key in answer.text]


def test_of_the_services_of_the_mesh_the_executor_alone_has_the_keys(mesh: Mesh) -> None:
    having = []
    for pid, words in mesh.programs().items():
        if KEYS["openai"].encode() in Path(f"/proc/{pid}/environ").read_bytes():
            having.append(words[-1])
    assert having == ["executor"]
    assert not [line for line in mesh.output if any(key in line for key in KEYS.values())]


def test_the_services_are_not_open_without_a_key(mesh: Mesh) -> None:
    with mesh.http("") as client:
        assert client.post("/openai/v1/chat/completions", json={}).status_code == 401
    with mesh.http(mesh.new_key(scopes=["files"])["key"]) as client:
        assert client.post("/openai/v1/chat/completions", json={}).status_code == 403
    with mesh.http(mesh.new_key(scopes=["run:openai"])["key"]) as client:
        assert client.post("/openai", json=PLAIN).status_code == 200
        assert client.post("/anthropic", json=PLAIN).status_code == 403
