"""The end of the drain, as one call sees it: edge.ending, exchange and transfer on a context of the test's own."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from google.api.httpbody_pb2 import HttpBody

from edge.auth import Auth
from edge.ending import Ending
from edge.exchange import Exchange
from edge.http import Answer, Handler, Request
from edge.identity import identifier
from edge.model import Access, Principal
from edge.route_wire import SERVICES, route
from edge.wire import BROKEN
from kit.clock import SystemClock
from tests.fakes.anyone import Nobody
from tests.fakes.permits import UNLIMITED

HEALTHZ = route(next(rpc for each in SERVICES for rpc in each.methods if rpc.name == "CheckHealth"))


class Context:
    """grpc.aio's, with writes that wait until the test lets them through."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.through = asyncio.Event()
        self.writing = asyncio.Event()
        self.through.set()

    def invocation_metadata(self) -> list[tuple[str, str]]:
        return [("x-runmesh-method", "GET"), ("x-runmesh-path", "/healthz")]

    def add_done_callback(self, _done: Callable[[Any], None]) -> None: ...

    @property
    def head(self) -> str:
        """What the first message says of status and headers."""
        first: str = HttpBody.FromString(self.written[0]).content_type if self.written else ""
        return first.removeprefix("x-runmesh-answer|")

    async def write(self, message: bytes) -> None:
        self.writing.set()
        await self.through.wait()
        self.written.append(message)


class NoKeys:
    async def verify(self, key: str) -> Principal:
        raise AssertionError(key)


@pytest.fixture
def context() -> Context:
    return Context()


def serving(handler: Handler, ending: Ending, context: Context) -> "asyncio.Task[None]":
    async def read() -> bytes | None:
        return None

    clock = SystemClock()
    auth = Auth(NoKeys(), identifier(b"m" * 32, clock), Nobody(), clock=clock)

    async def serve() -> None:
        last = await Exchange(handler, Access.OPEN, HEALTHZ, auth, UNLIMITED, ending, context, read).serve()
        if last:
            await context.write(last)

    return asyncio.create_task(serve())


async def test_whoever_comes_after_the_end_is_told_at_once(context: Context) -> None:
    ending = Ending()
    ending.come()

    async def hangs(_request: Request) -> Answer:
        await asyncio.Event().wait()
        raise AssertionError

    await asyncio.wait_for(serving(hangs, ending, context), 5)
    assert context.head.startswith("503|")
    assert b'"code":"unavailable"' in context.written[0]


async def test_an_answer_on_its_way_may_finish(context: Context) -> None:
    ending = Ending()

    async def answers(_request: Request) -> Answer:
        return Answer(200, [], b"whole")

    context.through.clear()
    call = serving(answers, ending, context)
    await asyncio.wait_for(context.writing.wait(), 5)
    ending.come()
    context.through.set()
    await asyncio.wait_for(call, 5)
    assert context.head.startswith("200|")
    assert [b"whole" in message for message in context.written] == [True]


@pytest.mark.parametrize("stuck", [True, False])
async def test_a_stream_breaks_off(context: Context, stuck: bool) -> None:
    """Also one whose caller doesn't read: no second message may be sent while one is under way."""
    ending, opened = Ending(), asyncio.Event()

    async def silence() -> AsyncIterator[bytes]:
        opened.set()
        await asyncio.Event().wait()
        yield b"never"

    async def streams(_request: Request) -> Answer:
        return Answer(200, [], silence())

    if stuck:
        context.through.clear()
    call = serving(streams, ending, context)
    await asyncio.wait_for((context.writing if stuck else opened).wait(), 5)
    ending.come()
    context.through.set()
    await asyncio.wait_for(call, 5)
    assert context.head.startswith("200|")
    assert context.written[1:] == [BROKEN]


async def test_a_caller_who_hangs_up_is_told_nothing(context: Context) -> None:
    ending, started = Ending(), asyncio.Event()

    async def hangs(_request: Request) -> Answer:
        started.set()
        await asyncio.Event().wait()
        raise AssertionError

    call = serving(hangs, ending, context)
    await asyncio.wait_for(started.wait(), 5)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert (context.head, context.written) == ("", [])
    ending.come()  # knows it no longer
