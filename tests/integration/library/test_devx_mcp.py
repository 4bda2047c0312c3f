"""devx_mcp in this process, against a fake of the platform, asked by the SDK's own client, in both of its dialects."""

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from mcp import Client

from tests.fakes.platform import KEY, RUN, Platform, platform
from tests.fakes.services import service
from tests.providers.apis import served

MODES = ("legacy", "2026-07-28")
TOOLS = {
    "validate_workflow", "deploy_workflow", "list_workflows", "read_workflow", "run_workflow", "start_workflow",
    "get_result", "get_logs", "list_runs", "cancel_run", "list_secrets", "set_secret", "delete_secret",
    "list_schedules", "create_schedule", "delete_schedule", "list_templates", "read_template",
}  # fmt: skip


@pytest.fixture(scope="module")
def running() -> Iterator[Platform]:
    with platform() as fake:
        yield fake


@pytest.fixture
def fake(running: Platform) -> Platform:
    running.requests.clear()
    running.kept.clear()
    running.refuses = None
    return running


@pytest.fixture
def url(fake: Platform, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    module: Any = service("devx_mcp", fake, monkeypatch).module
    module.TICK_SECONDS, module.LISTEN_SECONDS = 0.1, 0.3
    with served(module.app, lifespan="on") as port:
        yield f"http://127.0.0.1:{port}/mcp"


async def told(client: Any, tool: str, **arguments: Any) -> Any:
    """What a tool that succeeds says."""
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    return result.structured_content


async def refused(client: Any, tool: str, **arguments: Any) -> str:
    """What one that doesn't says."""
    result = await client.call_tool(tool, arguments)
    assert result.is_error
    text: str = result.content[0].text
    return text


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("slash", ["", "/"])
async def test_what_there_is(url: str, mode: Any, slash: str) -> None:
    async with Client(url + slash, mode=mode) as client:
        found = (await client.list_tools()).tools
        assert {tool.name for tool in found} == TOOLS
        assert all(tool.description and tool.annotations for tool in found)
        assert await told(client, "list_workflows") == {"items": [{"service_id": "greet"}], "next": None}


async def test_from_code_to_an_answer(url: str, fake: Platform) -> None:
    async with Client(url) as client:
        assert (await told(client, "validate_workflow", code="app = 1"))["all_passed"] is True
        assert (await told(client, "deploy_workflow", code="app = 1", name="Greet"))["service_id"] == "greet"
        assert fake.last.body == {"code": "app = 1", "name": "Greet"}
        assert fake.last.headers["authorization"] == f"Bearer {KEY}"
        assert (await told(client, "read_workflow", service_id="org_1.greet@2"))["service_id"] == "org_1.greet@2"
        assert (await told(client, "list_templates"))["items"] == [{"id": "monitor"}]
        assert (await told(client, "read_template", template_id="monitor"))["code"] == "app = 1"
        ran = await told(client, "run_workflow", service_id="greet", inputs={"a": [1]}, path="/x y/z?q=1")
        assert ran["request_id"] == RUN
        assert ran["result"] == {"path": "greet/x y/z", "query": "q=1", "method": "POST", "got": {"a": [1]}}
        ran = await told(client, "run_workflow", service_id="greet", method="GET")
        assert (ran["result"]["method"], ran["result"]["got"]) == ("GET", None)
        ran = await told(client, "run_workflow", service_id="broken")
        assert (ran["status"], ran["result"]) == (500, {"detail": "oh"})
        page = (await told(client, "run_workflow", service_id="page"))["result"]
        assert page.endswith("… (300000 characters in all)")
        assert (await told(client, "start_workflow", service_id="greet", inputs=None))["request_id"] == RUN
        assert (await told(client, "get_result", request_id=RUN))["responseContent"] == "hello"
        assert (await told(client, "get_result", request_id="run_slow", wait_seconds=0))["status"] == "running"
        assert len((await told(client, "get_result", request_id="run_long"))["responseContent"]) < 210_000
        log = await told(client, "get_logs", request_id=RUN, limit=2)
        assert ([line["message"] for line in log["lines"]], log["ended"]) == (["line 1", "line 2"], False)
        assert len((await told(client, "list_runs", status="failed"))["items"]) == 1
        assert fake.last.query == "status=failed&limit=20"
        assert await told(client, "cancel_run", request_id=RUN) == {"request_id": RUN}


async def test_secrets_and_schedules(url: str, fake: Platform) -> None:
    async with Client(url) as client:
        assert await told(client, "set_secret", name="TOKEN", value="canary", hosts=["a.example"]) == {"name": "TOKEN"}
        assert fake.last.body == {"value": "canary", "hosts": ["a.example"]}
        assert await told(client, "list_secrets") == {"items": [{"name": "TOKEN"}], "next": None}
        assert (await told(client, "delete_secret", name="TOKEN"))["deleted"] is True
        made = await told(client, "create_schedule", service_id="greet", cron_expression="0 9 * * *", input_data=[1])
        assert (made["id"], made["input_data"], made["timezone"]) == ("sch_1", [1], "UTC")
        assert len((await told(client, "list_schedules"))["items"]) == 1
        assert (await told(client, "delete_schedule", schedule_id="sch_1"))["deleted"] is True
        assert "not_found" in await refused(client, "delete_schedule", schedule_id="sch_1")


async def test_what_is_refused_says_why(url: str, fake: Platform) -> None:
    async with Client(url) as client:
        text = await refused(client, "deploy_workflow", code="bad", name="x")
        assert "invalid_workflow: deploy refused" in text
        assert "no Python" in text
        assert "no such workflow" in await refused(client, "run_workflow", service_id="missing")
        asked = len(fake.requests)
        for service_id, path in (
            ("greet", "/../../keys"),
            ("greet", "/%2e%2e/x"),
            ("..", "/"),
            ("a/b", "/"),
            ("", "/"),
        ):
            await refused(client, "run_workflow", service_id=service_id, path=path)
        await refused(client, "read_workflow", service_id="../keys")
        await refused(client, "get_result", request_id="../x")
        await refused(client, "set_secret", name="a/b", value="x")
        await refused(client, "no_such_tool")
        assert len(fake.requests) == asked
        fake.refuses = {"status": 403, "code": "forbidden", "detail": "this key lacks the scope deploy"}
        assert "this key lacks the scope deploy" in await refused(client, "list_secrets")
        assert "this key lacks the scope deploy" in await refused(client, "get_logs", request_id=RUN)


@pytest.mark.parametrize("mode", MODES)
async def test_it_tells_that_it_goes_on(url: str, mode: Any) -> None:
    heard: list[tuple[float, str | None]] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        heard.append((progress, message))

    async with Client(url, mode=mode) as client, asyncio.timeout(10):
        await client.call_tool("run_workflow", {"service_id": "slow"}, progress_callback=hear)
    assert len(heard) >= 2
    assert heard[0] == (0.1, "running slow, 0 s")


async def test_there_are_no_sessions(url: str) -> None:
    async with httpx.AsyncClient(headers={"Accept": "application/json, text/event-stream"}) as client:
        for method in ("GET", "DELETE"):
            assert (await client.request(method, url)).status_code == 405
        who = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}
        hello = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": who}
        answer = await client.post(url, json=hello, headers={"Host": "mesh.example"})
        assert (answer.status_code, "mcp-session-id" in answer.headers) == (200, False)
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert (await client.post(url, content=b"{")).status_code == 400
