"""uvicorn inside of the service's own event loop, from start to drain."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from kit.lifecycle import background
from kit.settings import private_dir

# Longer than Envoy keeps an idle connection (1 h): the side that sends requests must be the one that closes.
KEEP_ALIVE_SECONDS = 3660
# What cancelled requests get to clean up after the drain's grace is over.
CLEANUP_SECONDS = 5.0


class _Server(uvicorn.Server):
    """Signals are kit.lifecycle's."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up_or_ended = asyncio.Event()
        self.ended = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up_or_ended.set()

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().serve(sockets)
        finally:
            self.up_or_ended.set()
            self.ended.set()


@asynccontextmanager
async def http_server(app: ASGIApp, path: Path, grace: float) -> AsyncIterator[None]:
    """Serves `app` on the UNIX socket `path` until left; requests under way then get `grace` seconds."""
    private_dir(path.parent)
    path.unlink(missing_ok=True)
    config = uvicorn.Config(
        app,
        uds=str(path),
        interface="asgi3",
        http="httptools",
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=max(1, round(grace)),
    )
    server = _Server(config)
    async with background(server.serve()):
        await server.up_or_ended.wait()
        try:
            yield
        finally:
            server.should_exit = True
            await server.ended.wait()
            if server.server_state.tasks:  # cancelled by uvicorn, which doesn't wait for them
                await asyncio.wait(server.server_state.tasks, timeout=CLEANUP_SECONDS)
