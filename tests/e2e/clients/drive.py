"""Runs inside an environment with one version of codewords-client, unmodified; prints what each call gave, as JSON.

The address and the key come from the environment, as a user of the client would set them.
"""

import asyncio
import contextlib
import importlib.metadata
import inspect
import io
import json
import os
import sys
import tempfile

import httpx
from codewords_client import AsyncCodewordsClient, CodewordsClient

results: dict[str, object] = {"version": importlib.metadata.version("codewords-client")}


def failure(error: httpx.HTTPStatusError) -> dict[str, object]:
    return {"status": error.response.status_code, "body": error.response.json()}


def sync_calls() -> None:
    client = CodewordsClient()
    results["sync.run"] = client.run("probe", {"name": "Ada"}).json()
    results["sync.path"] = client.run("probe", {"a": 1}, path="echo/some/path").json()
    handle = client.run("probe", {"name": "Bob"}, in_background=True)
    record = handle.result(timeout_seconds=60).json()
    results["sync.background"] = record
    results["sync.details"] = handle.details()
    logged = client.run("probe", {"count": 50}, path="log", in_background=True)
    logged.result(timeout_seconds=60)
    results["sync.logs"] = [line for line in logged.logs()]
    for name, service, path in (("sync.unknown", "nothing-here", ""), ("sync.teapot", "probe", "teapot")):
        try:
            client.run(service, {}, path=path)
        except httpx.HTTPStatusError as error:
            results[name] = failure(error)
    with tempfile.NamedTemporaryFile(suffix=".txt") as file:
        file.write(b"some content")
        file.flush()
        uri = client.upload_file(file.name, "näme & co.txt")
    results["sync.upload"] = httpx.get(uri).text
    if "method" in inspect.signature(client.run).parameters:
        results["sync.get"] = client.run("probe", path="echo/read", method="GET").json()
    client.close()


async def async_calls() -> None:
    async with AsyncCodewordsClient() as client:
        results["async.run"] = (await client.run("probe", {"name": "Ada"})).json()
        results["async.path"] = (await client.run("probe", {"a": 1}, path="echo/some/path")).json()
        handle = await client.run("probe", {"name": "Bob"}, in_background=True)
        results["async.background"] = (await handle.result(timeout_seconds=60)).json()
        results["async.details"] = await handle.details()
        logged = await client.run("probe", {"count": 50}, path="log", in_background=True)
        results["async.logs"] = [line async for line in logged.logs()]
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            answer = await client.run("probe", {}, path="slow_log", print_logs=True)
        results["async.print_logs"] = {"answer": answer.json(), "printed": printed.getvalue().splitlines()}
        started = asyncio.get_running_loop().time()
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                await client.run("nothing-here", {}, print_logs=True)
        except httpx.HTTPStatusError as error:
            results["async.print_logs_unknown"] = failure(error)
        results["async.print_logs_unknown_seconds"] = asyncio.get_running_loop().time() - started
        begun = await client.start_service("probe", {"name": "Eve"})
        results["async.start_service"] = (await begun.result(timeout_seconds=60)).json()
        sync = CodewordsClient()
        sync_begun = sync.start_service("probe", {"name": "Sync"})
        results["sync.start_service"] = (await asyncio.to_thread(sync_begun.result, 60)).json()
        uri = await client.upload_file_content("notes.bin", os.urandom(1 << 20))
        results["async.upload_size"] = len(httpx.get(uri).content)
        if "method" in inspect.signature(client.run).parameters:
            results["async.get"] = (await client.run("probe", path="echo/read", method="GET")).json()
        try:
            await client.run("probe", {}, path="raise")
        except httpx.HTTPStatusError as error:
            results["async.raise"] = {"status": error.response.status_code}


sync_calls()
asyncio.run(async_calls())
json.dump(results, sys.stdout)
