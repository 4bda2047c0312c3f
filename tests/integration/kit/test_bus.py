"""kit.bus against a real nats-server that dies and loses its store."""

import asyncio
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kit.bus import Bus, open_bus
from kit.errors import Unavailable
from tests.e2e.mesh import free_port
from tests.servers import BIN


@contextmanager
def serving(port: int, store: Path) -> Iterator[None]:
    """A nats-server, killed at the end."""
    command = [str(BIN / "nats-server"), "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", str(store)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


async def insistently(bus: Bus, subject: str) -> None:
    """Published, however long that takes."""
    async with asyncio.timeout(20):
        while True:
            try:
                await bus.publish(subject, b"event", event_id=subject)
                return
            except Unavailable:
                await asyncio.sleep(0.1)


async def kept(bus: Bus, subject: str) -> None:
    """A line that nobody acknowledges is in a stream, soon."""
    async with asyncio.timeout(20):
        while True:
            try:
                await bus.send(subject, b"line")
                async with bus.tail(subject) as following:
                    if await following(1.0) == b"line":
                        return
            except Unavailable:
                await asyncio.sleep(0.1)


async def test_a_server_that_lost_its_store_is_given_its_streams_again(tmp_path: Path) -> None:
    """By whoever is connected, without a restart; each way to send by itself."""
    port, store = free_port(), tmp_path / "store"
    for send in (insistently, kept):
        with serving(port, store):
            bus = open_bus(f"nats://127.0.0.1:{port}", "test")
            opened = await bus.__aenter__()
            await opened.publish("event.before", b"1", event_id="1")
        shutil.rmtree(store)
        with serving(port, store):
            await send(opened, "event.after" if send is insistently else "log.run_1")
            await bus.__aexit__(None, None, None)
        shutil.rmtree(store)
