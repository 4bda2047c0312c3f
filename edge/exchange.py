"""One public call: its head read, its key checked, its handler run, its answer written frame by frame."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

from edge.anyone import OPEN, SANDBOX
from edge.auth import Auth, without_key
from edge.ending import Ending
from edge.head import decoded, request_headers
from edge.http import BODILESS, Aborted, Answer, Handler, Request
from edge.model import Access, RunIdentity
from edge.problems import OURS, bug, dressed, nowhere, refusal, stopping
from edge.rates import RateLimits
from edge.routes import Route
from edge.transfer import Transfer
from kit.errors import Conflict, Invalid, Problem, Unauthenticated
from kit.telemetry import log, span, trace_id

LINGER_SECONDS = 3.0
LINGER_BYTES = 64 * 1024 * 1024

Reader = Callable[[], Awaitable[bytes | None]]


class Exchange:
    """Serves one rpc. `context` is grpc.aio's; `read` gives the body part by part, None at its end."""

    def __init__(
        self,
        handler: Handler,
        access: Access,
        route: Route,
        auth: Auth,
        rates: RateLimits,
        ending: Ending,
        context: Any,
        read: Reader,
    ) -> None:
        self._handler = handler
        self._access = access
        self._route = route
        self._auth = auth
        self._rates = rates
        self._ending = ending
        self._context = context
        self._read = read
        self._transfer = Transfer(context)
        self._why: Problem | None = None
        self._body_read = False
        self._length: int | None = None
        self._reading: asyncio.Future[bytes | None] | None = None

    async def serve(self) -> bytes:
        """Reads no byte of the body before the key is checked; a handler reads it as far as it wants. Returns the last
        message of the rpc.
        """
        metadata = dict(self._context.invocation_metadata())
        request = self._request(metadata)
        token = metadata.get("x-runmesh-run", "")
        run = self._auth.identity(token) if token else None
        # Not the path itself: what stands in it, and in the query, may be a secret.
        route = self._route.template
        with span("edge.request", parent=_parent(run, metadata), method=request.method, route=route):
            try:
                async with asyncio.timeout(None) as patience:
                    with self._ending.watching(lambda: self._stop(patience, stopping(request.begun), finish=True)):
                        keyed = bool(metadata.get("x-runmesh-keyed"))
                        await self._admitted(request, token, run, patience, keyed=keyed)
            except Exception as error:  # noqa: BLE001  # the caller is told something in any case; bugs are logged
                await self._failed(request, error)
        try:
            await self._linger(request)
        finally:
            if self._reading is not None:
                self._reading.cancel()
        return self._transfer.last

    async def _linger(self, request: Request) -> None:
        """Takes the rest of a body that nobody read: a caller that is still sending when its connection is closed
        would lose the answer. Those whose answer is out whole only; the others have no end before this one.
        """
        if not self._transfer.whole or not self._may_send(request):
            return
        size = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                async for part in self._parts():
                    size += len(part)
                    if size > LINGER_BYTES:
                        return

    async def _parts(self) -> AsyncIterator[bytes]:
        """The body, frame by frame. Not grpc's own iterator: one that nobody reads to its end is complained about."""
        size = 0
        while not self._body_read:
            # Shielded: grpc would lose what a cancelled read was about to bring, and take no other read.
            if self._reading is None:
                self._reading = asyncio.ensure_future(self._read())
            part = await asyncio.shield(self._reading)
            self._reading = None
            size += len(part or b"")
            # Envoy lets no body through that is shorter or longer than announced; nor do we wait for its end then.
            self._body_read = part is None or size == self._length
            if part:
                yield part

    def _may_send(self, request: Request) -> bool:
        """Whether the caller may still be sending its body."""
        return not (self._body_read or (request.method in BODILESS and request.length is None))

    async def _send(self, request: Request, answer: Answer) -> None:
        if OURS in answer.headers:
            answer = dressed(request, answer)
        answer.headers.extend(request.told)
        await self._transfer.send(request, answer, sending=self._may_send(request))

    def _request(self, metadata: dict[str, str]) -> Request:
        gone = asyncio.Event()
        self._context.add_done_callback(lambda _: gone.set())
        path = decoded(metadata.get("x-runmesh-path", ""))
        request = Request(
            method=metadata.get("x-runmesh-method", ""),
            path=path,
            query=decoded(metadata.get("x-runmesh-query", "")),
            headers=request_headers(metadata),
            body=self._parts(),
            gone=gone,
        )
        self._length = request.length
        self._body_read = self._length == 0
        return request

    async def _admitted(
        self, request: Request, token: str, run: RunIdentity | None, patience: asyncio.Timeout, *, keyed: bool
    ) -> None:
        params = self._route.parameters(request.path)
        if params is None or not self._route.takes(request.method):
            await self._send(request, nowhere(request))
            return
        if run is not None and not run.run_id:
            raise Conflict(
                "a workflow is being loaded, and no run of it has begun: call the runtime from a handler, not at import"
            )
        if token and run is None:
            raise Unauthenticated("the identity of this run isn't valid any more")
        if request.header("content-type").lower().startswith("application/grpc"):
            raise Invalid("the runtime speaks plain HTTP; application/grpc isn't accepted")
        request = dataclasses.replace(request, params=params)
        # A connection out of a sandbox says which run it is; that it is that run's own wish, and not that of an address
        # which somebody gave it to fetch, says the key that was sent along.
        speaker = run if keyed else None
        principal = await self._auth.admit(request, self._access, speaker, self._rates.expect)
        request = dataclasses.replace(request, principal=principal)
        if principal is not None and principal.key_id:
            request = without_key(request)
        await self._rates.admit(request)
        revoked = Unauthenticated("the key of this call isn't valid any more")
        with self._rates.place(request), self._auth.watching(request, lambda: self._stop(patience, revoked)):
            answer = await self._handler(request)
            if principal is not None and principal.kind == OPEN:
                answer.headers.append(SANDBOX)
            await self._send(request, answer)

    def _stop(self, patience: asyncio.Timeout, why: Problem, *, finish: bool = False) -> None:
        """Cancels the handler or breaks the transfer off, because of `why`; an answer that is there already may
        `finish`.
        """
        if self._why or (finish and self._transfer.brief):
            return
        self._why, self._transfer.stopped = why, True
        if not self._transfer.writing:
            patience.reschedule(asyncio.get_running_loop().time())

    async def _failed(self, request: Request, error: Exception) -> None:
        """An error as the answer; where an answer has begun, its transfer is broken off."""
        if self._why:
            error, self._transfer.stopped = self._why, False
        if not isinstance(error, Problem | Aborted):
            log().error("edge.failed", method=request.method, route=self._route.template, exc_info=error)
        if request.gone.is_set():
            return
        if self._transfer.begun:
            await self._transfer.break_off()
        else:
            run_id = request.begun[-1] if self._why and request.begun else ""
            answer = refusal(error, request_id=run_id) if isinstance(error, Problem) else bug()
            if run_id:
                answer.headers.append(("x-request-id", run_id))
            await self._send(request, answer)


def _parent(run: RunIdentity | None, metadata: dict[str, str]) -> str | None:
    """The incoming trace, but a run's own where the run sent none or another."""
    if run is None or (run.traceparent and trace_id(metadata.get("traceparent", "")) == trace_id(run.traceparent)):
        return None
    return run.traceparent or None
