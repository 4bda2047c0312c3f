"""The whole edge as it is built, behind real Envoy, with real NATS; the other services are fakes behind real gRPC."""

import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from edge.main import build
from edge.settings import Settings
from kit.bus import Bus, open_bus
from tests.integration.edge.mesh import ADMIN, Asked, fake_mesh
from tests.integration.edge.rig import envoy_running
from tests.servers import nats_server

AUTHORIZED = {"Authorization": f"Bearer {ADMIN}"}


@dataclass
class World:
    asked: Asked
    client: httpx.AsyncClient
    bus: Bus
    run_dir: Path

    async def call(self, method: str, path: str, **more: Any) -> Any:
        """The JSON of a call that succeeds."""
        reply = await self.client.request(method, path, headers=AUTHORIZED, **more)
        assert reply.status_code == 200, reply.text
        return reply.json()


@asynccontextmanager
async def whole_edge() -> AsyncIterator[World]:
    home = Path(tempfile.mkdtemp(prefix="edge-"))
    with nats_server() as nats_url:
        async with AsyncExitStack() as stack:
            settings = Settings(home=home, nats_url=nats_url, public_url_setting="https://mesh.example")
            asked = await stack.enter_async_context(fake_mesh(settings))
            bus = await stack.enter_async_context(open_bus(nats_url, "test"))
            await (await build(settings, stack)).serving(True)
            port = await stack.enter_async_context(envoy_running(settings.run_dir))
            client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20)
            yield World(asked, await stack.enter_async_context(client), bus, settings.run_dir)
    shutil.rmtree(home)
