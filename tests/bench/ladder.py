"""The ladder: what each layer adds to one and the same call, measured in one run on one machine.

A table (Markdown): p50 and p99 in ms, calls a second, CPU-ms a call over all processes of the rung, at 1 and 16
connections. The executor is also measured alone, by its own rpc: the parts must add up to the whole. Those rungs take
minutes, over which a machine may slow down: they take turns, so that it does so for all alike.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from functools import partial

from cli.up import MODULES
from tests.bench.alone import executor_alone
from tests.bench.figures import Calls, Figure
from tests.bench.rig import (
    APP,
    BIN,
    answers,
    bench_environment,
    cpu_ms,
    deploy,
    free_port,
    load,
    measure,
    mesh,
    own_children,
    plain_envoy,
)

ROUNDS = 5
ALONE, WHOLE = "the executor and a cold sandbox alone", "{} way, cold sandbox: the whole"


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
    """A cold sandbox for each call: through the whole mesh, and the executor alone; a few calls of each in turn."""
    port, figures = free_port(), []
    async with mesh(port, dict(MODULES)) as (settings, key):
        url, auth, durable = await deploy(port, key), f"Authorization: Bearer {key}", "X-On-Timeout: continue"
        for count in (1, 16):
            rungs: dict[str, Callable[[int], Awaitable[Calls]]] = {
                ALONE: partial(executor_alone, settings, key, count),
                WHOLE.format("direct"): partial(load, url, count, headers=(auth,)),
                WHOLE.format("durable"): partial(load, url, count, headers=(auth, durable)),
            }
            for call in rungs.values():
                await call(count)  # uncounted
            figures += await in_turn(rungs, count, calls)
    return figures


async def in_turn(rungs: dict[str, Callable[[int], Awaitable[Calls]]], count: int, calls: int) -> list[Figure]:
    """`calls` of each rung in rounds."""
    figures: dict[str, Figure] = {}
    for _ in range(ROUNDS):
        for rung, call in rungs.items():
            before = cpu_ms(own_children())
            done = await call(calls // ROUNDS)
            spent, so_far = cpu_ms(own_children()) - before, figures.get(rung)
            if so_far is not None:
                done, spent = so_far.done + done, so_far.cpu_ms + spent
            figures[rung] = Figure(rung, count, done, spent)
    for figure in figures.values():
        print(figure.row(), flush=True)
    return list(figures.values())


def sums(figures: list[Figure]) -> list[str]:
    """What the parts add up to, beside the whole that was measured."""
    lines = []
    for count in (1, 16):
        by_rung = {figure.rung: figure for figure in figures if figure.connections == count}
        alone = by_rung[ALONE].done.p50
        for way, front in (("direct", "+ edge and keys (direct way)"), ("durable", "+ scheduler (durable way)")):
            whole = by_rung[WHOLE.format(way)].done.p50
            parts = by_rung[front].done.p50 + alone
            lines.append(
                f"- {way} way, {count} connection(s): {by_rung[front].done.p50:.1f} + {alone:.1f} = {parts:.1f} ms; "
                f"the whole {whole:.1f} ms ({(parts / whole - 1) * 100:+.1f} %)"
            )
    return lines


async def ladder(calls: int, cold_calls: int) -> None:
    """Prints the rungs, and what they add up to."""
    figures = await bare_rungs(calls) + await cold_rungs(cold_calls)
    print("\n" + "\n".join(sums(figures)))
