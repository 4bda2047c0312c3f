"""The executor by its rpcs with everything real below it: environments by uv, sandboxes by bubblewrap."""

import asyncio
import base64
import hmac
import json
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from mesh.events.v1 import events_pb2
from mesh.executor.v1 import executor_pb2
from mesh.ledger.v1 import prices_pb2
from mesh.runs.v1 import identity_pb2, run_pb2

from executor.settings import Settings
from kit.bus import open_bus
from kit.rpc_client import unary
from kit.settings import read_key
from tests.integration.executor.mesh import Mesh, executor_beside, executor_process, mesh_up, until
from tests.servers import nats_server

pytestmark = pytest.mark.timeout(180)

CANARY = "s3cret-canary"
HEADER = """# /// script
# requires-python = ">=3.11"
# dependencies = ["fastapi", "uvicorn"]
# [tool.env-checker]
# env_vars = ["TOKEN"]
# ///
"""
WORKFLOW = (
    HEADER
    + """
import asyncio, os, socket, sys, urllib.request
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

print("imported")
app = FastAPI()
CALLS = 0

@app.post("/")
async def hello(request: Request):
    return {"got": len(await request.body()), "token": os.environ["TOKEN"]}

@app.post("/count")
async def count():
    global CALLS
    CALLS += 1
    marked = os.path.exists("/tmp/mark")
    open("/tmp/mark", "w").close()
    return {"calls": CALLS, "marked": marked}

@app.post("/kill")
async def kill():
    os.kill(os.getpid(), 9)
    await asyncio.sleep(10)

@app.post("/exit")
async def leave():
    print("about to go")
    os._exit(3)

@app.post("/sleep")
async def sleep():
    await asyncio.sleep(60)

@app.post("/burn")
def burn():
    while True:
        pass

@app.post("/log")
async def log():
    sys.stdout.write("".join(f"line {n}\\n" for n in range(50)))
    sys.stderr.write('INFO:main:{"event": "said", "level": "warning", "n": 1}\\n')
    return {}

@app.post("/stream")
async def stream():
    async def parts():
        for n in range(3):
            yield f"{n}\\n"
        raise RuntimeError("broke")
    return StreamingResponse(parts())

@app.post("/flood")
async def flood():
    async def parts():
        while True:
            yield b"x" * 65536
    return StreamingResponse(parts())

@app.post("/out")
def out():
    try:
        socket.create_connection(("127.0.0.1", 22), 2)
        refused = ""
    except OSError as error:
        refused = type(error).__name__
    with urllib.request.urlopen(os.environ["RUNTIME_URI"] + "/healthz") as answer:
        return {"said": answer.read().decode(), "refused": refused}

if __name__ == "__main__":
    uvicorn.run(app, host="0.0.0.0", port=int(os.environ.get("PORT", 8000)))
    print("after")
"""
)


# The executor stays while its neighbours are started anew for each test: it may be holding off from the last ones.
RECONNECTING_SECONDS = 0.5


@pytest.fixture(scope="module")
def nats_url() -> Iterator[str]:
    with nats_server() as url:
        yield url


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, nats_url: str) -> Settings:
    return Settings(home=tmp_path_factory.mktemp("home"), nats_url=nats_url)


@pytest.fixture(scope="module")
def process(settings: Settings) -> Iterator["subprocess.Popen[str]"]:
    limits = {"RUNMESH_MAX_STREAM_BYTES": "1000000", "RUNMESH_START_SECONDS": "8", "RUNMESH_DRAIN_SECONDS": "1"}
    with executor_process(settings, **limits) as found:
        yield found
    assert found.returncode == 0
    assert not list((settings.home / "runs").iterdir())
    assert not list((settings.home / "spool").iterdir())


@pytest.fixture
async def mesh(settings: Settings, process: "subprocess.Popen[str]") -> AsyncIterator[Mesh]:
    async with mesh_up(settings, None) as found:
        found.neighbours.secrets["TOKEN"] = CANARY
        await asyncio.sleep(RECONNECTING_SECONDS)
        yield found
        begun = [started.spec.run_id for started in found.neighbours.started]
        await until(lambda: all(run_id in found.neighbours.ended for run_id in begun))


def descendants(pid: int) -> set[int]:
    """The processes below one: the spawner alone, when no sandbox is there."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            name, _, rest = path.read_text(errors="replace").rpartition(")")
            parents[int(name.split(" ")[0])] = int(rest.split()[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


_REPLIES: dict[str, executor_pb2.ValidateResponse] = {}


async def deployed(mesh: Mesh, source: str = WORKFLOW) -> str:
    """Validates (once) and registers a workflow, as a deploy does."""
    if source not in _REPLIES:
        _REPLIES[source] = await validated(mesh, source)
    reply = _REPLIES[source]
    assert [check for check in reply.report if not check.passed] == []
    version = mesh.neighbours.deploy(source, lock=reply.lock, env_vars=reply.env_vars)
    mesh.neighbours.versions[version].python = reply.python
    return version


async def validated(mesh: Mesh, source: str) -> executor_pb2.ValidateResponse:
    request = executor_pb2.ValidateRequest(organization_id="org_owner", code=source, file_name="hello.py")
    return await unary(mesh.stub.Validate, request, timeout=150)


async def test_a_workflow_from_its_source_to_its_answer(mesh: Mesh) -> None:
    version = await deployed(mesh)
    assert "/stream" in json.loads(_REPLIES[WORKFLOW].openapi)["paths"]
    spec = mesh.spec(version)
    seen = await mesh.run(spec, b"x" * 100_000, b"y")
    assert (seen.status, json.loads(seen.body)) == (200, {"got": 100_001, "token": CANARY})
    assert seen.outcome == run_pb2.Outcome(status=run_pb2.RUN_STATUS_SUCCEEDED)
    ended = await mesh.ended(spec.run_id)
    log = [json.loads(line)["message"] for line in mesh.neighbours.blobs[ended.log_digest].splitlines()]
    assert log[0] == "imported"
    assert log[-1] == "after"


async def test_each_call_has_a_sandbox_of_its_own(mesh: Mesh) -> None:
    version = await deployed(mesh)
    bodies = await asyncio.gather(*(mesh.run(mesh.spec(version, path="/count")) for _ in range(4)))
    assert [seen.status for seen in bodies] == [200] * 4, [seen.outcome for seen in bodies]
    assert [json.loads(seen.body) for seen in bodies] == [{"calls": 1, "marked": False}] * 4


@pytest.mark.parametrize(
    ("path", "code", "words"),
    [
        ("/exit", "workflow_crashed", "status 3"),
        ("/kill", "workflow_crashed", "signal 9"),
        ("/stream", "workflow_crashed", "broke"),
    ],
)
async def test_failures_are_typed(mesh: Mesh, path: str, code: str, words: str) -> None:
    seen = await mesh.run(mesh.spec(await deployed(mesh), path=path))
    assert (seen.outcome.code, seen.complete) == (code, False)
    assert words in seen.outcome.detail
    if path == "/exit":
        assert "about to go" in seen.outcome.log_tail
    if path == "/stream":
        assert seen.body == b"0\n1\n2\n"


async def test_a_flood_is_stopped(mesh: Mesh) -> None:
    seen = await mesh.run(mesh.spec(await deployed(mesh), path="/flood"))
    assert seen.outcome.code == "too_much_output"
    assert len(seen.body) <= 1_000_000


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("def broken(:\n", "syntax"),
        ("raise ValueError('at import')\n", "ValueError: at import"),
        ("x = 1\n", "no_app"),
        ("import sys\nsys.exit(4)\n", "exited"),
        ("import os\nos.kill(os.getpid(), 11)\n", "killed"),
        ("import time\ntime.sleep(60)\n", "timeout"),
    ],
)
async def test_a_script_that_never_serves(mesh: Mesh, source: str, kind: str) -> None:
    like = mesh.neighbours.versions[await deployed(mesh)]
    version = mesh.neighbours.deploy(source, lock=like.lock)
    mesh.neighbours.versions[version].python = like.python
    seen = await mesh.run(mesh.spec(version))
    assert seen.outcome.code == "workflow_failed_to_start"
    assert kind in seen.outcome.detail


async def test_deadline_stop_and_hang_up_leave_nothing(
    mesh: Mesh, settings: Settings, process: "subprocess.Popen[str]"
) -> None:
    version = await deployed(mesh)
    mesh.neighbours.versions[version].isolation = "cold"
    runs, family = settings.home / "runs", len(descendants(process.pid))
    before = set(runs.iterdir())  # templates of other tests
    late, stopped, hung_up = (
        mesh.spec(version, seconds=4, path="/sleep"),
        *(mesh.spec(version, path="/sleep") for _ in range(2)),
    )
    for spec in (late, stopped):
        await mesh.start(spec)
    calling = asyncio.create_task(mesh.run(hung_up))
    await until(lambda: len(set(runs.iterdir()) - before) == 3)
    assert len(descendants(process.pid)) > family
    outcome = run_pb2.Outcome(status=run_pb2.RUN_STATUS_CANCELLED, code="cancelled")
    await unary(mesh.stub.Stop, executor_pb2.StopRequest(run_id=stopped.run_id, outcome=outcome))
    calling.cancel()
    await asyncio.gather(calling, return_exceptions=True)
    codes = [(await mesh.ended(spec.run_id)).outcome.code for spec in (late, stopped, hung_up)]
    assert codes == ["timeout", "cancelled", "cancelled"]
    assert set(runs.iterdir()) == before
    await until(lambda: len(descendants(process.pid)) <= family)


async def test_fifty_lines_at_once_and_json(mesh: Mesh) -> None:
    version = await deployed(mesh)
    spec = mesh.spec(version, path="/log")
    lines: list[events_pb2.LogLine] = []

    async def follow(_subject: str, payload: bytes) -> None:
        lines.append(events_pb2.LogLine.FromString(payload))

    async with open_bus(mesh.settings.nats_url, "test") as bus, bus.subscribed(f"log.{spec.run_id}", follow):
        await mesh.run(spec)
        await until(lambda: lines and lines[-1].end)
    said = [line.message for line in lines if line.message.startswith("line ")]
    assert said == [f"line {number}" for number in range(50)]
    (parsed,) = [line for line in lines if line.message == "said"]
    assert (parsed.stream, parsed.level, parsed.data) == ("stderr", "warning", '{"n":1}')


async def test_the_way_out_leads_to_envoy_with_the_runs_identity(mesh: Mesh) -> None:
    got: list[bytes] = []

    async def envoy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.append(await reader.readuntil(b"Connection: close\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi")
        writer.close()
        await writer.wait_closed()

    spec = mesh.spec(await deployed(mesh), path="/out")
    async with await asyncio.start_unix_server(envoy, mesh.settings.run_dir / "nested.sock"):
        seen = await mesh.run(spec)
    assert json.loads(seen.body) == {"said": "hi", "refused": "ConnectionRefusedError"}
    header = b"".join(got)
    length = int.from_bytes(header[14:16])
    payload, request = header[16 : 16 + length], header[16 + length :]
    assert request.startswith(b"GET /healthz HTTP/1.1\r\n")
    token = payload[15:]
    assert payload[12] == 0xE0
    message, signature = (base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4)) for part in token.split(b"."))
    key = read_key(mesh.settings.key_file("mesh"))
    assert hmac.compare_digest(signature, hmac.digest(key, message, "sha256"))
    identity = identity_pb2.RunIdentity.FromString(message)
    assert (identity.run_id, identity.acting_id, identity.caller_id) == (spec.run_id, "org_owner", "org_caller")


async def test_stopping_the_executor_ends_its_runs(settings: Settings, tmp_path: Path) -> None:
    own = settings_at(tmp_path, settings)
    async with mesh_up(own, None) as mesh, executor_beside(own, RUNMESH_DRAIN_SECONDS="0.5") as process:
        spec = await sleeping(mesh)
        calling = asyncio.create_task(mesh.run(spec))
        await until(lambda: under_way(tmp_path) and mesh.neighbours.started)
        process.terminate()
        assert (await calling).outcome.code == "runtime_error"
        ended = await mesh.ended(spec.run_id)
        assert (ended.outcome.status, ended.handed_back) == (run_pb2.RUN_STATUS_FAILED, True)
        await until(lambda: process.poll() is not None)
    assert process.returncode == 0
    assert not list((tmp_path / "runs").iterdir())


async def test_a_killed_executor_leaves_nothing_for_long(settings: Settings, tmp_path: Path) -> None:
    own = settings_at(tmp_path, settings)
    async with mesh_up(own, None) as mesh:
        async with executor_beside(own) as process:
            spec = await sleeping(mesh)
            await mesh.start(spec)
            await until(lambda: under_way(tmp_path))
            family = descendants(process.pid)
            before = set((tmp_path / "runs").iterdir())
            process.kill()
            await until(lambda: not [pid for pid in family if is_alive(pid)], seconds=5)
        async with executor_beside(own):
            # The new one has checked itself by now, with a template that may take its time to go.
            assert not [path for path in (tmp_path / "runs").iterdir() if path in before]


def settings_at(home: Path, like: Settings) -> Settings:
    return Settings(home=home, nats_url=like.nats_url)


async def sleeping(mesh: Mesh) -> run_pb2.RunSpec:
    """A run that will not end by itself."""
    mesh.neighbours.secrets["TOKEN"] = CANARY
    spec = mesh.spec(await deployed(mesh), path="/sleep")
    await until(lambda: not under_way(mesh.settings.home))  # what the deploy started is gone
    return spec


def under_way(home: Path) -> set[Path]:
    """Directories of runs and templates; a base that nobody needs stays for a minute."""
    runs = home / "runs"
    return {path for path in runs.iterdir() if not path.name.startswith("base-")} | {*runs.glob("base-*/slots/*")}


def is_alive(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.mark.slow  # tests/e2e/test_paying.py has one of the whole mesh
async def test_a_run_that_spends_its_budget_is_stopped(settings: Settings, nats_url: str, tmp_path: Path) -> None:
    """A millisecond of a processor costs 1: it is stopped when it has used about 7 s of one, and pays for 7000."""
    priced = replace(settings, home=tmp_path)
    prices = [prices_pb2.Price(meter="cpu", micro_credits_per_million=1_000_000, valid_from=Timestamp(seconds=1))]
    async with mesh_up(priced, None, prices=prices, credit=7000) as mesh, executor_beside(priced):
        mesh.neighbours.secrets["TOKEN"] = CANARY
        spec = mesh.spec(await deployed(mesh), path="/burn", synchronous=True)
        seen = await mesh.run(spec)
        assert seen.outcome.code == "payment_required"
        ended = await mesh.ended(spec.run_id)
    assert 6.5 < ended.usage.cpu_seconds < 10
    assert ended.bill.charge == sum(line.amount for line in ended.bill.lines) == 7000
    (line,) = (line for line in ended.bill.lines if line.meter == "cpu")
    assert line.quantity == round(ended.usage.cpu_seconds * 1000)
    assert mesh.neighbours.credit == 0
