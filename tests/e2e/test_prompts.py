"""Prompt workflows and /api/v1, through the whole mesh; a workflow of the tests' own stands for the model service."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.mesh import Mesh, events, mesh_up, until
from tests.e2e.money import credits_of, settled

WORKFLOWS = Path(__file__).parent / "workflows"
TEMPLATE = "{% for line in lines %}{{ loop.index }}:{{ line.text|upper }} {% endfor %}{{ mood }}"
INPUTS = {"lines": [{"text": "a"}, {"text": "{{ b }}"}], "mood": "glad"}
SAID = "1:A 2:{{ B }} glad "
CODE = """
# /// script
# dependencies = ["fastapi", "uvicorn"]
# ///
import uvicorn
from fastapi import FastAPI, Response

app = FastAPI()

@app.post("/")
def run(body: dict):
    if "status" in body:
        return Response(body["text"], body["status"], media_type="text/plain")
    return {"result": body, "more": 1} if body.get("wrapped") else body

if __name__ == "__main__":
    uvicorn.run(app)
"""


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    library = tmp_path_factory.mktemp("library")
    library.chmod(0o755)
    shutil.copy(WORKFLOWS / "model_service.py", library / "openai.py")
    with mesh_up(env={"RUNMESH_LIBRARY": str(library)}) as running:
        with running.http() as client:
            until(lambda: [each for each in listed(client) if each["service_id"] == "openai"], 120)
        yield running


def listed(client: httpx.Client) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.get("/workflows?visibility=public").json()["items"]
    return found


def deploy(mesh: Mesh, **changes: Any) -> httpx.Response:
    prompt = {"name": "Teller", "kind": "prompt", "template": TEMPLATE, "model": "openai/gpt-4o-mini"}
    with mesh.http() as client:
        return client.post("/deploy", json={**prompt, **changes}, timeout=120)


@pytest.fixture(scope="module")
def teller(mesh: Mesh) -> str:
    """A published prompt workflow that searches the web."""
    reply = deploy(mesh, web_search=True, parameters={"max_tokens": 100})
    assert reply.status_code == 200, reply.text
    service_id: str = reply.json()["service_id"]
    with mesh.http() as client:
        assert client.post(f"/api/v1/run/{service_id}", json=INPUTS).status_code == 404
        for _ in range(2):
            assert client.post(f"/workflows/{service_id}/publish").json()["published"] is True
    return service_id


def test_what_is_shown_of_it(mesh: Mesh, teller: str) -> None:
    assert teller.startswith("wf_")
    with mesh.http() as client:
        shown = client.get(f"/workflows/{teller}").json()
    assert shown["variables"] == ["lines", "mood"]
    assert (shown["kind"], shown["template"], shown["published"]) == ("prompt", TEMPLATE, True)
    assert (shown["model"], shown["parameters"], shown["web_search"]) == (
        "openai/gpt-4o-mini",
        {"max_tokens": 100},
        True,
    )


def test_its_result_and_its_stream(mesh: Mesh, teller: str) -> None:
    whole = {"success": True, "result": SAID, "citations": [{"url": "https://a.example", "title": "A"}]}
    with mesh.http() as client:
        for body in ({"inputs": INPUTS}, INPUTS):
            reply = client.post(f"/api/v1/run/{teller}", json=body)
            assert (reply.status_code, reply.json()) == (200, whole), reply.text
        streamed = client.post(f"/api/v1/run/{teller}/stream", json=INPUTS)
        assert streamed.headers["content-type"] == "text/event-stream"
        words = [("", {"delta": word + " "}) for word in SAID.strip().split(" ")]
        assert events(streamed.text) == [*words, ("end", whole)]
        plain = client.post(f"/run/{teller}", json=INPUTS)
        assert plain.json()["result"] == SAID
        record = client.get(f"/request/{reply.headers['x-request-id']}").json()
    assert (record["status"], record["serviceId"]) == ("succeeded", teller)


def test_wrong_inputs_start_nothing(mesh: Mesh, teller: str) -> None:
    settled(mesh, mesh.key)  # all runs of before are written down
    with mesh.http() as client:
        before = client.get("/requests?limit=1").json()["items"][0]["id"]
        for path in (f"/api/v1/run/{teller}", f"/api/v1/run/{teller}/stream", f"/run/{teller}", f"/run_async/{teller}"):
            reply = client.post(path, json={"inputs": {"moood": 1, "lines": []}})
            assert (reply.status_code, reply.json()["code"]) == (400, "bad_request")
            assert "missing: 'mood'; unknown: 'moood'" in reply.json()["detail"]
        assert client.get("/requests?limit=1").json()["items"][0]["id"] == before


def test_what_fails_is_no_success(mesh: Mesh, teller: str) -> None:
    with mesh.http() as client:
        reply = client.post(f"/api/v1/run/{teller}", json={"lines": [], "mood": "say fail now"})
        assert (reply.status_code, reply.json()["success"], reply.json()["code"]) == (502, False, "workflow_crashed")
        assert mesh.finished(reply.json()["request_id"])["status"] == "failed"
        streamed = client.post(f"/api/v1/run/{teller}/stream", json={"lines": [], "mood": "say fail now"})
        first, last = events(streamed.text)
        assert (first, last[0], last[1]["success"]) == (("", {"delta": "say "}), "error", False)
        assert "broke off" in last[1]["error"]
        run_id = streamed.headers["x-request-id"]
        assert last[1]["request_id"] == run_id
        reply = client.post(f"/api/v1/run/{teller}", json={"lines": [], "mood": "refuse"})
        assert (reply.status_code, reply.json()["code"]) == (402, "payment_required")
        misfit = client.post(f"/api/v1/run/{teller}", json={"lines": 7, "mood": ""})
        assert (misfit.status_code, misfit.headers["error-origin"]) == (400, "service")
    assert mesh.finished(run_id)["status"] == "failed"


def test_a_template_that_cant_be(mesh: Mesh) -> None:
    for template, why in (
        ("a\n{{ x", "template (line 2)"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "a call isn't possible"),
        ("{% include '/etc/passwd' %}", "include isn't possible"),
        ("{{ " + "(" * 10_000 + " }}", "nested too deeply"),
    ):
        reply = deploy(mesh, template=template)
        assert (reply.status_code, reply.json()["code"]) == (422, "invalid_workflow"), reply.text
        assert why in reply.json()["detail"]
        assert "the file" not in reply.json()["detail"]  # whoever wrote a prompt has none
    assert deploy(mesh, model="gpt").status_code == 400
    assert deploy(mesh, parameters={"n": 1}).status_code == 400
    assert deploy(mesh, template="x" * 70_000).json()["code"] == "too_large"
    assert deploy(mesh, service_id="wf_nope").status_code == 404


MANY = "{% for a in x %}{% for b in x %}{% for c in x %}{% if c %}{% endif %}{% endfor %}{% endfor %}{% endfor %}done"
LONG = "{% for a in x %}{{ y }}{% endfor %}"


ATTACKS: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("{{ x.__class__.__mro__ }}", {"x": {}}, "has no attribute '__mro__'"),
    ("{{ x['__class__'] }}", {"x": "text"}, "has no attribute '__class__'"),
    (MANY, {"x": [0] * 200}, "more than 1000000 steps"),
    (LONG, {"x": [0] * 100, "y": "z" * 20_000}, "larger than 1048576 bytes"),
)


def test_a_template_that_attacks_costs_its_caller_nothing(mesh: Mesh) -> None:
    """It is found while it runs; what can't be at all is refused by the deploy."""
    before = settled(mesh, mesh.key)
    with mesh.http() as client:
        for template, inputs, why in ATTACKS:
            service_id = deploy(mesh, template=template).json()["service_id"]
            client.post(f"/workflows/{service_id}/publish")
            for path in (f"/api/v1/run/{service_id}", f"/api/v1/run/{service_id}/stream"):
                reply = client.post(path, json={"inputs": inputs})
                assert (reply.status_code, reply.json()["code"], reply.json()["success"]) == (400, "bad_request", False)
                assert why in reply.json()["detail"]
                assert mesh.finished(reply.json()["request_id"])["cost"]["total"] == 0
    assert settled(mesh, mesh.key) == before


def test_what_is_refused_costs_nothing(mesh: Mesh, teller: str) -> None:
    """Nothing is even set aside."""
    unpublished = deploy(mesh).json()["service_id"]
    before = settled(mesh, mesh.key)
    stranger = mesh.new_organization("refused")["key"]
    with mesh.http() as client:
        unknown = {"inputs": {"lines": [], "mood": "", "more": 1}}
        bodies: tuple[Any, ...] = (unknown, {"inputs": {}}, {"inputs": 1}, {}, [], "text", None, 1)
        for body in bodies:
            for path in (f"/api/v1/run/{teller}", f"/api/v1/run/{teller}/stream"):
                reply = client.post(path, json=body)
                assert (reply.status_code, reply.json()["code"], reply.json()["success"]) == (400, "bad_request", False)
        for raw in (b"", b"{", b"\xff", b"[" * 100_000):
            reply = client.post(f"/api/v1/run/{teller}", content=raw)
            assert (reply.status_code, reply.json()["code"]) == (400, "bad_request"), reply.text
        for key, service_id in ((mesh.key, unpublished), (stranger, teller), (mesh.key, "wf_none")):
            with mesh.http(key) as other:
                reply = other.post(f"/api/v1/run/{service_id}", json={"inputs": INPUTS})
                assert (reply.status_code, reply.json()["code"], reply.json()["success"]) == (404, "not_found", False)
    assert credits_of(mesh, mesh.key) == (before, 0)
    assert credits_of(mesh, stranger)[1] == 0


def test_the_next_version_and_back(mesh: Mesh, teller: str) -> None:
    made = deploy(mesh, service_id=teller, template="again {{ mood }}")
    assert made.json()["version"] == 2, made.text
    with mesh.http() as client:
        assert client.post(f"/api/v1/run/{teller}", json={"mood": "x"}).json()["result"] == "again x "
        assert client.post(f"/run/{teller}@1", json=INPUTS).json()["result"] == SAID
        assert client.post(f"/workflows/{teller}/unpublish").json()["published"] is False
        hidden = client.post(f"/api/v1/run/{teller}", json={"mood": "x"})
        unknown = client.post("/api/v1/run/wf_nothing", json={"mood": "x"})
        assert hidden.status_code == unknown.status_code == 404
        assert hidden.json()["detail"] == unknown.json()["detail"]
        client.post(f"/workflows/{teller}/publish")
    with mesh.http(mesh.new_organization("strangers")["key"]) as stranger:
        foreign = stranger.post(f"/api/v1/run/{teller}", json={"mood": "x"})
        assert (foreign.status_code, foreign.json()["detail"]) == (404, unknown.json()["detail"])
        assert stranger.post(f"/workflows/{teller}/publish").status_code == 404


def test_code(mesh: Mesh) -> None:
    with mesh.http() as client:
        made = client.post("/deploy", json={"code": CODE, "name": "echo"}, timeout=120)
        assert made.status_code == 200, made.text
        run = "/api/v1/run/echo"
        assert client.post(run, json={"a": [1]}).json() == {"success": True, "result": {"a": [1]}}
        wrapped = {"wrapped": True}
        assert client.post(run, json=wrapped).json() == {"success": True, "result": wrapped}
        assert client.post(run, json={"status": 201, "text": "é"}).json()["result"] == "é"
        reply = client.post(run, json={"status": 409, "text": "taken"})
        assert (reply.status_code, reply.json()["error"], reply.json()["code"]) == (409, "taken", "conflict")
        assert reply.headers["error-origin"] == "service"
        assert events(client.post(f"{run}/stream", json={"a": 1}).text) == [
            ("end", {"success": True, "result": {"a": 1}})
        ]
        assert client.post(run, json=[1]).status_code == 400
        assert client.post("/deploy?publish=false", json={"code": CODE, "name": "draft"}, timeout=120).is_success
        assert client.post("/api/v1/run/draft", json={}).status_code == 404
        assert client.post("/workflows/draft/publish").json()["version"] == 1
        assert client.post("/api/v1/run/draft", json={}).status_code == 200
