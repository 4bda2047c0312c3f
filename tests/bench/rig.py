"""What every benchmark needs: a mesh of its own, the app deployed in it, calls from a process of their own, figures."""

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from cli.settings import Settings
from cli.supervise import Supervisor
from cli.up import start
from kit.settings import load as load_settings
from tests.bench.figures import Calls, Figure

ROOT = Path(__file__).parent.parent.parent
BIN = Path(sys.executable).parent
APP = Path(__file__).parent / "apps" / "app.py"
FILTERS = "type.googleapis.com/envoy.extensions.filters"
TICKS = os.sysconf("SC_CLK_TCK")
OPTIONS = '\n# [tool.runmesh]\n# isolation = "{}"\n# ///\n'


def cpu_ms(roots: list[int]) -> float:
    """CPU time of these processes, their descendants, and those that they have reaped."""
    parents: dict[int, int] = {}
    times: dict[int, float] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        pid = int(path.parent.name)
        parents[pid] = int(fields[1])
        times[pid] = sum(int(value) for value in fields[11:15]) * 1000 / TICKS
    wanted = set(roots)
    while grown := {pid for pid, parent in parents.items() if parent in wanted} - wanted:
        wanted |= grown
    return sum(times.get(pid, 0.0) for pid in wanted)


async def measure(
    rung: str,
    url: str,
    connections: int,
    calls: int,
    roots: Callable[[], list[int]],
    *headers: str,
    rate: float = 0,
) -> Figure:
    """A short warm-up, then the counted calls from a process of their own; with a `rate`, in an open loop."""
    await load(url, connections, min(calls // 10 + connections, 50), headers)
    before = cpu_ms(roots())
    done = await load(url, connections, calls, headers, rate)
    figure = Figure(rung, connections, done, cpu_ms(roots()) - before)
    print(figure.row(), flush=True)
    return figure


async def load(url: str, connections: int, calls: int, headers: tuple[str, ...], rate: float = 0) -> Calls:
    """Uncounted."""
    argv = ["-m", "tests.bench.load", url, "-c", str(connections), "-n", str(calls), "-r", str(rate)]
    for header in headers:
        argv += ["-H", header]
    process = await asyncio.create_subprocess_exec(sys.executable, *argv, cwd=ROOT, stdout=subprocess.PIPE)
    out, _ = await process.communicate()
    return Calls(**json.loads(out))


@asynccontextmanager
async def mesh(port: int, modules: dict[str, str]) -> AsyncIterator[tuple[Settings, str]]:
    """A mesh of these modules in a directory of its own: its settings and its admin key."""
    home = Path(tempfile.mkdtemp(prefix="bench-", dir="/var/tmp"))  # a directory of our own in it
    environ = {**os.environ, "RUNMESH_HOME": str(home), "RUNMESH_PORT": str(port), "RUNMESH_LOG_LEVEL": "WARNING"}
    # What is counted is the runtime's pace, not a key's.
    environ |= {"RUNMESH_KEY_RATE_PER_SECOND": "1000000", "RUNMESH_FLOOD_PER_SECOND": "1000000"}
    settings = load_settings(Settings, environ)
    supervisor = Supervisor(quiet=True)
    try:
        await start(settings, supervisor, environ, modules)
        yield settings, (home / "admin.key").read_text().strip()
    finally:
        await supervisor.stop_all()
        shutil.rmtree(home, ignore_errors=True)


async def deploy(port: int, key: str, isolation: str = "cold", *, name: str = "", app: Path = APP) -> str:
    """The app, by default under a name that says how it is run: its URL."""
    name, code = name or f"bench-{isolation}", app.read_text().replace("\n# ///\n", OPTIONS.format(isolation), 1)
    async with client(port, key) as http:
        answer = await http.post("/deploy", json={"name": name, "code": code})
        answer.raise_for_status()
    return f"http://127.0.0.1:{port}/run/{name}"


def client(port: int, key: str) -> httpx.AsyncClient:
    """Of the mesh's public API."""
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=120, trust_env=False, headers=headers)


def own_children() -> list[int]:
    """Our children are the mesh; the load client is gone, or not yet there, whenever this is asked."""
    return [int(pid) for pid in Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()]


async def bench_environment() -> Path:
    """An environment with what the app declares, as a user would run it by hand."""
    home = ROOT / ".venv" / "bench"
    if not (home / "ready").exists():
        commands: tuple[list[str | Path], ...] = (
            ["venv", "--quiet", "--clear", "--python", sys.executable, home],
            ["pip", "install", "--quiet", "--compile-bytecode", "--python", home / "bin" / "python", "-r", APP],
        )
        for argv in commands:
            process = await asyncio.create_subprocess_exec(BIN / "uv", *argv)
            if await process.wait():
                raise RuntimeError("uv could not make the environment of the bench app")
        (home / "ready").touch()
    return home


def plain_envoy(port: int, upstream: int) -> str:
    """Envoy with one route and nothing else."""
    manager = {
        "@type": f"{FILTERS}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "route_config": {
            "virtual_hosts": [
                {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "app"}}]}
            ]
        },
        "http_filters": [
            {
                "name": "router",
                "typed_config": {"@type": f"{FILTERS}.http.router.v3.Router"},
            }
        ],
    }
    app = {
        "name": "app",
        "type": "STATIC",
        "load_assignment": {
            "cluster_name": "app",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(upstream)}}]}],
        },
    }
    listener = {
        "address": _address(port),
        "filter_chains": [{"filters": [{"name": "hcm", "typed_config": manager}]}],
    }
    return json.dumps({"static_resources": {"listeners": [listener], "clusters": [app]}})


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


async def answers(port: int) -> None:
    for _ in range(400):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return
        except OSError:
            await asyncio.sleep(0.05)
    raise RuntimeError(f"nothing answers on port {port}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
