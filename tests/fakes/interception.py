"""An interception between a raw client and a server of the test's own, with no sandbox: all on this loopback."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from executor.egress.authority import BUNDLE, Authority
from executor.egress.carry import Carried
from executor.egress.fill import FillIn, fill_in
from executor.egress.gate import Failed, Streams
from executor.egress.intercept import Interception
from executor.egress.log import Contact
from kit.clock import SystemClock
from tests.fakes.certificates import Authority as World

VALUE = "s3cr3t-c4n4ry-value"
HOST = "api.example"
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Rig:
    """`world` signs servers' certificates, `authority` is the executor's own."""

    world: World
    authority: Authority
    fill_ins: Sequence[FillIn]
    refused: list[str] = field(default_factory=list)
    # What `serve` raised, for each connection.
    ends: list[BaseException | None] = field(default_factory=list)
    carried: Carried = field(default_factory=Carried)
    contact: Contact = field(default_factory=lambda: Contact(datetime.now(UTC), HOST, 443))
    used: set[str] = field(default_factory=set)
    port: int = 443
    upstream: int = 0
    front: int = 0

    async def accept(self, listener: socket.socket) -> None:
        """For ever: each connection on it is intercepted."""
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as serving:
            while True:
                sock, _ = await loop.sock_accept(listener)
                serving.create_task(self._serve(sock))

    async def _serve(self, sock: socket.socket) -> None:
        interception = Interception(self.authority, self.fill_ins)
        filling = interception.at(HOST, self.port)
        assert filling is not None
        outside = await asyncio.open_connection("127.0.0.1", self.upstream)
        error: BaseException | None = None
        try:
            await interception.serve(sock, outside, filling, self.carried, self.contact, self.refused.append)
        except (Failed, OSError) as raised:
            error = raised
        finally:
            outside[1].transport.abort()
            sock.close()
        self.used |= filling.used
        self.ends.append(error)

    async def connect(self, sni: str = HOST) -> Streams:
        """As a workflow would: with TLS where that is spoken on this port."""
        if self.port == 80:
            return await asyncio.open_connection("127.0.0.1", self.front)
        context = ssl.create_default_context(cafile=str(self.authority.directory / BUNDLE))
        context.set_alpn_protocols(["h2", "http/1.1"])
        return await asyncio.open_connection("127.0.0.1", self.front, ssl=context, server_hostname=sni)

    async def end(self) -> BaseException | None:
        """How the first connection ended."""
        async with asyncio.timeout(15):
            while not self.ends:  # noqa: ASYNC110  # a few milliseconds after the client has seen it
                await asyncio.sleep(0.01)
        return self.ends[0]

    async def say(self, text: bytes) -> bytes:
        """All that comes back on a connection of its own."""
        reader, writer = await self.connect()
        writer.write(text)
        answer = await until_end(reader)
        writer.transport.abort()
        return answer


async def until_end(reader: asyncio.StreamReader) -> bytes:
    """Or until it is broken off."""
    said = b""
    with suppress(ConnectionError):
        async with asyncio.timeout(15):
            while data := await reader.read(65536):
                said += data
    return said


@asynccontextmanager
async def intercepted(
    directory: Path,
    serve: Serve,
    *,
    entries: Sequence[str] = (HOST,),
    port: int = 443,
    certificate: str = HOST,
    trusted: bool = True,
) -> AsyncIterator[Rig]:
    """`serve` is the server that the interception leads to; a secret TOKEN is filled in for `entries`."""
    world = World(directory)
    roots = directory / "roots.pem"
    roots.write_text((world if trusted else World(directory)).certificate)
    authority = Authority(directory / "certificates", roots, SystemClock())
    rig = Rig(world, authority, [fill_in("TOKEN", VALUE, entries)], port=port)

    async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await serve(reader, writer)
        writer.close()

    context = None if port == 80 else world.server(certificate)
    server = await asyncio.start_server(served, "127.0.0.1", 0, ssl=context)
    rig.upstream = server.sockets[0].getsockname()[1]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        rig.front = listener.getsockname()[1]
        accepting = asyncio.create_task(rig.accept(listener))
        try:
            yield rig
        finally:
            accepting.cancel()
            await asyncio.gather(accepting, return_exceptions=True)
            server.close()
