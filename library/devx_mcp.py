# /// script
# requires-python = ">=3.11"
# dependencies = ["mcp>=2.3,<3", "uvicorn[standard]>=0.34", "httpx>=0.28"]
# [tool.runmesh]
# timeout = "10m"
# egress = []
# ///
"""The platform as an MCP server, for agents that write, deploy and run workflows: stateless streamable HTTP at /mcp.

It acts as the caller: what its key may not do is refused by the platform. Nothing is kept between two calls.
"""

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Any, Literal
from urllib.parse import unquote

import httpx
import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.streamable_http_manager import StreamableHTTPASGIApp
from mcp.types import ToolAnnotations
from pydantic import Field
from starlette.applications import Starlette
from starlette.routing import Route

MOST_TEXT = 200_000  # characters of an answer that an agent is shown
MOST_LINES = 500
TICK_SECONDS, LISTEN_SECONDS = 5.0, 2.0

INSTRUCTIONS = """Runmesh runs single-file Python workflows: a FastAPI app with a PEP 723 header, as an HTTP API. Write
one, check it with validate_workflow, deploy_workflow it, then run_workflow (waits) or start_workflow and get_result.
A workflow reads secrets from environment variables that its header declares in `[tool.env-checker] env_vars`."""

server = MCPServer(
    "runmesh", title="Runmesh", instructions=INSTRUCTIONS, version="1", log_level="WARNING", subscriptions=False
)
READS = ToolAnnotations(read_only_hint=True, open_world_hint=False)
CHANGES = ToolAnnotations(read_only_hint=False, destructive_hint=True, open_world_hint=False)

ServiceId = Annotated[str, Field(description="such as `greet`, `greet@2` (a version) or `ORGANIZATION.greet`")]
RequestId = Annotated[str, Field(description="run_…", pattern=r"^[\w-]{1,100}$")]
Code = Annotated[str, Field(description="the whole Python file", max_length=1024 * 1024)]
Name = Annotated[str, Field(description="of an environment variable", pattern=r"^[A-Za-z_]\w{0,199}$")]


@server.tool(annotations=READS)
async def validate_workflow(code: Code, ctx: Context) -> dict[str, Any]:
    """Checks a workflow without deploying it: syntax, header, dependencies, secrets, imports, schema."""
    async with telling(ctx, "validating"):
        return await ask("POST", "/validate", json={"code": code})


@server.tool(annotations=CHANGES)
async def deploy_workflow(code: Code, name: str, ctx: Context, service_id: str | None = None) -> dict[str, Any]:
    """Deploys a workflow; the same service_id (by default made of the name) again makes its next version."""
    body = {"code": code, "name": name, **({"service_id": service_id} if service_id else {})}
    async with telling(ctx, "deploying"):
        return await ask("POST", "/deploy", json=body)


@server.tool(annotations=READS)
async def list_workflows(
    visibility: Literal["own", "public", "template", "open"] = "own", limit: int = 100, after: str | None = None
) -> dict[str, Any]:
    """Your organization's workflows; or what everybody may run (`public`: the library, too) or copy (`template`)."""
    query = {"visibility": None if visibility == "own" else visibility, "limit": limit, "after": after}
    return await ask("GET", "/workflows", params={name: each for name, each in query.items() if each is not None})


@server.tool(annotations=READS)
async def read_workflow(service_id: ServiceId) -> dict[str, Any]:
    """A workflow with its OpenAPI schema (what it takes), limits and traffic."""
    return await ask("GET", f"/workflows/{named(service_id)}")


@server.tool(annotations=READS)
async def list_templates() -> dict[str, Any]:
    """Workflows to begin with: what each does, which secrets it needs."""
    return await ask("GET", "/templates")


@server.tool(annotations=READS)
async def read_template(template_id: ServiceId) -> dict[str, Any]:
    """A template with its code, to be changed and deployed."""
    return await ask("GET", f"/templates/{named(template_id)}")


Path = Annotated[str, Field(description="below the workflow", max_length=2000)]
Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]


@server.tool(annotations=ToolAnnotations(read_only_hint=False, open_world_hint=True))
async def run_workflow(
    service_id: ServiceId, ctx: Context, inputs: Any = None, path: Path = "/", method: Method = "POST"
) -> dict[str, Any]:
    """Runs a workflow and waits: {"status", "result", "request_id"}. `inputs` is its JSON body; none for GET."""
    body = {} if method == "GET" and inputs is None else {"json": {} if inputs is None else inputs}
    async with telling(ctx, f"running {service_id}"), runtime() as client:
        answer = await sent(client, method, run_path("run", service_id, path), **body)
    if answer.headers.get("error-origin") == "runtime":
        raise refused(answer)
    return {"status": answer.status_code, "result": shown(answer), "request_id": answer.headers.get("x-request-id")}


@server.tool(annotations=ToolAnnotations(read_only_hint=False, open_world_hint=True))
async def start_workflow(service_id: ServiceId, inputs: Any = None, path: Path = "/") -> dict[str, Any]:
    """Starts a workflow and doesn't wait: {"request_id"}, for get_result and get_logs."""
    return await ask("POST", run_path("run_async", service_id, path), json={} if inputs is None else inputs)


@server.tool(annotations=READS)
async def get_result(
    request_id: RequestId, ctx: Context, wait_seconds: Annotated[int, Field(ge=0, le=300)] = 30
) -> dict[str, Any]:
    """The record of a run and its answer; {"status": "queued" or "running", …} where it isn't over by then."""
    async with telling(ctx, f"waiting for {request_id}"), runtime() as client:
        answer = await sent(client, "GET", f"/result/{request_id}", params={"timeout": wait_seconds})
    if answer.status_code == 504:  # still under way
        return await ask("GET", f"/request/{request_id}")
    if answer.status_code >= 400:
        raise refused(answer)
    record: dict[str, Any] = answer.json()
    text = record.get("responseContent")
    if isinstance(text, str) and len(text) > MOST_TEXT:
        record = {name: record[name] for name in ("id", "serviceId", "responseStatus", "run") if name in record}
        record["responseContent"] = cut(text)
    return record


@server.tool(annotations=READS)
async def get_logs(
    request_id: RequestId,
    after: Annotated[str | None, Field(description="createdAt of the last line that you have")] = None,
    limit: Annotated[int, Field(ge=1, le=MOST_LINES)] = 200,
) -> dict[str, Any]:
    """What a run has printed so far, the newest `limit` lines: {"lines": [{"createdAt", "message", …}], "ended"}."""
    lines: list[dict[str, Any]] = []
    ended = False
    query, headers = {"after": after} if after else {}, {"Accept": "application/x-ndjson"}
    try:
        async with (
            runtime() as client,
            client.stream("GET", f"/logs/{request_id}", params=query, headers=headers) as answer,
        ):
            if answer.status_code >= 400:
                await answer.aread()
                raise refused(answer)
            with suppress(TimeoutError):  # it goes on as long as the run does
                async with asyncio.timeout(LISTEN_SECONDS):
                    async for line in answer.aiter_lines():
                        lines += [json.loads(line)] if line.strip() else []
                    ended = True
    except httpx.HTTPError as error:
        raise unanswered(error) from None
    return {"lines": lines[-limit:], "ended": ended}


@server.tool(annotations=READS)
async def list_runs(
    service_id: ServiceId | None = None,
    status: Literal["queued", "running", "succeeded", "failed", "timed_out", "cancelled", "dead"] | None = None,
    limit: Annotated[int, Field(ge=1, le=100)] = 20,
) -> dict[str, Any]:
    """Your organization's runs, the newest first."""
    query = {"service_id": service_id, "status": status, "limit": limit}
    return await ask("GET", "/requests", params={name: each for name, each in query.items() if each is not None})


@server.tool(annotations=CHANGES)
async def cancel_run(request_id: RequestId) -> dict[str, Any]:
    """Ends a run, and what it has called."""
    return await ask("DELETE", f"/request/{request_id}")


@server.tool(annotations=READS)
async def list_secrets() -> dict[str, Any]:
    """The names of your organization's secrets; nobody is ever shown a value."""
    return await ask("GET", "/secrets")


@server.tool(annotations=CHANGES)
async def set_secret(
    name: Name,
    value: str,
    hosts: Annotated[
        list[str] | None, Field(description="where alone it may be sent; it stays out of sandboxes")
    ] = None,
) -> dict[str, Any]:
    """Makes or replaces a secret, which workflows that declare its name are given from then on."""
    return await ask("PUT", f"/secrets/{name}", json={"value": value, **({"hosts": hosts} if hosts else {})})


@server.tool(annotations=CHANGES)
async def delete_secret(name: Name) -> dict[str, Any]:
    """Removes a secret."""
    return await ask("DELETE", f"/secrets/{name}")


@server.tool(annotations=READS)
async def list_schedules() -> dict[str, Any]:
    """What runs by the clock: when it fires next, what became of the last time."""
    return await ask("GET", "/schedules")


@server.tool(annotations=CHANGES)
async def create_schedule(
    service_id: ServiceId,
    cron_expression: Annotated[str, Field(description="five fields, such as `0 9 * * MON-FRI`")],
    input_data: Any = None,
    timezone: str = "UTC",
) -> dict[str, Any]:
    """Runs a workflow by the clock."""
    body = {"service_id": service_id, "cron_expression": cron_expression, "timezone": timezone}
    return await ask("POST", "/schedules", json={**body, "input_data": input_data})


@server.tool(annotations=CHANGES)
async def delete_schedule(schedule_id: Annotated[str, Field(pattern=r"^[\w-]{1,100}$")]) -> dict[str, Any]:
    """Ends a schedule."""
    return await ask("DELETE", f"/schedules/{schedule_id}")


def runtime() -> httpx.AsyncClient:
    """The platform, as the caller. What a call may take is what is left of this run."""
    key = {"Authorization": f"Bearer {os.environ['CODEWORDS_API_KEY']}"}
    timeout = httpx.Timeout(600, connect=10)
    return httpx.AsyncClient(
        base_url=os.environ["CODEWORDS_RUNTIME_URI"], headers=key, timeout=timeout, trust_env=False
    )


async def ask(method: str, path: str, **options: Any) -> dict[str, Any]:
    """The answer's JSON. Errors: ToolError."""
    async with runtime() as client:
        answer = await sent(client, method, path, **options)
    if answer.status_code >= 400:
        raise refused(answer)
    said: dict[str, Any] = answer.json()
    return said


async def sent(client: httpx.AsyncClient, method: str, path: str, **options: Any) -> httpx.Response:
    """Errors: ToolError."""
    try:
        return await client.request(method, path, **options)
    except httpx.HTTPError as error:
        raise unanswered(error) from None


def unanswered(error: httpx.HTTPError) -> ToolError:
    """No answer, or half of one."""
    return ToolError(f"the platform didn't answer ({type(error).__name__})")


def refused(answer: httpx.Response) -> ToolError:
    """As the platform says it; the report of a deploy, too."""
    try:
        told = answer.json()
        text = f"{told['code']}: {told['detail']}"
        failed = [check for check in told.get("report") or [] if not check["passed"]]
    except (ValueError, LookupError, TypeError):
        return ToolError(f"the platform answered {answer.status_code}")
    return ToolError("\n".join([text, *(json.dumps(check, ensure_ascii=False) for check in failed)]))


def run_path(how: str, service_id: str, path: str) -> str:
    """Errors: ToolError where it would lead elsewhere than to this workflow."""
    if any(part in {".", ".."} for part in re.split(r"[/?#\\]", unquote(path))):
        raise ToolError("the path may not have . or .. in it")
    return f"/{how}/{named(service_id)}/{path.lstrip('/')}"


def named(service_id: str) -> str:
    """Errors: ToolError where this can be no workflow's name."""
    if not re.fullmatch(r"\w[\w.@-]{0,299}", service_id, re.ASCII):
        raise ToolError(f"{service_id[:100]!r} is no service id")
    return service_id


def shown(answer: httpx.Response) -> Any:
    """An answer's JSON or text, as far as an agent wants to read."""
    if len(answer.content) <= MOST_TEXT:
        with suppress(ValueError):
            return answer.json()
    kind = answer.headers.get("content-type", "")
    if not kind.startswith(("text/", "application/json")):
        return f"{len(answer.content)} bytes of {kind or 'something'}"
    return cut(answer.text)


def cut(text: str) -> str:
    """The beginning of a long one."""
    return text if len(text) <= MOST_TEXT else f"{text[:MOST_TEXT]}… ({len(text)} characters in all)"


@asynccontextmanager
async def telling(ctx: Context, what: str) -> AsyncIterator[None]:
    """Tells the client every few seconds that it goes on, if it wants to be told: many give up in silence."""

    async def tick() -> None:
        seconds = 0.0
        while True:
            await asyncio.sleep(TICK_SECONDS)
            seconds += TICK_SECONDS
            await ctx.report_progress(seconds, message=f"{what}, {seconds:.0f} s")

    ticking = asyncio.create_task(tick())
    try:
        yield
    finally:
        ticking.cancel()
        await asyncio.gather(ticking, return_exceptions=True)


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[None]:
    """The SDK's own."""
    async with server.session_manager.run():
        yield


# Whoever calls has sent a key in a header, which no page of another site can: what its Host says proves nothing.
server.streamable_http_app(stateless_http=True, host="0.0.0.0")
mcp = StreamableHTTPASGIApp(server.session_manager)
# A stream by GET, or the end of a session by DELETE, has no meaning without sessions: 405, as the protocol has it.
app = Starlette(routes=[Route(path, mcp, methods=["POST"]) for path in ("/mcp", "/mcp/")], lifespan=lifespan)

if __name__ == "__main__":
    uvicorn.run(app, host="0.0.0.0", port=int(os.environ.get("PORT", "8000")))
