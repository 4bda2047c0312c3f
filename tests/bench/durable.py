"""What it costs to promise: accepting runs durably, starting them, keeping many, and finding them again."""

import asyncio
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from datetime import datetime
from pathlib import Path

import httpx

from cli.settings import Settings
from cli.up import MODULES
from kit.db import open_db
from migrations.__main__ import upgrade
from scheduler.settings import Settings as SchedulerSettings
from scheduler.store.database import open_store
from tests.bench.curves import store
from tests.bench.figures import Calls
from tests.bench.rig import ROOT, client, deploy, free_port, load, mesh
from tests.fakes.scheduling import VERSION, WORKFLOW
from tests.integration.service_process import service_process
from tests.postgres import postgres_server
from tests.servers import nats_server

QUEUED = 100_000
HISTORY = 1_000_000
PAGES = 200


async def durable(calls: int) -> None:
    """Prints one table for each."""
    print(
        "\n| accepted by | durable to | at once | p50 ms | p99 ms | accepts/s | errors |\n|---|---|---|---|---|---|---|"
    )
    for engine, durability in (("SQLite, FULL", "the machine's disk"), ("PostgreSQL", "the machine's disk")):
        async with scheduler_alone(engine) as (settings, version, _):
            for at_once in (1, 64):
                found = await submitted(settings, version, at_once, calls * 5 if at_once > 1 else calls)
                print(f"| `Submit` alone, {engine} | {durability} | {at_once} | {row(found)}", flush=True)
    await by_http(calls)
    print("\n| queued runs | memory of the scheduler, PSS MiB | bytes each | database MiB |\n|---|---|---|---|")
    await many_queued()
    print("\n| stored runs | a page of history, p50 ms | p99 ms |\n|---|---|---|")
    await long_history()


def row(found: Calls) -> str:
    return f"{found.p50:.1f} | {found.p99:.1f} | {found.per_second:.0f} | {found.errors or ''} |"


async def by_http(calls: int) -> None:
    """Through Envoy and edge, with and without runs that are under way beside; then from acceptance to start."""
    os.environ["RUNMESH_ORGANIZATION_QUEUE"] = "1000000"
    port = free_port()
    async with mesh(port, dict(MODULES)) as (settings, key):
        auth = (f"Authorization: Bearer {key}",)
        url = await deploy(port, key, "run")
        await load(url, 1, 20, auth)
        accepting = url.replace("/run/", "/run_async/")
        for at_once in (1, 16):
            found = await load(accepting, at_once, calls if at_once > 1 else calls // 4, auth)
            where = "`POST /run_async`, the runs beside"
            print(f"| {where} | the machine's disk | {at_once} | {row(found)}", flush=True)
            await drained(settings)
        for _ in range(3):
            await load(accepting, 1, 50, auth, rate=5)
            await drained(settings)
        waits = sorted(waited(settings, 150))
        print(f"\naccepted to started on an idle mesh: p50 {waits[75]:.1f} ms, p99 {waits[148]:.1f} ms", flush=True)
    del os.environ["RUNMESH_ORGANIZATION_QUEUE"]


async def drained(settings: Settings) -> None:
    """Nothing waits or runs any more."""
    while True:
        with sqlite3.connect(settings.home / "data" / "scheduler.db", timeout=30) as database:
            if not database.execute("select count(*) from runs where status < 4").fetchone()[0]:
                return
        await asyncio.sleep(0.5)


def waited(settings: Settings, runs: int) -> list[float]:
    """ms from the acceptance of the newest runs to their start."""
    with sqlite3.connect(settings.home / "data" / "scheduler.db", timeout=30) as database:
        query = "select created_at, started_at from runs order by created_at desc limit ?"
        rows = database.execute(query, (runs,)).fetchall()
    moments = ((datetime.fromisoformat(created), datetime.fromisoformat(started)) for created, started in rows)
    return [(started - created).total_seconds() * 1000 for created, started in moments]


@asynccontextmanager
async def scheduler_alone(engine: str) -> AsyncIterator[tuple[SchedulerSettings, str, int]]:
    """A scheduler without an executor, so that it only accepts; the id of a version that is there, and its pid."""
    home = Path(tempfile.mkdtemp(prefix="bench-", dir="/var/tmp"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        shared = {"RUNMESH_HOME": str(home), "RUNMESH_NATS_URL": stack.enter_context(nats_server())}
        shared |= {"RUNMESH_LIBRARY": str(home / "none"), "RUNMESH_ORGANIZATION_QUEUE": "10000000"}
        settings = SchedulerSettings(home=home)
        if engine == "PostgreSQL":
            server = await asyncio.to_thread(lambda: stack.enter_context(postgres_server(durable=True)))
            shared["RUNMESH_DATABASE_URL"] = server.url(await asyncio.to_thread(server.migrated))
            settings = SchedulerSettings(home=home, database=shared["RUNMESH_DATABASE_URL"])
        else:
            await asyncio.to_thread(upgrade, "scheduler", settings.database_url("scheduler"))
        async with open_db(settings.database_url("scheduler")) as db, open_store(db) as rows:
            await rows.write(lambda tx: tx.insert_workflow(WORKFLOW))
            await rows.write(lambda tx: tx.insert_version(VERSION))
        process = await asyncio.to_thread(lambda: stack.enter_context(service_process("scheduler", **shared)))
        yield settings, VERSION.id, process.pid


async def submitted(settings: SchedulerSettings, version: str, at_once: int, calls: int, callers: int = 1) -> Calls:
    """By a process of its own, after a short warm-up."""
    address = settings.address("scheduler")
    argv = ["-m", "tests.bench.submit_load", address, version, "-c", str(at_once), "--callers", str(callers)]
    for count in (100, calls):
        process = await asyncio.create_subprocess_exec(
            sys.executable, *argv, "-n", str(count), cwd=ROOT, stdout=subprocess.PIPE
        )
        out, _ = await process.communicate()
    return Calls(**json.loads(out))


async def many_queued() -> None:
    """Of a hundred organizations."""
    async with scheduler_alone("SQLite, FULL") as (settings, version, pid):
        await submitted(settings, version, 8, 100)
        before = pss(pid)
        await submitted(settings, version, 64, QUEUED, callers=100)
        await asyncio.sleep(5)
        grown, size = pss(pid), (settings.home / "data" / "scheduler.db").stat().st_size
        each = (grown - before) * 1024 * 1024 / QUEUED
        print(
            f"| {QUEUED} | {before:.0f} before, {grown:.0f} after | {each:.0f} | {size / 1024 / 1024:.0f} |", flush=True
        )


async def long_history() -> None:
    """Pages of fifty, each behind a run somewhere in the whole."""
    port = free_port()
    async with mesh(port, dict(MODULES)) as (settings, key):
        url = await deploy(port, key, "run")
        await load(url, 1, 20, (f"Authorization: Bearer {key}",))
        await asyncio.sleep(1)
        store(settings, HISTORY)
        spread(settings)
        async with client(port, key) as http:
            taken = sorted([await paged(http, after) for after in anywhere(settings)])
        print(f"| {HISTORY} | {taken[PAGES // 2]:.1f} | {taken[int(PAGES * 0.99)]:.1f} |", flush=True)


def spread(settings: Settings) -> None:
    """The copies are a second apart."""
    with sqlite3.connect(settings.home / "data" / "scheduler.db", timeout=60) as database:
        earlier = "strftime('%Y-%m-%d %H:%M:%f', created_at, '-' || rowid || ' seconds')"
        database.execute(f"update runs set created_at = {earlier} || '000'")


def anywhere(settings: Settings) -> list[str]:
    """Ids of runs, all over the history."""
    with sqlite3.connect(settings.home / "data" / "scheduler.db", timeout=60) as database:
        step = HISTORY // PAGES
        rows = database.execute("select id from runs where rowid % ? = 1 limit ?", (step, PAGES)).fetchall()
    return [found for (found,) in rows]


async def paged(http: httpx.AsyncClient, after: str) -> float:
    """ms."""
    started = time.monotonic()
    answer = await http.get("/requests", params={"limit": 50, "after": after})
    taken = (time.monotonic() - started) * 1000
    answer.raise_for_status()
    return taken


def pss(pid: int) -> float:
    """MiB."""
    return int(Path(f"/proc/{pid}/smaps_rollup").read_text().split("\nPss:")[1].split()[0]) / 1024
