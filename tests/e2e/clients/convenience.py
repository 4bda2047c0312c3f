"""`import runmesh`, as its users do, by both its ways; prints what each call gave, as JSON. argv: the way; what to do."""

import asyncio
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

import runmesh
import runmesh.aio

CODE = (Path(__file__).parents[3] / "cli" / "starters" / "secret.py").read_text()


class Sync:
    """The functions for ordinary code, awaited as if they were the others."""

    def __getattr__(self, name):
        async def call(*args, **options):
            return getattr(runmesh, name)(*args, **options)

        return call


async def error_of(awaitable):
    """What an error tells."""
    try:
        await awaitable
    except runmesh.RunmeshError as error:
        return {"type": type(error).__name__, "status": error.status, "code": error.code, "detail": error.detail,
                "request_id": error.request_id}
    except ValueError as error:
        return {"type": "ValueError", "detail": str(error)}
    return None


async def tour(api, name):
    """Everything, against a mesh."""
    told = {}
    secret = "SIGNING_KEY"
    await api.manage_secrets("set", secret, "hush")
    told["listed"] = [one.name for one in (await api.manage_secrets("list")).secrets]
    told["there"] = (await api.manage_secrets("check", secret)).exists
    checked = await api.validate_workflow(CODE)
    told["valid"] = [checked.all_passed, [check.check for check in checked.report]]
    bad = await api.validate_workflow("import nothing_of_this_name\n" + CODE)
    told["invalid"] = [bad.all_passed, asdict(bad.report[-1])]
    made = await api.deploy_workflow(CODE, name)
    told["deployed"] = [made.service_id, made.version, made.url]
    told["draft"] = (await api.deploy_workflow(CODE, name, publish=False)).version
    told["refused"] = await error_of(api.deploy_workflow("def (", name))
    request_id = await start(name, {"text": "a"})
    output = await api.get_workflow_output(request_id, timeout=60)
    told["output"] = [output.succeeded, output.status, output.response_status, output.output]
    failed = await api.get_workflow_output(await start(name, {"text": 1}), timeout=60)
    told["failed"] = [failed.succeeded, failed.response_status]
    told["logs"] = await api.get_workflow_logs(request_id)
    told["logs_so_far"] = await api.get_workflow_logs(request_id, wait=False)
    unknown = "run_0000000000000000000000000a"
    told["unknown"] = [await error_of(call(unknown)) for call in (api.get_workflow_logs, api.get_workflow_output)]
    told["unknown_so_far"] = await error_of(api.get_workflow_logs(unknown, wait=False))
    await api.manage_secrets("delete", secret)
    told["gone"] = (await api.manage_secrets("check", secret)).exists
    return told


async def start(name, inputs):
    import codewords_client

    async with codewords_client.AsyncCodewordsClient() as client:
        return (await client.run(name, inputs, in_background=True)).request_id


async def errors(api):
    """What is wrong with settings, arguments and answers, against a server that answers as the test wants."""
    told = {
        "connected": asdict(await api.discover_pipedream_integrations("check_auth", "slack")),
        "not_connected": asdict(await api.discover_pipedream_integrations(app_slug="gmail")),
        "no_account": await error_of(api.discover_pipedream_integrations(app_slug="unset")),
        "odd": await error_of(api.discover_pipedream_integrations(app_slug="odd")),
        "operation": await error_of(api.discover_pipedream_integrations("connect", "slack")),
        "no_app": await error_of(api.discover_pipedream_integrations()),
        "pages": [one.name for one in (await api.manage_secrets("list")).secrets],
        "secret_operation": await error_of(api.manage_secrets("get", "A")),
        "secret_name": await error_of(api.manage_secrets("set", secret_value="x")),
        "secret_value": await error_of(api.manage_secrets("set", "A")),
        "limited": await error_of(api.deploy_workflow("code", "limited")),
        "stranger": await error_of(api.deploy_workflow("code", "stranger")),
        "pending": await error_of(api.get_workflow_output("run_pending", timeout=0.5)),
    }
    os.environ["CODEWORDS_RUNTIME_URI"] = "http://127.0.0.1:1"
    told["nobody"] = await error_of(api.validate_workflow("code"))
    del os.environ["CODEWORDS_RUNTIME_URI"]
    os.environ.pop("RUNTIME_URI", None)
    told["unset"] = await error_of(api.validate_workflow("code"))
    return told


def main():
    way, what, *rest = sys.argv[1:]
    api = {"sync": Sync(), "async": runmesh.aio}[way]
    sys.stdout.write(json.dumps(asyncio.run({"tour": tour, "errors": errors}[what](api, *rest))))


main()
