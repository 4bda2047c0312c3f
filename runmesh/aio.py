"""The functions for async code. Errors of all: RunmeshError, by its kinds in `runmesh.errors`."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from runmesh import calls, errors
from runmesh.model import Deployment, Integration, SecretsResult, Validation, WorkflowOutput


async def validate_workflow(code: str | Path, *, client: Any = None) -> Validation:
    """Checks a workflow without deploying it; a Path is read."""
    async with _connected(client) as server:
        return calls.validation(await _ask(server, calls.validate(code)))


async def deploy_workflow(
    code: str | Path, name: str, *, service_id: str | None = None, publish: bool = True, client: Any = None
) -> Deployment:
    """Deploys a workflow, or its next version; `service_id` is made of the name where it is left out. Not `publish`: it
    is served as `SERVICE_ID@VERSION` only. Errors: InvalidWorkflow.
    """
    async with _connected(client) as server:
        return calls.deployment(await _ask(server, calls.deploy(code, name, service_id, publish=publish)))


async def get_workflow_logs(request_id: str, *, wait: bool = True, client: Any = None) -> list[dict[str, Any]]:
    """The lines of a run: `{"createdAt", "seq", "stream", "level", "message", "data"}`. Waits until it has ended;
    without `wait` those that there are. Errors: NotFound.
    """
    async with _connected(client) as server:
        if wait:
            await server.get_request_details(request_id)  # of what is wrong with it, `get_logs` doesn't tell enough
            return [calls.log_line(line) async for line in server.get_logs(request_id)]
        return await _so_far(server, request_id)


async def get_workflow_output(request_id: str, timeout: float = 300, *, client: Any = None) -> WorkflowOutput:
    """What came of a run; waits `timeout` seconds for its end. A run that failed is no error. Errors: Pending."""
    async with _connected(client) as server:
        try:
            await server.poll_result(request_id, timeout_seconds=timeout)
        except httpx.TimeoutException as error:
            raise errors.Pending(f"{request_id} hasn't ended within {timeout} s", request_id=request_id) from error
        return calls.output(await server.get_request_details(request_id))


async def manage_secrets(
    operation: str,
    secret_name: str = "",
    secret_value: str | None = None,
    *,
    hosts: Sequence[str] = (),
    client: Any = None,
) -> SecretsResult:
    """`list`, `check` (is there one?), `set` (or `create`, `update`), `delete` (or `remove`). Values are never given
    back; with `hosts` it stays outside the sandbox and is filled in on requests to these. Errors: ValueError, NotFound.
    """
    call: calls.Call | None = calls.secrets(operation, secret_name, secret_value, hosts)
    told = []
    async with _connected(client) as server:
        while call:
            told.append(await _ask(server, call))
            call = calls.following(call, told[-1])
    return calls.secrets_result(operation, secret_name, hosts, told)


async def discover_pipedream_integrations(
    operation: str = "check_auth", app_slug: str = "", *, client: Any = None
) -> Integration:
    """Whether an account of this app is connected, and where it can be. Errors: ValueError; MissingSecret where the
    operator has no account with Pipedream.
    """
    inputs = calls.pipedream(operation, app_slug)
    async with _connected(client) as server:
        return calls.integration(app_slug, (await server.run("pipedream", inputs, path="connect")).json())


@asynccontextmanager
async def _connected(client: Any) -> AsyncIterator[Any]:
    """A published client: the caller's own, or one for this call. Its errors become ours."""
    own = client is None
    client = _client() if own else client
    try:
        yield client
    except httpx.HTTPStatusError as error:
        raise errors.refused(error.response) from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise errors.unreachable(error, client.base_url) from error
    finally:
        if own:
            await client.close()


def _client() -> Any:
    try:
        from codewords_client import AsyncCodewordsClient  # noqa: PLC0415  # an extra, and slow to import
    except ImportError as error:
        raise calls.no_client() from error
    return AsyncCodewordsClient(**calls.settings())


async def _ask(client: Any, call: calls.Call) -> Any:
    answer = await client.client.request(
        call.method, client.base_url + call.path, headers={"Authorization": client.api_key}, **call.options()
    )
    if answer.status_code >= 300:
        raise errors.refused(answer)
    return answer.json()


async def _so_far(client: Any, request_id: str) -> list[dict[str, Any]]:
    """What there is of a log; the published client waits for its end."""
    headers = {"Authorization": client.api_key, "Accept": calls.NDJSON}
    answer = await client.client.get(
        f"{client.base_url}/logs/{request_id}", params={"follow": "false"}, headers=headers, timeout=60
    )
    if answer.status_code >= 300:
        raise errors.refused(answer)
    return [calls.log_line(json.loads(line)) for line in answer.text.splitlines() if line.strip()]
