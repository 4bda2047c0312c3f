"""Real Envoy in front of a real door (edge.rpc) whose handlers and keys are the test's own."""

import asyncio
import shutil
import socket
import struct
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import envoy  # type: ignore[import-untyped]
import httpx

from cli.envoy import EnvoySettings, render
from edge.auth import Auth
from edge.http import Answer, Handler, Request, json_answer
from edge.identity import identifier
from edge.model import Access, Principal
from edge.permits import Stocks
from edge.platform import PlatformHandlers
from edge.rates import Defaults, RateLimits
from edge.route_wire import SERVICES
from edge.rpc import Endpoint, mount
from kit.clock import SystemClock
from kit.errors import Unauthenticated
from kit.lifecycle import background
from kit.rpc_server import RpcServer
from tests.fakes.anyone import Nobody
from tests.fakes.permits import GENEROUS, FakePermits

BINARY = str(Path(envoy.__file__).parent / "_bin" / "envoy")
KEY = "cwk-valid"
BEARER = {"Authorization": f"Bearer {KEY}"}
MESH_KEY = b"m" * 32


@dataclass
class FakeKeys:
    """auth.Verifier: knows KEY until the test takes it away."""

    valid: dict[str, Principal] = field(default_factory=dict)

    async def verify(self, key: str) -> Principal:
        if key not in self.valid:
            raise Unauthenticated("this isn't a valid API key")
        return self.valid[key]


@dataclass
class Rig:
    """`handlers` serve /run/NAME; `url` is Envoy's public address. Closing `door` drains the edge; Envoy stays."""

    run_dir: Path
    port: int
    handlers: dict[str, Handler]
    keys: FakeKeys
    permits: FakePermits
    auth: Auth
    door: AsyncExitStack

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def admit(self) -> None:
        """Makes KEY valid."""
        self.keys.valid[KEY] = Principal("key_1", "org_1", "standard", frozenset({"run", "files"}))

    async def raw(self, request: bytes) -> bytes:
        """All that comes back over a connection of its own, to its end."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(request)
        return await _all(reader, writer)

    async def nested(self, prelude: bytes, request: bytes) -> bytes:
        """The same on the sandboxes' listener."""
        reader, writer = await asyncio.open_unix_connection(str(self.run_dir / "nested.sock"))
        writer.write(prelude + request)
        return await _all(reader, writer)


async def _all(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    received = b""
    try:
        while part := await asyncio.wait_for(reader.read(65536), 20):
            received += part
    except ConnectionResetError:
        pass
    finally:
        writer.close()
    return received


@asynccontextmanager
async def rigged(rates: Defaults = GENEROUS, **settings: Any) -> AsyncIterator[Rig]:
    """Envoy and the door, ready to take calls."""
    run_dir = Path(tempfile.mkdtemp(prefix="edge-"))
    keys = FakeKeys()
    handlers: dict[str, Handler] = {"echo": echo}
    auth = Auth(keys, identifier(MESH_KEY, SystemClock()), Nobody(), clock=SystemClock())
    permits = FakePermits()
    limits = RateLimits(Stocks(permits), rates)

    async def run(request: Request) -> Answer:
        return await handlers[request.params.get("service_id") or request.params["workflow_id"]](request)

    platform = PlatformHandlers({})
    served = {f"{each.name}.{rpc.name}": Endpoint(run, Access.RUN) for each in SERVICES for rpc in each.methods}
    served["Platform.Refuse"] = Endpoint(platform.refuse, Access.OPEN)
    served["Platform.CheckHealth"] = Endpoint(platform.health, Access.OPEN)
    try:
        async with envoy_running(run_dir, **settings) as port, AsyncExitStack() as door:
            await door.enter_async_context(background(auth.sweep()))
            await door.enter_async_context(
                mount(RpcServer(f"unix:{run_dir}/edge.sock", grace=0.2), served, auth, limits)
            )
            yield Rig(run_dir, port, handlers, keys, permits, auth, door)
    finally:
        shutil.rmtree(run_dir)


async def echo(request: Request) -> Answer:
    """Tells what arrived."""
    body = await request.read(64 * 1024 * 1024)
    return json_answer(
        {
            "method": request.method,
            "path": request.params["path"],
            "query": request.query,
            "headers": request.headers,
            "size": len(body),
            "body": body[:1000].decode("latin-1"),
            "kind": request.who.kind,
        }
    )


@asynccontextmanager
async def envoy_running(run_dir: Path, **settings: Any) -> AsyncIterator[int]:
    """Envoy with the configuration of `runmesh up`, on a free port, which it yields."""
    config, log = run_dir / "envoy.yaml", run_dir / "envoy.log"
    config.write_text(render(EnvoySettings(run_dir=run_dir, port=0, **settings)))
    with log.open("wb") as sink:
        command = (BINARY, "-c", str(config), "--disable-hot-restart", "--concurrency", "1", "-l", "warn")
        process = await asyncio.create_subprocess_exec(*command, stdout=sink, stderr=sink)
    try:
        yield await _port(run_dir / "envoy-admin.sock", process, log)
    finally:
        process.terminate()
        await process.wait()


async def _port(admin: Path, process: asyncio.subprocess.Process, log: Path) -> int:
    transport = httpx.AsyncHTTPTransport(uds=str(admin))
    async with httpx.AsyncClient(transport=transport, base_url="http://envoy") as client:
        for _ in range(400):
            assert process.returncode is None, log.read_text()
            try:
                if (await client.get("/ready")).status_code == 200:
                    found = (await client.get("/listeners?format=json")).json()["listener_statuses"]
                    address = next(each["local_address"] for each in found if each["name"] == "public")
                    return int(address["socket_address"]["port_value"])
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.05)
    raise AssertionError(log.read_text())


def proxy_header(*records: tuple[int, bytes], command: int = 0x21) -> bytes:
    """PROXY protocol v2 with type-length-value records, as the executor opens a sandbox's connection. 0x21: PROXY."""
    addresses = socket.inet_aton("127.0.0.1") * 2 + struct.pack("!HH", 1, 2)
    body = addresses + b"".join(struct.pack("!BH", kind, len(value)) + value for kind, value in records)
    return b"\r\n\r\n\0\r\nQUIT\n" + bytes([command, 0x11]) + struct.pack("!H", len(body)) + body
