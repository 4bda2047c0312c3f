"""The life of a service's process: settings, build, serve, drain on SIGTERM or SIGINT.

Order of the end: health says NOT_SERVING → it spreads → whatever `build` entered is left in reverse (consumers, server
with its grace, background tasks, bus, database) → telemetry last.
"""

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, TypeVar

import uvloop

from kit import telemetry
from kit.errors import Problem
from kit.rpc_server import RpcServer
from kit.settings import BadSettings, MeshSettings, load

S = TypeVar("S", bound=MeshSettings)
SPREAD_SECONDS = 0.2
# For tests of what a crash leaves: a directory. A process that passes a point of which there is a file takes the file
# away and dies.
_FAILPOINTS = os.environ.get("RUNMESH_FAILPOINTS", "")


def failpoint(name: str) -> None:
    """Where a crash is worth a test (docs/decisions/0018). Does nothing unless RUNMESH_FAILPOINTS is set."""
    if _FAILPOINTS:
        with suppress(OSError):
            os.unlink(os.path.join(_FAILPOINTS, name))  # noqa: PTH108, PTH118  # of any number of processes one dies
            os.kill(os.getpid(), signal.SIGKILL)


def main(name: str, settings_type: type[S], build: Callable[[S, AsyncExitStack], Awaitable[RpcServer]]) -> None:
    """`python -m NAME`: serves until told to stop; `--check` only reads the settings. Exits 2 on bad settings."""
    parser = argparse.ArgumentParser(prog=f"python -m {name}", description=f"The {name} service of Runmesh.")
    parser.add_argument("--check", action="store_true", help="only check the settings")
    arguments = parser.parse_args()
    try:
        settings = load(settings_type, os.environ)
        if arguments.check:
            print(f"{name}: the settings are good; data in {settings.home}")
            return
        telemetry.configure(name, level=settings.log_level, otlp_endpoint=settings.otlp_endpoint)
        uvloop.run(_serve(name, settings, build))
    except BadSettings as bad:
        print(f"{name}: " + f"\n{name}: ".join(bad.faults), file=sys.stderr)
        sys.exit(2)
    except Problem as problem:
        sys.exit(f"{name}: {problem.message}")
    finally:
        telemetry.shutdown()


async def _serve(name: str, settings: S, build: Callable[[S, AsyncExitStack], Awaitable[RpcServer]]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        server = await build(settings, stack)
        await server.serving(True)
        telemetry.announce("service.ready", address=server.address)
        await stop.wait()
        await server.serving(False)
        await asyncio.sleep(SPREAD_SECONDS)
    telemetry.log().info("service.stopped", name=name)


@asynccontextmanager
async def background(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Runs `work` beside the service; its failure is logged and ends the process (the supervisor starts it again)."""

    async def watched() -> None:
        try:
            await work
        except asyncio.CancelledError:
            raise
        except Exception:  # noqa: BLE001  # whatever it was, a service without its background work must not live on
            telemetry.log().exception("background.failed", work=str(work))
            os.kill(os.getpid(), signal.SIGTERM)

    task = asyncio.create_task(watched())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
