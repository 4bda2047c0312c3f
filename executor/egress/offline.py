"""A run that is played from a recording: every request is answered from there, and none goes out."""

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace

import h11

from executor.egress.authority import Authority
from executor.egress.carry import Carried, abort
from executor.egress.cassette import Cassette, Recorded
from executor.egress.fill import Filling, placeholder
from executor.egress.gate import Denied, Gate, Internet, Streams
from executor.egress.intercept import to_workflow
from executor.egress.log import Contact
from executor.egress.recorded import RUNTIME, RUNTIME_PORT, first_words, speaks
from executor.egress.recorder import Exchange, Recorder
from executor.egress.relay import Half
from executor.egress.rules import Rules

LINGER_SECONDS = 1.0
MOST_TOLD = 200
OFFLINE = "the run is replayed offline"
_FRAMING = frozenset({b"connection", b"content-length", b"keep-alive", b"transfer-encoding", b"upgrade"})
Told = Callable[[str], None]


class OfflineGate(Gate):
    """Knows the names of the recording, and leads nowhere."""

    takes_loopback = False

    def __init__(self, internet: Internet, cassette: Cassette) -> None:
        super().__init__(internet, Rules())
        self._cassette = cassette

    async def knows(self, name: str) -> bool:
        """Errors: Denied, for a name that isn't there."""
        if name not in self._cassette.hosts:
            raise Denied(f"{OFFLINE}, and its recording doesn't have this name")
        return True


class Offline:
    """Answers connections. What is asked for is written down by `recorder`, so that it can be compared."""

    def __init__(
        self,
        cassette: Cassette,
        authority: Authority,
        recorder: Recorder,
        now: Callable[[], float],
        inside: Sequence[tuple[str, str]] = (),
    ) -> None:
        """`inside`: (name, value) of secrets that the workflow has: an answer that held one holds it again."""
        self.cassette = cassette
        self._inside = [(placeholder(name).encode(), value.encode()) for name, value in inside]
        self._authority = authority
        self._recorder = recorder
        self._now = now

    async def serve(self, sock: socket.socket, contact: Contact, carried: Carried, told: Told) -> None:
        """A connection to `contact`'s host and port. Errors: Denied, Failed, OSError."""
        host, port = contact.host, contact.port
        spoken = speaks(await first_words(sock))  # first, as when it was recorded
        masked = self._recorder.mask(host.encode()).decode()
        if not self.cassette.answers_at(masked, port) and (reason := self.cassette.unreachable.get((masked, port))):
            raise Denied(f"{OFFLINE}, as it was recorded: {reason}")
        if not spoken:
            raise Denied(f"{OFFLINE}, and only HTTP is recorded")
        inside = await to_workflow(self._authority, sock, Filling(host, port, spoken == "https", {}))
        contact.reason = "answered from the recording"
        await self.answer(inside, (spoken, host, port), carried, told)

    async def carry(self, inside: Streams, reach: Callable[[], Awaitable[Streams]], *, tls: bool) -> None:  # noqa: ARG002
        """A call of the runtime (wayout.Nested). Errors: OSError."""
        if not tls:
            await self.answer(inside, ("http", RUNTIME, RUNTIME_PORT), Carried(), lambda _: None)

    async def answer(self, inside: Streams, place: tuple[str, str, int], carried: Carried, told: Told) -> None:
        """Request by request, until the workflow has no more. Errors: OSError."""

        def count(read: int, written: int) -> None:
            carried.bytes_out += read
            carried.bytes_in += written

        half = Half(h11.SERVER, inside, count)
        try:
            while await self._exchange(half, place, told):
                half.http.start_next_cycle()
            with suppress(TimeoutError):
                async with asyncio.timeout(LINGER_SECONDS):
                    inside[1].close()
                    await inside[1].wait_closed()
        except h11.ProtocolError:
            raise ConnectionResetError("it isn't HTTP/1.1 as we can read it") from None
        finally:
            abort(inside[1])

    async def _exchange(self, half: Half, place: tuple[str, str, int], told: Told) -> bool:
        """Whether another may follow. Errors: OSError, h11.ProtocolError."""
        request = await half.next()
        if not isinstance(request, h11.Request):
            return False
        method, target = request.method.decode(), request.target
        noted = self._recorder.begin(place, method, target, request.headers.raw_items(), self._now())
        await _read_body(half, noted)
        mask = self._recorder.mask
        address = (place[0], mask(place[1].encode()).decode(), place[2], method, mask(target).decode("latin-1"))
        found = self.cassette.take(address, noted.request.digest(mask))
        if found is None:
            what = f"{method} {address[4]}"[:MOST_TOLD]
            told(f"{OFFLINE}, and its recording has no (other) answer to {what}")
            noted.failed = "it isn't in the recording"
            await _refuse(half, request, "not_recorded", f"{OFFLINE}, and its recording has no answer to {what}")
            return False
        if found.failed or found.body is None:
            why = found.failed or "the answer was too long to be recorded"
            noted.failed = why
            told(f"{OFFLINE}, and its recording has no whole answer to {method} {address[4]}"[:MOST_TOLD] + f": {why}")
            if found.body is None:
                await _refuse(half, request, "recording_cut", f"{OFFLINE}; {why}")
                return False
            raise ConnectionResetError(why)
        await _send(half, request, self._unmasked(found), noted)
        return half.is_done

    def _unmasked(self, found: Recorded) -> Recorded:
        def unmask(data: bytes) -> bytes:
            for mark, value in self._inside:
                data = data.replace(mark, value)
            return data

        headers = [(name, unmask(value)) for name, value in found.headers]
        return replace(found, headers=headers, body=unmask(found.body or b""))


async def _read_body(half: Half, noted: Exchange) -> None:
    if half.http.they_are_waiting_for_100_continue:
        await half.send(h11.InformationalResponse(status_code=100, headers=[]))
    while not isinstance(event := await half.next(), h11.EndOfMessage):
        if not isinstance(event, h11.Data):
            raise ConnectionResetError("the request was broken off")
        noted.request.add(bytes(event.data))


async def _send(half: Half, request: h11.Request, found: Recorded, noted: Exchange) -> None:
    body = found.body or b""
    headers = [(name, value) for name, value in found.headers if name.lower() not in _FRAMING]
    bodiless = request.method == b"HEAD" or found.status in {204, 304}
    if not bodiless:
        headers.append((b"content-length", str(len(body)).encode()))
    await half.send(h11.Response(status_code=found.status, headers=headers))
    if body and not bodiless:
        await half.send(h11.Data(data=body))
    await half.send(h11.EndOfMessage())
    noted.answered(found.status, found.headers)
    noted.answer.add(body)
    noted.failed = ""


async def _refuse(half: Half, request: h11.Request, code: str, detail: str) -> None:
    body = json.dumps({"detail": detail, "code": code}).encode()
    headers = [
        ("content-type", "application/json"),
        ("content-length", str(len(body))),
        ("error-origin", "runtime"),
        ("connection", "close"),
    ]
    await half.send(h11.Response(status_code=502, headers=headers))
    if request.method != b"HEAD":
        await half.send(h11.Data(data=body))
    await half.send(h11.EndOfMessage())
