"""A fresh sandbox for each call: what it costs, beside the app's own uvicorn and the yardstick, against the goals."""

import asyncio
import json
import os
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path

import httpx

from cli.envoy import EnvoySettings, render
from cli.up import MODULES
from tests.bench.figures import HEADER, Figure
from tests.bench.rig import (
    APP,
    BIN,
    ROOT,
    answers,
    bench_environment,
    client,
    deploy,
    free_port,
    measure,
    mesh,
    own_children,
)

NUMPY = APP.parent / "numpy_app.py"
LOGGER = APP.parent / "logger.py"
IDLE = 10
IDLE_SECONDS = 75  # the slots that wait are let go after a minute


async def fresh(calls: int) -> None:
    """Prints all rungs, then each goal with its figure."""
    print(HEADER, flush=True)
    goals: list[
        tuple[str, float, float, str]
    ] = []  # what, figure, goal, unit; more is better where the unit ends in /s
    plain = await uvicorn_rungs(calls)
    bare = await yardstick_rungs(calls)
    figures = await mesh_rungs(calls, goals)
    demand = await on_demand_rungs(calls)
    base, base16, bare1, bare16 = plain[0], plain[1], bare[0], bare[1]
    run, run16, rate, instance, instance16 = (
        figures[name] for name in ("run", "run16", "rate", "instance", "instance16")
    )
    goals += [
        ("`run`, back to back, adds, p50", run.done.p50 - base.done.p50, 10, "ms"),
        ("`run`, back to back, adds, p99", run.done.p99 - base.done.p99, 30, "ms"),
        ("`run`, 20/s open loop, adds, p50", rate.done.p50 - base.done.p50, 10, "ms"),
        ("`run`, 20/s open loop, adds, p99", rate.done.p99 - base.done.p99, 30, "ms"),
        ("request to first byte of user code, 20/s", rate.done.inside, 5, "ms"),
        ("forked on demand, adds, p50", demand.done.p50 - base.done.p50, 25, "ms"),
        ("`instance` adds, p50", instance.done.p50 - base.done.p50, 5, "ms"),
        ("`run`, 16 connections", run16.done.per_second, 100, "/s"),
        ("`instance`, 16 connections", instance16.done.per_second, 400, "/s"),
        ("the yardstick adds, p50", bare1.done.p50 - base.done.p50, 1, "ms"),
        ("`run` adds, × the yardstick", (run.done.p50 - base.done.p50) / (bare1.done.p50 - base.done.p50), 8, "×"),
        (
            "`instance` adds, × the yardstick",
            (instance.done.p50 - base.done.p50) / (bare1.done.p50 - base.done.p50),
            4,
            "×",
        ),
        (
            "`instance` throughput, share of the yardstick's",
            instance16.done.per_second / bare16.done.per_second * 100,
            30,
            "% /s",
        ),
        ("plain uvicorn, 16 connections", base16.done.per_second, 0, "/s"),
    ]
    print("\n| what | figure | goal | met |\n|---|---|---|---|")
    for what, figure, goal, unit in goals:
        met = figure >= goal if unit.endswith("/s") else figure <= goal
        print(f"| {what} | {figure:.1f} {unit} | {goal:g} | {'yes' if met else 'no'} |")


async def uvicorn_rungs(calls: int) -> list[Figure]:
    """The app by hand."""
    environment, port = await bench_environment(), free_port()
    process = await asyncio.create_subprocess_exec(
        environment / "bin" / "python", APP, env={**os.environ, "PORT": str(port)}
    )
    try:
        await answers(port)
        url = f"http://127.0.0.1:{port}/"
        return [await measure("the app's own uvicorn", url, count, calls, own_children) for count in (1, 16)]
    finally:
        process.terminate()
        await process.wait()


async def yardstick_rungs(calls: int) -> list[Figure]:
    """Envoy as we set it up, and one bare grpc.aio handler."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        config = Path(directory, "envoy.yaml")
        config.write_text(
            render(
                EnvoySettings(
                    run_dir=Path(directory),
                    host="127.0.0.1",
                    port=port,
                    cors_origins=(),
                    tls_cert="",
                    tls_key="",
                    otlp_endpoint="",
                )
            )
        )
        server = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.bench.bare_edge", f"unix:{directory}/edge.sock", cwd=ROOT
        )
        envoy = await asyncio.create_subprocess_exec(
            BIN / "envoy", "-c", config, "--disable-hot-restart", "--concurrency", "2", "-l", "error"
        )
        try:
            await answers(port)
            await asyncio.sleep(2)  # the handler's own start, and Envoy's first look at it
            url = f"http://127.0.0.1:{port}/run/any"
            return [
                await measure("yardstick: Envoy + one bare grpc.aio handler", url, count, calls, own_children)
                for count in (1, 16)
            ]
        finally:
            for process in (envoy, server):
                process.terminate()
                await process.wait()


async def mesh_rungs(calls: int, goals: list[tuple[str, float, float, str]]) -> dict[str, Figure]:
    """The whole mesh with everything on."""
    port = free_port()
    figures = {}
    async with mesh(port, dict(MODULES)) as (_, key):
        auth = f"Authorization: Bearer {key}"
        run, instance = await deploy(port, key, "run"), await deploy(port, key, "instance")
        figures["run"] = await measure("`run`, back to back", run, 1, calls, own_children, auth)
        before = await sandboxes(port)
        figures["rate"] = await measure("`run`, 20/s open loop", run, 1, calls, own_children, auth, rate=20)
        after = await sandboxes(port)
        waited = after.get("waiting", 0) - before.get("waiting", 0)
        goals.append(
            ("served from a waiting slot, 20/s", waited / (sum(after.values()) - sum(before.values())) * 100, 0, "%")
        )
        figures["run16"] = await measure("`run`", run, 16, calls, own_children, auth)
        figures["instance"] = await measure("`instance`", instance, 1, calls, own_children, auth)
        figures["instance16"] = await measure("`instance`", instance, 16, calls, own_children, auth)
        numpy = await deploy(port, key, "run", name="bench-numpy", app=NUMPY)
        figures["numpy"] = await measure("`run`, with numpy and pandas", numpy, 1, calls // 4, own_children, auth)
        cold = await deploy(port, key, "cold")
        await measure(
            "`cold`: a new process in bubblewrap for each call", cold, 1, max(calls // 50, 10), own_children, auth
        )
        goals.append(("redeploy to first answer", await redeploy(port, key), 1500, "ms"))
        goals.append(("log line to client, p95", await log_delay(port, key), 50, "ms"))
        goals.append((f"an idle workflow's memory (PSS, of {IDLE})", await idle_memory(port, key), 15, "MiB"))
    return figures


async def on_demand_rungs(calls: int) -> Figure:
    """No slot waits."""
    port = free_port()
    async with mesh(port, {**MODULES, "executor": "tests.bench.on_demand"}) as (_, key):
        url = await deploy(port, key, "run")
        return await measure("`run`, forked on demand", url, 1, calls, own_children, f"Authorization: Bearer {key}")


async def sandboxes(port: int) -> dict[str, float]:
    """How many of each kind runs were given."""
    async with httpx.AsyncClient(trust_env=False) as http:
        text = (await http.get(f"http://127.0.0.1:{port}/metrics")).text
    found = re.findall(r'^runmesh_sandboxes_total\{.*how="(\w+)".*\} (\S+)', text, re.MULTILINE)
    return {how: float(count) for how, count in found}


async def redeploy(port: int, key: str) -> float:
    """ms from sending a new version, its dependencies cached, to the end of its first answer; the median of 5."""
    taken = []
    for number in range(5):
        code = APP.read_text().replace("Hello {", f"Hello {number} {{")
        started = time.monotonic()
        async with client(port, key) as http:
            (await http.post("/deploy", json={"name": "bench-again", "code": code})).raise_for_status()
            (await http.post("/run/bench-again", json={"name": "Ada"})).raise_for_status()
        taken.append((time.monotonic() - started) * 1000)
    return statistics.median(taken)


async def log_delay(port: int, key: str) -> float:
    """ms from a workflow's print to the line at a client of /logs, p95."""
    await deploy(port, key, "run", name="bench-logger", app=LOGGER)
    delays = []
    async with client(port, key) as http:
        (await http.post("/run/bench-logger", json={"lines": 1})).raise_for_status()
        request = (await http.post("/run_async/bench-logger", json={"lines": 100})).json()["request_id"]
        async with http.stream("GET", f"/logs/{request}", headers={"Accept": "application/x-ndjson"}) as log:
            async for line in log.aiter_lines():
                if '"at ' in line:
                    printed = float(json.loads(line)["message"].split()[1])
                    delays.append((time.monotonic() - printed) * 1000)
    assert len(delays) == 100, delays
    return sorted(delays)[94]


async def idle_memory(port: int, key: str) -> float:
    """MiB of PSS that a workflow's template takes beside its base, of those that stand idle beside each other."""
    await asyncio.sleep(IDLE_SECONDS)
    before = template_memory()
    for number in range(IDLE):
        url = await deploy(port, key, "run", name=f"bench-idle-{number}")
        async with client(port, key) as http:
            (await http.post(url, json={"name": "Ada"})).raise_for_status()
    await asyncio.sleep(IDLE_SECONDS)
    return (template_memory() - before) / IDLE / 1024


def template_memory() -> float:
    """KiB of PSS of all processes below us that run the shim."""
    total = 0
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if b"/runmesh/shim.py" in (path / "cmdline").read_bytes():
                rollup = (path / "smaps_rollup").read_text()
                total += int(rollup.split("\nPss:")[1].split()[0])
        except (OSError, IndexError):
            continue
    return total
