"""A recorded run's connections: those that speak HTTP are intercepted, to whichever host, and written down."""

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable, Sequence

from executor.egress.authority import Authority
from executor.egress.carry import Carried, abort
from executor.egress.fill import FillIn, Filling
from executor.egress.gate import Streams
from executor.egress.intercept import Interception
from executor.egress.recorder import Recorder
from executor.egress.relay import Notes, Relay

# For the first words on a connection: whoever waits for the server's speaks no HTTP.
FIRST_SECONDS = 1.0
RUNTIME, RUNTIME_PORT = "runtime.runmesh", 80
_TLS = re.compile(rb"\x16\x03[\x00-\x04]")
_HTTP = re.compile(rb"[A-Z]{3,15} ")
_ENOUGH = 16


def speaks(first: bytes) -> str:
    """What a connection begins with: https (some TLS), http, or nothing that we know."""
    if _TLS.match(first):
        return "https"
    return "http" if _HTTP.match(first) else ""


async def first_words(sock: socket.socket, seconds: float = FIRST_SECONDS) -> bytes:
    """The first bytes that arrive on `sock`, which stay there; as many as tell what is spoken, or come in time."""
    loop, there = asyncio.get_running_loop(), asyncio.Event()
    seen = b""
    try:
        async with asyncio.timeout(seconds):
            while True:
                try:
                    found = sock.recv(_ENOUGH, socket.MSG_PEEK)
                except BlockingIOError:
                    pass
                else:
                    if len(found) == len(seen) and seen:  # what is there doesn't wake us again
                        await asyncio.sleep(0.02)
                    seen = found
                    if not seen or speaks(seen) or len(seen) >= _ENOUGH:
                        return seen
                    continue
                loop.add_reader(sock, there.set)
                try:
                    await there.wait()
                finally:
                    loop.remove_reader(sock)
                there.clear()
    except TimeoutError:
        return seen


class RecordedInterception(Interception):
    """Interception of everything that is HTTP."""

    def __init__(self, authority: Authority, fill_ins: Sequence[FillIn], notes: Notes) -> None:
        super().__init__(authority, fill_ins, notes)

    async def filling(self, sock: socket.socket, host: str, port: int) -> Filling | None:
        """None for what isn't HTTP."""
        known = self.at(host, port)
        if known is not None:
            return known
        spoken = speaks(await first_words(sock))
        return Filling(host, port, spoken == "https", {}) if spoken else None


class RecordedNested:
    """Calls of the runtime (wayout.Nested): plain ones are written down, those by TLS are none of ours."""

    def __init__(self, recorder: Recorder, now: Callable[[], float]) -> None:
        self._recorder = recorder
        self._now = now

    async def carry(self, inside: Streams, reach: Callable[[], Awaitable[Streams]], *, tls: bool) -> None:
        """Errors: OSError."""
        outside = await reach()
        try:
            if tls:
                await Carried().between(inside, outside)
                return
            filling = Filling(RUNTIME, RUNTIME_PORT, tls=False, values={})
            await Relay(inside, outside, filling, Carried(), lambda _: None, Notes(self._recorder, self._now)).run()
        finally:
            abort(outside[1])
