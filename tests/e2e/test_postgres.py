"""The whole mesh on PostgreSQL, and what callers see while the database is away."""

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from tests.e2e import money
from tests.e2e.mesh import Mesh, mesh_up, until
from tests.postgres import PASSWORD, Server, postgres_server

pytestmark = pytest.mark.timeout(200)

SLOW = """
# /// script
# requires-python = ">=3.11"
# dependencies = ["fastapi", "uvicorn"]
# ///
import asyncio
import fastapi, uvicorn

app = fastapi.FastAPI()

@app.post("/{seconds}")
async def sleep(seconds: float):
    await asyncio.sleep(seconds)
    return {"slept": seconds}

if __name__ == "__main__":
    uvicorn.run(app, port=8000)
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Its own: it is stopped and killed."""
    with postgres_server() as running:
        yield running


@pytest.fixture(scope="module")
def database(server: Server) -> str:
    return server.empty()


@pytest.fixture(scope="module")
def mesh(server: Server, database: str) -> Iterator[Mesh]:
    env = {"RUNMESH_DATABASE_URL": server.url(database, tcp=True), "RUNMESH_RUN_FEE": str(money.FEE + 1)}
    many = {"RUNMESH_ORGANIZATION_RUNS": "200", "RUNMESH_EXECUTOR_RUNS": "200", "RUNMESH_INITIAL_CREDITS": "0"}
    with mesh_up(env={**env, **many}) as running:
        money.set_prices(running, run=money.FEE, cpu=0, memory=0, egress=0)
        running.deploy("slow", SLOW)
        yield running


def test_runs_are_kept_there(mesh: Mesh, server: Server) -> None:
    with mesh.http() as client:
        assert client.post("/run/slow/0").json() == {"slept": 0}
        accepted = client.post("/run_async/slow/0.1").json()["request_id"]
        result = client.get(f"/result/{accepted}?timeout=30").json()
        assert (result["slept"], result["run"]["status"]) == (0.1, "succeeded")
        until(lambda: len(client.get("/requests?service_id=slow&status=succeeded").json()["items"]) >= 2)
        one_time = client.post("/keys", json={"kind": "one_time"}).json()["key"]
    with mesh.http(one_time) as once:
        assert once.post("/run_async/slow/0").status_code == 200
        assert once.post("/run_async/slow/0").json()["code"] == "unauthenticated"
    assert not list(mesh.home.glob("data/*.db"))


def test_the_password_is_shown_to_nobody(mesh: Mesh) -> None:
    """Not by `ps`, not in the log, not to processes that have no use for it."""
    spellings = (PASSWORD, quote(PASSWORD, safe=""))
    assert not [line for line in mesh.output if any(one in line for one in spellings)]
    knowing = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            arguments, environ = (
                (process / name).read_bytes().decode(errors="replace") for name in ("cmdline", "environ")
            )
        except OSError:
            continue
        if f"RUNMESH_HOME={mesh.home}\0" in environ:
            assert not any(one in arguments for one in spellings)
            if any(one in environ for one in spellings):
                knowing.add(arguments.strip("\0").split("\0")[-1])
    assert knowing == {"up", "filestore", "keys", "scheduler"}


def test_credit_for_fifty_of_two_hundred_at_once(mesh: Mesh, server: Server, database: str) -> None:
    mesh.deploy("bare", money.BARE)
    with mesh.http() as client:
        path = client.get("/workflows/bare").json()["url"].removeprefix(mesh.url)
        assert client.patch("/workflows/bare", json={"visibility": "public"}).status_code == 200

        def cost() -> int:
            return int(mesh.finished(client.post("/run/bare").headers["x-request-id"])["cost"]["own"])

        until(lambda: cost() == money.FEE, 15)  # the executor has heard of the prices
    money.fifty_of_two_hundred(mesh, path)
    assert money.faults_of(f"{server.url(database)}&schema=keys") == {}


def stopped(server: Server) -> Callable[[], None]:
    server.signal(signal.SIGSTOP)
    return lambda: server.signal(signal.SIGCONT)


def killed(server: Server) -> Callable[[], None]:
    server.kill()
    return server.start


@pytest.mark.parametrize("vanish", [pytest.param(stopped, marks=pytest.mark.slow), killed])
def test_while_it_is_away_callers_are_told_and_afterwards_all_goes_on(
    mesh: Mesh, server: Server, vanish: Callable[[Server], Callable[[], None]]
) -> None:
    before = set(mesh.programs())
    with mesh.http() as client:
        under_way = client.post("/run_async/slow/3").json()["request_id"]
        until(lambda: client.get(f"/request/{under_way}").json()["status"] == "running")
        come_back = vanish(server)
        try:
            told = [took(client, "GET", "/requests")]  # nobody has noticed yet
            time.sleep(1)  # keys and workflows are remembered for so long
            told += [took(client, method, path) for method, path in CALLS]
            time.sleep(2)  # the run ends meanwhile
            told += [took(client, method, path) for method, path in CALLS]
            assert client.get("/healthz").status_code == 200
            assert client.get("/readyz").status_code == 503
        finally:
            come_back()
        for seconds, answer in told:
            assert (answer.status_code, answer.json()["code"]) == (503, "unavailable"), answer.text
            assert answer.headers["retry-after"] == "1"
            assert seconds < 2.5  # a second, on a machine that has other things to do
        until(lambda: client.get("/readyz").status_code == 200)
        assert mesh.finished(under_way)["status"] == "succeeded"
        accepted = client.post("/run_async/slow/0").json()["request_id"]
        assert client.get(f"/result/{accepted}?timeout=30").json()["slept"] == 0
        assert client.post("/run/slow/0").json() == {"slept": 0}
    assert set(mesh.programs()) == before
    assert not any("starting it again" in line for line in mesh.output)


CALLS = (
    ("POST", "/run_async/slow/0"),
    ("POST", "/run/slow/0"),
    ("GET", "/requests"),
    ("GET", "/workflows"),
    ("POST", "/keys"),
    ("POST", "/file"),
)


def took(client: httpx.Client, method: str, path: str) -> tuple[float, httpx.Response]:
    began = time.monotonic()
    answer = client.request(method, path, json={"kind": "standard"} if path == "/keys" else None)
    return time.monotonic() - began, answer
