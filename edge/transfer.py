"""An answer on its way out: HttpBody messages that become the body; the first one's content type becomes the head."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from edge.head import answer_head
from edge.http import Aborted, Answer, Request
from edge.wire import BROKEN, NOTHING, to_frame
from kit.errors import Exhausted
from kit.names import new_id
from kit.telemetry import current_traceparent

CHUNK_BYTES = 256 * 1024
MAX_CORRELATION_LENGTH = 200


class Transfer:
    """The way back of one call. `context` is grpc.aio's.

    While `writing` is true the task must not be cancelled: grpc takes no second message (such as BROKEN) while one is
    under way. Set `stopped` instead: it is seen after the write, as Aborted. `brief`: the answer is no stream. `last`:
    the message that the rpc is to end with.
    """

    def __init__(self, context: Any) -> None:
        self._context = context
        self.begun = False
        self.brief = False
        self.whole = False
        self.writing = False
        self.stopped = False
        self.last = NOTHING

    async def send(self, request: Request, answer: Answer, *, sending: bool) -> None:
        """The whole answer. Of one that is no stream the `last` message is left over: it goes out with the rpc's end
        for half the price. Not so while the caller may still be `sending`.

        Errors: Exhausted (too_much_output) for a head that can't be sent; what its iterator raises, after which `begun`
        tells whether a head is out.
        """
        status = answer.status if 200 <= answer.status <= 599 else 500
        silent = request.method == "HEAD" or status in {204, 304}
        async with _closed(answer.body) as body:
            length = len(body) if isinstance(body, bytes) else None
            head = answer_head(status, headers(request, answer), length)
            if head is None:
                raise Exhausted("the headers of the answer are too large", code="too_much_output")
            self.begun, self.brief = True, length is not None
            if isinstance(body, bytes):
                await self._send_brief(head, b"" if silent else body, sending=sending)
                self.whole = True
                return
            await self._write(to_frame(b"", head))
            async for part in body:
                if part and not silent:
                    await self._write_more(part)

    async def break_off(self) -> None:
        """The caller sees a transfer that ends before its end."""
        await self._context.write(BROKEN)

    async def _send_brief(self, head: str, body: bytes, *, sending: bool) -> None:
        rest = b""
        if len(body) > CHUNK_BYTES:
            await self._write(to_frame(b"", head))
            cut = (len(body) - 1) // CHUNK_BYTES * CHUNK_BYTES
            await self._write_more(memoryview(body)[:cut])
            rest, head = body[cut:], ""
        frame = to_frame(rest or body, head)
        if sending:
            await self._write(frame)
        else:
            self.last = frame

    async def _write_more(self, data: bytes | memoryview) -> None:
        for start in range(0, len(data), CHUNK_BYTES):
            await self._write(to_frame(bytes(data[start : start + CHUNK_BYTES])))

    async def _write(self, frame: bytes) -> None:
        self.writing = True
        try:
            await self._context.write(frame)
        finally:
            self.writing = False
        if self.stopped:
            raise Aborted


def headers(request: Request, answer: Answer) -> list[tuple[str, str]]:
    """The answer's headers with what every answer bears, where the handler hasn't set it."""
    given = {name.lower(): value for name, value in answer.headers}
    request_id = given.get("x-request-id") or new_id("req")
    own = {
        "x-request-id": request_id,
        "x-correlation-id": request.header("x-correlation-id")[:MAX_CORRELATION_LENGTH] or request_id,
        "traceparent": current_traceparent(),
        "error-origin": "runtime" if answer.status >= 400 else "",
    }
    return answer.headers + [(name, value) for name, value in own.items() if value and name not in given]


@asynccontextmanager
async def _closed(body: bytes | AsyncIterator[bytes]) -> AsyncIterator[bytes | AsyncIterator[bytes]]:
    """A generator's `finally` runs when the transfer ends, not when it is collected."""
    try:
        yield body
    finally:
        if isinstance(body, AsyncGenerator):
            await body.aclose()
