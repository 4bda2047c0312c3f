"""HTTP/1.1 between a workflow and a server, request by request, with secrets filled in on the way out.

h11 reads and writes both sides, so what goes on is never what somebody framed in a way of their own: one meaning for
both. Heads are held until they are complete, bodies are passed on as they come, in either direction and at once.
"""

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import h11

from executor.egress.carry import CHUNK_BYTES, Carried, reset
from executor.egress.fill import Filling, Headers
from executor.egress.gate import Streams
from executor.egress.recorder import Exchange, Recorder

MAX_HEAD = 128 * 1024
# For the rest of a request that was answered before its end, and for what is buffered when all is said.
LINGER_SECONDS = 5.0
# For what a workflow still sends after its request was refused: an unread byte would make a reset of the answer's end.
DRAIN_SECONDS = 1.0
_REFUSED_METHODS = (b"CONNECT", b"TRACE")  # no tunnels; and TRACE would send the secret back


class Refused(Exception):
    """A request that isn't passed on. `status`, `code` and the text are its answer."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code


@dataclass(frozen=True)
class Notes:
    """Where a recorded run's exchanges are written down; `now` in seconds of its recording's clock."""

    recorder: Recorder
    now: Callable[[], float]

    def begin(self, filling: Filling, request: h11.Request, sent: Headers) -> Exchange:
        """`sent`: the headers as they go out. A header that was filled in must not be found in the answer either."""
        headers, hidden = request.headers.raw_items(), True
        for (_, before), (_, after) in zip(headers, sent, strict=False):
            if before != after and self.recorder.mask(after) == after:  # in a spelling that hides the value itself
                hidden = self.recorder.mask.hide(after, before) and hidden
        place = ("https" if filling.tls else "http", filling.host, filling.port)
        noted = self.recorder.begin(place, request.method.decode("latin-1"), request.target, headers, self.now())
        if not hidden:
            noted.answer.drop()
        return noted


class Half:
    """HTTP on one connection. `counted` hears how many bytes came and went."""

    def __init__(
        self, role: type[h11.CLIENT] | type[h11.SERVER], streams: Streams, counted: Callable[[int, int], None]
    ) -> None:
        self.http = h11.Connection(role, max_incomplete_event_size=MAX_HEAD)
        self.reader, self.writer = streams
        self._counted = counted

    async def next(self) -> h11.Event | type[h11.PAUSED]:
        """Errors: h11.RemoteProtocolError, OSError."""
        while (event := self.http.next_event()) is h11.NEED_DATA:
            self.http.receive_data(await self.read())
        assert not isinstance(event, type) or event is h11.PAUSED
        return event

    async def read(self) -> bytes:
        """As it comes; empty at the end. Errors: OSError."""
        data = await self.reader.read(CHUNK_BYTES)
        self._counted(len(data), 0)
        return data

    async def send(self, event: h11.Event) -> None:
        """Errors: h11.LocalProtocolError, whose text may hold a secret; OSError."""
        await self.write(self.http.send(event) or b"")

    async def write(self, data: bytes) -> None:
        """Errors: OSError."""
        if data:
            self._counted(0, len(data))
            self.writer.write(data)
            await self.writer.drain()

    @property
    def is_done(self) -> bool:
        """Whether one request and its answer are complete, and another may follow."""
        return self.http.our_state is h11.DONE and self.http.their_state is h11.DONE


class Relay:
    """`run` once. What is refused is told to `refused`, in words for the run's owner."""

    def __init__(
        self,
        inside: Streams,
        outside: Streams | None,
        filling: Filling,
        carried: Carried,
        refused: Callable[[str], None],
        notes: Notes | None = None,
    ) -> None:
        """`outside` is None where no request can be passed on: `refuse` them. `notes`: of a recorded run."""
        self._carried = carried
        self._inside = Half(h11.SERVER, inside, self._count)
        self._outside = Half(h11.CLIENT, outside, lambda _read, _written: None) if outside else None
        self._filling = filling
        self._refused = refused
        self._notes = notes
        self._noted: Exchange | None = None
        self._method = b""
        self._hung_up: asyncio.Task[None] = asyncio.create_task(_closed(inside[1]))

    async def run(self) -> None:
        """Until one side has ended. Errors: OSError when it was broken off; the inside must then be reset."""
        assert self._outside is not None
        try:
            while await self._exchange(self._outside):
                pass
            await self._end()
        except Refused as refused:
            self._refused(str(refused))
            await self._refuse(refused)
        finally:
            self._hung_up.cancel()

    async def refuse(self, refusal: Refused) -> None:
        """Answers the first request so. Errors: OSError."""
        try:
            if await self._request():
                await self._refuse(refusal)
        except Refused as worse:
            await self._refuse(worse)
        finally:
            self._hung_up.cancel()

    def _count(self, read: int, written: int) -> None:
        self._carried.bytes_out += read
        self._carried.bytes_in += written

    async def _exchange(self, outside: Half) -> bool:
        """One request and its answer. False when there is no other to come. Errors: Refused, OSError."""
        request = await self._next_request(outside)
        if request is None:
            return False
        await self._pass_on(request, outside)
        sending = asyncio.create_task(self._send_body(outside))
        answering = asyncio.create_task(self._send_answer(outside))
        try:
            if await self._answered(answering, sending):
                sending.cancel()
                await self._switched(outside)
                return False
            await asyncio.wait({sending}, timeout=LINGER_SECONDS)
        finally:
            for task in (sending, answering):
                task.cancel()
            await asyncio.gather(sending, answering, return_exceptions=True)
        if not (self._inside.is_done and outside.is_done):
            return False
        self._inside.http.start_next_cycle()
        outside.http.start_next_cycle()
        return True

    async def _answered(self, answering: "asyncio.Task[bool]", sending: "asyncio.Task[None]") -> bool:
        """As `_send_answer`. Errors: as those of both; OSError when the workflow isn't there any more."""
        watched: set[asyncio.Task[bool] | asyncio.Task[None]] = {answering, sending, self._hung_up}
        while not answering.done():
            ended, watched = await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
            if sending in ended:
                sending.result()
            if self._hung_up in ended and not answering.done():
                raise ConnectionResetError("the workflow hung up")
        return answering.result()

    async def _next_request(self, outside: Half) -> h11.Request | None:
        """None when either side has no more to say. Errors: Refused, OSError."""
        waiting = asyncio.create_task(self._request())
        # A server that ends an idle connection, or speaks out of turn.
        lost = asyncio.create_task(outside.read())
        try:
            await asyncio.wait({waiting, lost}, return_when=asyncio.FIRST_COMPLETED)
            if not lost.done():
                return waiting.result()
            if lost.result():
                raise ConnectionResetError("the server spoke out of turn")
            return None
        finally:
            for task in (waiting, lost):
                task.cancel()
            await asyncio.gather(waiting, lost, return_exceptions=True)

    async def _request(self) -> h11.Request | None:
        """The head of the next one. Errors: Refused, OSError."""
        try:
            event = await self._inside.next()
        except h11.RemoteProtocolError as error:
            raise Refused(error.error_status_hint, "bad_request", "this isn't HTTP/1.1 as we can read it") from None
        if not isinstance(event, h11.Request):
            return None
        self._method = event.method
        return event

    async def _pass_on(self, request: h11.Request, outside: Half) -> None:
        """Errors: Refused, OSError."""
        headers = request.headers.raw_items()
        self._check(request, headers)
        filled = self._filling.fill(headers)
        if self._notes:
            self._noted = self._notes.begin(self._filling, request, filled)
            if self._filling.values:  # what is compressed can't be searched for them
                filled = [item for item in filled if item[0].lower() != b"accept-encoding"]
                filled.append((b"Accept-Encoding", b"identity"))
        try:
            await outside.send(h11.Request(method=request.method, target=request.target, headers=filled))
        except h11.LocalProtocolError:  # its text may hold the value
            raise Refused(400, "bad_request", "a secret doesn't fit into the header that it is meant for") from None

    def _check(self, request: h11.Request, headers: list[tuple[bytes, bytes]]) -> None:
        """Errors: Refused."""
        if request.http_version not in (b"1.0", b"1.1"):
            raise Refused(505, "bad_request", "only HTTP/1.1 is spoken where secrets are filled in")
        if request.method.upper() in _REFUSED_METHODS:
            method = request.method.decode()
            raise Refused(405, "method_not_allowed", f"{method} isn't possible where secrets are filled in")
        names = [name.lower() for name, _ in headers]
        if b"content-length" in names and b"transfer-encoding" in names:
            raise Refused(400, "bad_request", "a request has one length: Content-Length or Transfer-Encoding")
        if not request.target.startswith(b"/") and request.target != b"*":
            raise Refused(400, "bad_request", "a request's target is a path here, not a whole address")
        if self._filling.values and not self._filling.is_meant(headers):
            raise Refused(
                421, "host_mismatch", f"the Host header must name {self._filling.host}, as the connection does"
            )

    async def _send_body(self, outside: Half) -> None:
        """As far as the server takes it. Errors: OSError when it is broken off, or its framing is wrong."""
        while True:
            try:
                event = await self._inside.next()
            except h11.RemoteProtocolError:
                raise ConnectionResetError("the request's body was broken off, or isn't framed as HTTP/1.1") from None
            assert isinstance(event, h11.Data | h11.EndOfMessage)
            if self._noted and isinstance(event, h11.Data):
                self._noted.request.add(bytes(event.data))
            try:
                await outside.send(event)
            except (OSError, h11.LocalProtocolError):
                return  # why, its answer says, or that there is none
            if isinstance(event, h11.EndOfMessage):
                return

    async def _send_answer(self, outside: Half) -> bool:
        """Whether the protocol is another from now on. Errors: Refused while nothing of it is out; OSError."""
        begun = False
        try:
            while True:
                event = await outside.next()
                if isinstance(event, h11.Response):
                    begun = True
                    event = _as_we_pass_it(event)
                elif not isinstance(event, h11.InformationalResponse | h11.Data | h11.EndOfMessage):
                    raise ConnectionResetError("the server broke off")
                self._note(event)
                await self._inside.send(event)
                if isinstance(event, h11.EndOfMessage):
                    return False
                if isinstance(event, h11.InformationalResponse) and event.status_code == 101:
                    return True
        except (h11.ProtocolError, OSError) as error:
            if begun or self._hung_up.done():
                raise ConnectionResetError("the answer was broken off") from None
            what = "closed the connection" if isinstance(error, OSError) else "doesn't speak HTTP/1.1"
            raise Refused(502, "upstream_failed", f"{self._filling.host} {what} before it answered") from None

    def _note(self, event: h11.Event) -> None:
        """Of an answer's."""
        noted = self._noted
        if noted is None:
            return
        if isinstance(event, h11.Response):
            noted.answered(event.status_code, event.headers.raw_items())
            noted.failed = "the answer was broken off"
        elif isinstance(event, h11.Data):
            noted.answer.add(bytes(event.data))
        elif isinstance(event, h11.EndOfMessage):
            noted.failed = ""
        elif isinstance(event, h11.InformationalResponse) and event.status_code == 101:
            noted.failed = "another protocol was spoken from then on"

    async def _switched(self, outside: Half) -> None:
        """Both ways, as it comes, until one side ends. Errors: OSError."""
        first_out, _ = self._inside.http.trailing_data
        first_in, _ = outside.http.trailing_data
        ways = [
            asyncio.create_task(_copy(self._inside, outside, first_out)),
            asyncio.create_task(_copy(outside, self._inside, first_in)),
        ]
        try:
            ended, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in ended:
                way.result()
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _refuse(self, refused: Refused) -> None:
        """Errors: OSError, where it is too late for an answer."""
        if self._inside.http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            raise ConnectionResetError(str(refused))
        body = json.dumps({"detail": str(refused), "code": refused.code}).encode()
        headers = [
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            ("error-origin", "runtime"),
            ("connection", "close"),
        ]
        await self._inside.send(h11.Response(status_code=refused.status, headers=headers))
        if self._method != b"HEAD":
            await self._inside.send(h11.Data(data=body))
        await self._end()

    async def _end(self) -> None:
        """What is buffered goes out, and what still comes is dropped."""
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                while self._owes() and await self._inside.read():
                    pass
        try:
            async with asyncio.timeout(LINGER_SECONDS):
                self._inside.writer.close()
                await asyncio.shield(self._hung_up)
        except TimeoutError:
            reset(self._inside.writer)

    def _owes(self) -> bool:
        """Whether the workflow may still be sending."""
        with suppress(h11.RemoteProtocolError):
            while isinstance(self._inside.http.next_event(), h11.Data):
                pass
        return self._inside.http.their_state in (h11.SEND_BODY, h11.ERROR)


def _as_we_pass_it(response: h11.Response) -> h11.Response:
    """The end of an HTTP/1.0 answer is the end of its connection."""
    headers = response.headers.raw_items()
    if response.http_version < b"1.1":
        headers = [*headers, (b"connection", b"close")]
    return h11.Response(status_code=response.status_code, headers=headers, reason=response.reason)


async def _copy(source: Half, target: Half, first: bytes) -> None:
    await target.write(first)
    while data := await source.read():
        await target.write(data)


async def _closed(writer: asyncio.StreamWriter) -> None:
    """When the connection is gone, however."""
    try:
        await asyncio.shield(writer.wait_closed())
    except OSError:
        return
