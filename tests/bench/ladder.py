"""The ladder: what each layer adds to one and the same call, measured in one run on one machine.

A table (Markdown): p50 and p99 in ms, calls a second, CPU-ms a call over all processes of the rung, at 1 and 16
connections. The executor is also measured alone, by its own rpc: the parts must add up to the whole.
"""

import asyncio
import os

from cli.up import MODULES
from tests.bench.alone import executor_alone
from tests.bench.rig import (
    APP,
    BIN,
    Figure,
    answers,
    bench_environment,
    cpu_ms,
    deploy,
    free_port,
    measure,
    mesh,
    own_children,
    plain_envoy,
)


async def bare_rungs(calls: int) -> list[Figure]:
    """uvicorn, + Envoy, + edge and keys, + scheduler: no sandbox yet."""
    figures: list[Figure] = []
    workflow_port, envoy_port = free_port(), free_port()
    environment = await bench_environment()
    uvicorn = await asyncio.create_subprocess_exec(
        environment / "bin" / "python", APP, env={**os.environ, "PORT": str(workflow_port)}
    )
    envoy = await asyncio.create_subprocess_exec(
        BIN / "envoy", "--config-yaml", plain_envoy(envoy_port, workflow_port), "--disable-hot-restart",
        "--concurrency", "2", "-l", "error",
    )  # fmt: skip
    try:
        await answers(workflow_port)
        await answers(envoy_port)
        for count in (1, 16):
            url = f"http://127.0.0.1:{workflow_port}/"
            figures.append(await measure("the workflow's own uvicorn", url, count, calls, lambda: [uvicorn.pid]))
            url = f"http://127.0.0.1:{envoy_port}/"
            figures.append(await measure("+ Envoy", url, count, calls, lambda: [uvicorn.pid, envoy.pid]))
    finally:
        for process in (envoy, uvicorn):
            process.terminate()
            await process.wait()
    port = free_port()
    async with mesh(port, {**MODULES, "executor": "tests.bench.bare_executor"}) as (_, key):
        url, auth = await deploy(port, key), f"Authorization: Bearer {key}"
        for count in (1, 16):
            figures.append(await measure("+ edge and keys (direct way)", url, count, calls, own_children, auth))
            durable = "X-On-Timeout: continue"
            figures.append(await measure("+ scheduler (durable way)", url, count, calls, own_children, auth, durable))
    return figures


async def cold_rungs(calls: int) -> list[Figure]:
    """The whole mesh, a cold sandbox for each call; and the executor alone, by its own rpc."""
    figures: list[Figure] = []
    port = free_port()
    async with mesh(port, dict(MODULES)) as (settings, key):
        url, auth = await deploy(port, key), f"Authorization: Bearer {key}"
        for count in (1, 16):
            before = cpu_ms(own_children())
            alone = await executor_alone(settings, key, count, calls)
            spent = cpu_ms(own_children()) - before
            figures.append(Figure("the executor and a cold sandbox alone", count, cpu_ms=spent / calls, **alone))
            print(figures[-1].row(), flush=True)
            figures.append(await measure("direct way, cold sandbox: the whole", url, count, calls, own_children, auth))
            durable = "X-On-Timeout: continue"
            figures.append(
                await measure("durable way, cold sandbox: the whole", url, count, calls, own_children, auth, durable)
            )
    return figures


def sums(figures: list[Figure]) -> list[str]:
    """What the parts add up to, beside the whole that was measured."""
    lines = []
    for count in (1, 16):
        by_rung = {figure.rung: figure for figure in figures if figure.connections == count}
        alone = by_rung["the executor and a cold sandbox alone"].p50
        for way, front in (("direct", "+ edge and keys (direct way)"), ("durable", "+ scheduler (durable way)")):
            whole = by_rung[f"{way} way, cold sandbox: the whole"].p50
            parts = by_rung[front].p50 + alone
            lines.append(
                f"- {way} way, {count} connection(s): {by_rung[front].p50:.1f} + {alone:.1f} = {parts:.1f} ms; "
                f"the whole {whole:.1f} ms ({(parts / whole - 1) * 100:+.1f} %)"
            )
    return lines


async def ladder(calls: int, cold_calls: int) -> None:
    """Prints the rungs, and what they add up to."""
    figures = await bare_rungs(calls) + await cold_rungs(cold_calls)
    print("\n" + "\n".join(sums(figures)))
