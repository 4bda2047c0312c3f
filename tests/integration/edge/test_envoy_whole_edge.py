"""The whole edge as it is built, behind real Envoy, with real NATS; the other services are fakes behind real gRPC."""

import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from mesh.events.v1 import events_pb2
from mesh.keys.v1 import keys_pb2
from mesh.workflows.v1 import workflows_pb2

from tests.integration.edge.mesh import ADMIN, ONE_TIME
from tests.integration.edge.whole import AUTHORIZED, World, whole_edge

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[World]:
    async with whole_edge() as world:
        yield world


@pytest.fixture
def world(running: World) -> World:
    running.asked.requests.clear()
    running.asked.revoked.clear()
    return running


async def test_what_needs_no_key(world: World) -> None:
    assert (await world.client.get("/healthz")).json() == {"status": "ok"}
    assert (await world.client.get("/readyz")).json() == {"status": "ok"}
    metrics = await world.client.get("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")
    for service in ("edge", "keys", "scheduler", "executor", "filestore"):
        assert f'service="{service}"' in metrics.text
    assert (await world.client.get("/nope")).json()["code"] == "not_found"


async def test_keys(world: World) -> None:
    issued = await world.call("POST", "/keys", json={"kind": "one_time", "scopes": ["run"]})
    assert (issued["id"], issued["key"], issued["kind"]) == ("key_9", "cwk-new", "one_time")
    request = world.asked.requests["IssueKey"]
    assert request.issuer.key_id == "key_1"
    assert (request.kind, list(request.scopes)) == (keys_pb2.KEY_KIND_ONE_TIME, ["run"])
    assert not request.HasField("expires_at")
    assert (await world.call("GET", "/keys?limit=7&after=key_0"))["next"] == "key_9"
    assert world.asked.requests["ListKeys"].limit == 7
    assert await world.call("POST", "/keys/key_9/rotate", json={"overlap_seconds": 9}) == {
        "id": "key_10",
        "key": "cwk-next",
    }
    assert world.asked.requests["RotateKey"].overlap_seconds == 9
    organization = await world.call("POST", "/organizations", json={"name": "b"})
    assert organization == {"id": "org_2", "name": "b", "key": "cwk-first"}


async def test_errors_of_other_services_keep_their_meaning(world: World) -> None:
    for method, path, body, status, code in [
        ("DELETE", "/keys/key_9", None, 404, "not_found"),
        ("POST", "/keys", {"kind": "standard", "scopes": ["nonsense"]}, 403, "forbidden"),
        ("POST", "/deploy", {"code": "x", "name": "n"}, 422, "invalid_workflow"),
        ("POST", "/keys", {"kind": "standard", "colour": "red"}, 400, "bad_request"),
    ]:
        reply = await world.client.request(method, path, json=body, headers=AUTHORIZED)
        assert (reply.status_code, reply.json()["code"]) == (status, code)
        assert reply.headers["error-origin"] == "runtime"
        failed = [{"check": "syntax", "passed": False, "detail": "nothing there", "line": 1}]
        assert reply.json().get("report") == (failed if status == 422 else None)


async def test_workflows(world: World) -> None:
    assert (await world.call("POST", "/validate", json={"code": "import x"}))["all_passed"] is True
    deployed = await world.call("POST", "/deploy?publish=false", json={"code": "import x", "name": "n"})
    assert deployed["url"] == "https://mesh.example/run/org_1.hello"
    assert (deployed["version"], world.asked.requests["Deploy"].publish) == (3, False)
    assert (await world.call("GET", "/workflows?visibility=public"))["items"][0]["service_id"] == "hello"
    assert world.asked.requests["ListWorkflows"].visibility == workflows_pb2.VISIBILITY_PUBLIC
    assert (await world.call("GET", "/workflows/hello"))["visibility"] == "private"
    await world.call("PATCH", "/workflows/hello", json={"limits": {"concurrency": 4, "disk_bytes": 1 << 40}})
    request = world.asked.requests["UpdateWorkflow"]
    assert request.limits == workflows_pb2.Limits(concurrency=4, disk_bytes=1 << 40)
    await world.call("PATCH", "/workflows/hello", json={"limits": {"calls_per_second": 4, "api_calls_per_minute": 5}})
    limits = world.asked.requests["UpdateWorkflow"].limits
    assert limits == workflows_pb2.Limits(calls_per_second=4, api_calls_per_minute=5)
    assert (request.HasField("name"), request.HasField("visibility")) == (False, False)
    await world.call("DELETE", "/workflows/hello")
    assert world.asked.requests["DeleteWorkflow"].service_id == "hello"


async def test_prompts(world: World) -> None:
    prompt = {"template": "{{ story }}", "model": "openai/m", "parameters": {"top_p": 1}, "web_search": True}
    await world.call("POST", "/deploy", json={"kind": "prompt", "name": "n", **prompt})
    asked = world.asked.requests["Deploy"].prompt
    assert (asked.template, asked.model, asked.parameters, asked.web_search) == (
        "{{ story }}",
        "openai/m",
        '{"top_p": 1}',
        True,
    )
    assert (await world.call("POST", "/workflows/hello/publish"))["published"] is True
    assert world.asked.requests["PublishWorkflow"].published
    await world.call("POST", "/workflows/hello/unpublish")
    assert not world.asked.requests["PublishWorkflow"].published


async def test_published_workflows(world: World) -> None:
    result = {"success": True, "result": 'you sent {"a":1}'}
    assert await world.call("POST", "/api/v1/run/hello", json={"a": 1}) == result
    run = world.asked.requests["Run"]
    assert (run.charged_on_success, run.request.path) == (True, "/")
    streamed = await world.client.post("/api/v1/run/hello/stream", json={"a": 1}, headers=AUTHORIZED)
    told = 'data: {"delta":"you sent {\\"a\\":1}"}\n\n'
    assert streamed.text == told + f"event: end\ndata: {json.dumps(result, separators=(',', ':'))}\n\n"
    for path, body, status, code in [
        ("/api/v1/run/wf_1", {"tale": 1}, 400, "bad_request"),
        ("/run/wf_1", {"tale": 1}, 400, "bad_request"),
        ("/api/v1/run/nope", {}, 404, "not_found"),
    ]:
        reply = await world.client.post(path, json=body, headers=AUTHORIZED)
        assert (reply.status_code, reply.json()["code"]) == (status, code)
        assert reply.json().get("success") is (False if path.startswith("/api/") else None)


async def test_secrets_and_files(world: World) -> None:
    await world.call("PUT", "/secrets/TOKEN", json={"value": "v", "hosts": ["a.b"]})
    request = world.asked.requests["PutSecret"]
    assert (request.organization_id, request.name, request.value) == ("org_1", "TOKEN", "v")
    assert (await world.call("GET", "/secrets"))["items"][0]["name"] == "A"
    await world.call("DELETE", "/secrets/TOKEN")
    assert world.asked.requests["DeleteSecret"].name == "TOKEN"
    place = await world.call("POST", "/file?filename=a%20b", content=b"null")
    assert place["upload_uri"] == "up/org_1/a b"


async def test_schedules(world: World) -> None:
    wanted = {"service_id": "hello", "cron_expression": "* * * * *", "timezone": "UTC", "input_data": {"ü": 1}}
    made = await world.call("POST", "/schedules", json=wanted)
    assert (made["id"], made["service_id"], made["input_data"], made["last_fired_at"]) == (
        "sch_1",
        "hello",
        {"ü": 1},
        None,
    )
    asked = world.asked.requests["CreateSchedule"]
    assert (asked.organization_id, asked.created_by, asked.input) == ("org_1", "key_1", '{"ü":1}'.encode())
    listed = await world.call("GET", "/schedules?limit=7&after=sch_0")
    assert (world.asked.requests["ListSchedules"].limit, world.asked.requests["ListSchedules"].after) == (7, "sch_0")
    assert listed["next"] == "sch_2"
    (item,) = listed["items"]
    assert (item["input_data"], item["last_request_id"], item["last_error"]) == ([1], "run_1", "why")
    assert (item["next_fire_at"], item["last_fired_at"]) == (None, "2027-01-15T08:00:00.000Z")
    assert await world.call("DELETE", "/schedules/sch_1") == {"id": "sch_1", "deleted": True}


async def test_a_run_of_the_direct_way(world: World) -> None:
    headers = AUTHORIZED | {"X-Correlation-Id": "mine", "Content-Type": "text/weird", "X-Two": "a"}
    reply = await world.client.post("/run/hello/p/%20?q=1", content=b"hello", headers=headers)
    assert (reply.status_code, reply.text) == (201, "you sent hello")
    assert reply.headers["x-correlation-id"] == "mine"
    run = world.asked.requests["Run"]
    assert reply.headers.get_list("x-request-id") == [run.run_id]
    assert (run.request.method, run.request.path, run.request.query) == ("POST", "/p/%20", "q=1")
    seen = {header.name: header.value for header in run.request.headers}
    assert (seen["content-type"], seen["x-two"]) == (b"text/weird", b"a")
    assert "authorization" not in seen
    assert (run.caller_id, run.acting_id, run.version_id) == ("org_1", "org_1", "ver_1")
    missing = await world.client.post("/run/missing", headers=AUTHORIZED)
    assert (missing.status_code, missing.json()["code"]) == (404, "not_found")


async def test_a_long_body_is_streamed_and_an_answer_without_a_length_is_attached_to(world: World) -> None:
    body = b"x" * 70_000
    reply = await world.client.post("/run/hello/p", content=body, headers=AUTHORIZED)
    assert (reply.status_code, reply.content) == (201, b"you sent " + body)
    assert "Call" not in world.asked.requests
    reply = await world.client.post("/run/hello/stream", content=b"hello", headers=AUTHORIZED)
    assert (reply.status_code, reply.text, reply.headers["transfer-encoding"]) == (201, "you sent hello", "chunked")
    attached = world.asked.requests["Attach"]
    assert (attached.run_id, attached.hold) == (reply.headers["x-request-id"], True)


async def test_a_body_that_nobody_announced(world: World) -> None:
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"x" * 40_000

    for method in ("POST", "GET"):
        reply = await world.client.request(method, "/run/hello/p", content=parts(), headers=AUTHORIZED)
        assert (reply.status_code, len(reply.content)) == (201, 120_009)
        assert "Call" not in world.asked.requests
    reply = await world.client.get("/run/hello/p", headers=AUTHORIZED)
    assert (reply.status_code, reply.text) == (201, "you sent ")
    assert world.asked.requests["Call"].spec.request.method == "GET"


@pytest.mark.parametrize("code", ["out_of_memory", "disk_full", "too_much_output"])
async def test_a_run_that_passed_a_limit(world: World, code: str) -> None:
    reply = await world.client.post(f"/run/hello/fail/{code}", headers=AUTHORIZED)
    run_id = world.asked.requests["Run"].run_id
    assert (reply.status_code, reply.headers["error-origin"], reply.headers["x-request-id"]) == (502, "runtime", run_id)
    detail = "more than its limit of 64 MiB\n\nIts last log lines:\nlast"
    assert reply.json() == {"detail": detail, "code": code, "request_id": run_id}


async def test_a_one_time_key_provisions_but_does_nothing_else(world: World) -> None:
    headers = {"Authorization": ONE_TIME}
    assert "request_id" in (await world.client.post("/provision-request", headers=headers)).json()
    for method, path in [
        ("GET", "/keys"),
        ("POST", "/file"),
        ("GET", "/requests"),
        ("DELETE", "/request/run_01hf0000000000000000000000"),
        ("GET", "/workflows"),
    ]:
        reply = await world.client.request(method, path, headers=headers)
        assert (reply.status_code, reply.json()["code"]) == (403, "forbidden"), path


async def test_the_event_of_a_revocation_is_heard(world: World) -> None:
    await world.call("GET", "/keys")
    world.asked.revoked.add(ADMIN)
    await world.bus.publish(
        "event.key.revoked", events_pb2.KeyRevoked(key_id="key_1").SerializeToString(), event_id="evt_1"
    )
    for _ in range(100):  # well within the life of the cache
        if (await world.client.get("/keys", headers=AUTHORIZED)).status_code == 401:
            break
    else:
        raise AssertionError("the key is still good")
