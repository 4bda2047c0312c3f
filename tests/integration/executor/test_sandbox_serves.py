"""One request and its answer through a real sandbox: bodies, streams, breaks, hang-ups, deaths."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import cast

import pytest

from executor.driver import BubblewrapDriver
from executor.sandbox import AnswerEnd, Crashed, Event, Exit, Finished, Head
from tests.fakes.real_sandboxes import READY_SECONDS, Started, chunks, once, started

APP = """
import asyncio, hashlib, json, os, sys, time, uvicorn

async def start(send, status=200, headers=()):
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})

async def body(send, data=b"", more=False):
    await send({"type": "http.response.body", "body": data, "more_body": more})

async def read(receive):
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            print("disconnected")
            return
        yield message.get("body", b"")
        if not message["more_body"]:
            return

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        return
"""


def script(handler: str) -> str:
    lines = "\n".join(f"    {line}" for line in handler.strip().splitlines())
    return f"{APP}{lines}\n\nuvicorn.run(app)\nprint('after')\n"


def post(path: str = "/", query: str = "", **headers: str) -> Head:
    return Head([(k.encode(), v.encode()) for k, v in headers.items()], method="POST", path=path, query=query)


@pytest.mark.parametrize(
    ("handler", "error"),
    [
        ("await start(send)\nawait body(send, b'half', more=True)\nraise KeyError('x')", "KeyError: 'x'"),
        ("await start(send)\nawait body(send, b'half', more=True)", "without completing response"),
        ("await start(send, headers=[(b'content-length', b'9')])\nawait body(send, b'half')", "shorter than Content-"),
        ("await start(send, headers=[(b'content-length', b'2')])\nawait body(send, b'half')", "longer than Content-"),
        ("await start(send)\nraise SystemExit(3)", "SystemExit: 3"),
    ],
)
async def test_an_answer_that_breaks_has_no_end(driver: BubblewrapDriver, handler: str, error: str) -> None:
    answer, session = await once(driver, script(handler))
    assert answer.status == 200
    assert not answer.ended
    assert answer.finished is not None
    assert error in answer.finished.error
    assert error.encode() in session.stderr


async def test_no_answer_at_all_is_a_500(driver: BubblewrapDriver) -> None:
    answer, _ = await once(driver, script("pass"))
    assert (answer.status, answer.ended) == (500, True)
    assert answer.finished is not None
    assert "without starting response" in answer.finished.error


@pytest.mark.parametrize("headers", ["[(b'bad name', b'x')]", "[(b'x', b'a\\r\\nb: c')]", "[(b'x', b'y' * 300_000)]"])
async def test_headers_that_are_none_are_a_500(driver: BubblewrapDriver, headers: str) -> None:
    answer, _ = await once(driver, script(f"await start(send, headers={headers})\nawait body(send)"))
    assert (answer.status, answer.ended) == (500, True)


async def test_head_has_no_body(driver: BubblewrapDriver) -> None:
    handler = "await start(send, headers=[(b'content-length', b'4')])\nawait body(send, b'body')"
    answer, _ = await once(driver, script(handler), Head([], method="HEAD"))
    assert answer.head is not None
    assert answer.head.headers == [(b"content-length", b"4")]
    assert (answer.body, answer.ended, answer.finished) == (b"", True, Finished())


async def test_work_after_the_answer_is_finished_before_the_end(driver: BubblewrapDriver) -> None:
    handler = "await start(send)\nawait body(send, b'ok')\nawait asyncio.sleep(0.3)\nprint('late')"
    async with started(driver, script(handler)) as session:
        await session.sandbox.ready(READY_SECONDS)
        events = aiter(session.sandbox.serve(post(), chunks()))
        assert [await anext(events) for _ in range(3)][-1] == AnswerEnd()
        assert await anext(events) == Finished()
    assert session.stdout == b"late\nafter\n"


async def test_a_caller_who_hangs_up_on_an_app_that_never_reads(driver: BubblewrapDriver) -> None:
    async with started(
        driver, script("await start(send)\nawait body(send, b'deaf', more=True)\ntime.sleep(600)")
    ) as session:
        await session.sandbox.ready(READY_SECONDS)
        events = cast(AsyncGenerator[Event, None], session.sandbox.serve(post(), chunks(*[b"x" * 1_000_000] * 8)))
        async with asyncio.timeout(READY_SECONDS), aclosing(events):
            await anext(events)
            await session.sandbox.caller_gone()
    assert session.exit == Exit(signal=9)


@pytest.mark.parametrize(
    ("death", "told"),
    [
        ("os._exit(3)", "exit status 3"),
        ("os.kill(os.getpid(), 9)", r"signal 9 \(SIGKILL\)"),
        ("os.kill(os.getpid(), 6)", r"signal 6 \(SIGABRT\)"),
    ],
)
async def test_a_process_that_dies_while_serving(driver: BubblewrapDriver, death: str, told: str) -> None:
    async with started(driver, script(f"await start(send)\nprint('last words')\n{death}")) as session:
        await session.sandbox.ready(READY_SECONDS)
        with pytest.raises(Crashed, match=told):
            await session.call(post())
    assert session.stdout == b"last words\n"


HOSTILE = """
import gc, socket
ends = [o._sock for o in gc.get_objects() if type(o).__name__ == "Exchange"]
def raw(data):
    ends[0].setblocking(True)
    ends[0].sendall(data)
"""


@pytest.mark.parametrize(
    "frame",
    [
        r"b'\xff\xff\xff\xffD'",
        r"b'\x00\x04\x00\x01D' + b'x' * 262145",
        r"b'\x00\x00\x00\x01?x'",
        r"b'\x00\x00\x00\x02D{}'",
        r"b'\x00\x00\x00\x03H[1]'",
        r"b'\x00\x00\x00\x02H{}'",
        r"b'\x00\x00\x00\x20H' + b'{\"status\": true, \"headers\": []   }'[:32]",
        r"b'\x00\x00\x00\x1fH' + b'{\"status\": 200, \"headers\": [[1]]}'[:31]",
        r"b'\x00\x00\x00\x05H' + b'[' * 5",
        r"b'\x00\x00\xc3\x50H' + b'[' * 50000",
    ],
)
async def test_frames_that_break_the_protocol(driver: BubblewrapDriver, frame: str) -> None:
    handler = f"{HOSTILE.strip()}\nraw({frame})\nawait asyncio.sleep(60)"
    async with started(driver, script(handler)) as session:
        await session.sandbox.ready(READY_SECONDS)
        with pytest.raises(Crashed, match="broke the protocol"):
            await session.call(post())


async def test_what_the_body_raises_comes_out(driver: BubblewrapDriver) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"first"
        raise RuntimeError("the caller is gone")

    async with started(driver, script("async for _ in read(receive): pass")) as session:
        await session.sandbox.ready(READY_SECONDS)
        with pytest.raises(RuntimeError, match="the caller is gone"):
            async for _ in session.sandbox.serve(post(), broken()):
                pass


async def test_a_close_goes_on_when_its_caller_is_cancelled(driver: BubblewrapDriver) -> None:
    session: Started
    async with started(driver, "import time\ntime.sleep(600)") as session:
        closing = asyncio.create_task(session.sandbox.close())
        await asyncio.sleep(0)
        closing.cancel()
        assert await session.sandbox.close() == Exit(signal=9)
