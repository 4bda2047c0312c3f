"""How cost grows: with workflows, with concurrent runs, with stored runs."""

import asyncio
import sqlite3
import time
from pathlib import Path

import httpx

from cli.settings import Settings
from cli.up import MODULES
from tests.bench.rig import client, deploy, free_port, load, mesh, own_children

WORKFLOWS = (1, 10, 100)
AT_ONCE = (1, 2, 8, 32)
STORED = (1_000, 100_000)


async def curves(calls: int) -> None:
    """Prints one table for each."""
    print("\n| workflows deployed and called | p50 ms | p99 ms | memory of the mesh, PSS MiB | of the services alone |")
    print("|---|---|---|---|---|", flush=True)
    await by_workflows(calls)
    print("\n| runs at once | p50 ms | p99 ms | runs/s | errors |\n|---|---|---|---|---|", flush=True)
    await by_concurrency(calls)
    print("\n| stored runs | run p50 ms | p99 ms | a page of history ms | a record ms | services PSS MiB |")
    print("|---|---|---|---|---|---|", flush=True)
    await by_history(calls)


async def by_workflows(calls: int) -> None:
    port = free_port()
    async with mesh(port, dict(MODULES)) as (_, key):
        auth = (f"Authorization: Bearer {key}",)
        urls: list[str] = []
        for wanted in WORKFLOWS:
            while len(urls) < wanted:
                urls.append(await deploy(port, key, "run", name=f"bench-{len(urls)}"))
                await load(urls[-1], 1, 2, auth)
            await load(urls[0], 1, 20, auth)
            figure = await load(urls[0], 1, calls, auth)
            total, services = memory()
            print(f"| {wanted} | {figure.p50:.1f} | {figure.p99:.1f} | {total:.0f} | {services:.0f} |", flush=True)


async def by_concurrency(calls: int) -> None:
    port = free_port()
    async with mesh(port, dict(MODULES)) as (_, key):
        auth = (f"Authorization: Bearer {key}",)
        url = await deploy(port, key, "run")
        for count in AT_ONCE:
            await load(url, count, count * 3, auth)
            figure = await load(url, count, max(calls, count * 10), auth)
            row = f"| {count} | {figure.p50:.1f} | {figure.p99:.1f} | {figure.per_second:.0f} | {figure.errors or ''} |"
            print(row, flush=True)


async def by_history(calls: int) -> None:
    """The stored ones are copies of a real one, written past the services."""
    port = free_port()
    async with mesh(port, dict(MODULES)) as (settings, key):
        auth = (f"Authorization: Bearer {key}",)
        url = await deploy(port, key, "run")
        for wanted in STORED:
            await load(url, 1, 20, auth)
            await asyncio.sleep(1)
            store(settings, wanted)
            figure = await load(url, 1, calls, auth)
            async with client(port, key) as http:
                page = await timed(http, "/requests?limit=50")
                newest = (await http.get("/requests?limit=1")).json()["items"][0]["id"]
                record = await timed(http, f"/request/{newest}")
            shown = (figure.p50, figure.p99, page, record)
            print(f"| {wanted} | {' | '.join(f'{one:.1f}' for one in shown)} | {memory()[1]:.0f} |", flush=True)


def store(settings: Settings, wanted: int) -> None:
    """Copies of the newest run, until there are that many."""
    with sqlite3.connect(settings.home / "data" / "scheduler.db", timeout=30) as database:
        columns = [row[1] for row in database.execute("pragma table_info(runs)") if row[1] != "id"]
        (there,) = database.execute("select count(*) from runs").fetchone()
        names = ", ".join(columns)
        database.execute(
            f"insert into runs (id, {names}) "  # our own names
            "with recursive n(i) as (select 1 union all select i + 1 from n where i < ?) "
            f"select 'run_' || lower(hex(randomblob(13))), {names} "
            "from n, (select * from runs order by id desc limit 1)",
            (wanted - there,),
        )


async def timed(http: httpx.AsyncClient, path: str) -> float:
    """ms, the median of 20."""
    taken = []
    for _ in range(20):
        started = time.monotonic()
        (await http.get(path)).raise_for_status()
        taken.append((time.monotonic() - started) * 1000)
    return sorted(taken)[10]


def memory() -> tuple[float, float]:
    """MiB of PSS: of the whole mesh; of it without templates and slots."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    wanted = set(own_children())
    while grown := {pid for pid, parent in parents.items() if parent in wanted} - wanted:
        wanted |= grown
    total, sandboxes = 0, 0
    for pid in wanted:
        try:
            pss = int(Path(f"/proc/{pid}/smaps_rollup").read_text().split("\nPss:")[1].split()[0])
            total += pss
            if b"/runmesh/shim.py" in Path(f"/proc/{pid}/cmdline").read_bytes():
                sandboxes += pss
        except (OSError, IndexError):
            continue
    return total / 1024, (total - sandboxes) / 1024
