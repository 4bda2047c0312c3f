"""What a driver of sandboxes promises (executor/sandbox.py): the fake that other tests use, none, bubblewrap, its
slots, gVisor."""

import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from executor.cgroups import Usage
from executor.driver import open_driver
from executor.gvisor import find_runsc
from executor.gvisor_driver import open_gvisor
from executor.none_driver import open_none
from executor.sandbox import AnswerEnd, Crashed, Driver, Event, Exit, Finished, Head, Launch, Said, Sandbox, StartFailed
from executor.templates import open_templates
from kit.clock import SystemClock
from tests.fakes.real_sandboxes import OUR_ENVIRONMENT, PUBLIC_URL, READY_SECONDS, chunks, drain
from tests.fakes.sandbox import FakeDriver, FakeSandbox, echo

ECHO = b"""
import uvicorn

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        return
    body = b""
    while (message := await receive())["more_body"]:
        body += message["body"]
    body += message["body"]
    headers = [*scope["headers"], (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})

uvicorn.run(app)
"""
METERED = b"""
import json, uvicorn

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        return
    while (await receive())["more_body"]:
        pass
    meter = (scope.get("extensions") or {}).get("runmesh.meter")
    told = []
    if meter:
        told = [await meter.afford("m", 10, None), await meter.so_far(1, 2, 3), await meter.used(1, 4, 5, 1)]
    body = json.dumps(told).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})

uvicorn.run(app)
"""
BROKEN = b"raise ValueError('broken')"


@pytest.fixture(params=["fake", "none", "bubblewrap", "slots", "gvisor"])
async def driver(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Driver]:
    if request.param == "fake":
        yield FakeDriver(app=echo)
    elif request.param == "none":
        async with open_none(tmp_path) as none:
            yield none
    elif request.param == "gvisor":
        if find_runsc() is None:
            pytest.skip("gVisor (runsc) isn't installed on this machine")
        async with open_gvisor(tmp_path / "home", PUBLIC_URL) as gvisor:
            yield gvisor
    else:
        async with open_driver(tmp_path / "home", PUBLIC_URL) as real:
            if request.param == "bubblewrap":
                yield real
            else:
                async with open_templates(real, SystemClock(), READY_SECONDS) as templates:
                    yield templates


async def start(driver: Driver, source: bytes = ECHO) -> Sandbox:
    if source == BROKEN and isinstance(driver, FakeDriver):
        driver.fails = StartFailed("import", "ValueError: broken", line=1)
    return await driver.start(Launch("run_1", OUR_ENVIRONMENT, source, "workflow.py", {}, isolation="run"))


async def end(sandbox: Sandbox) -> Exit:
    """Closes, and reads both pipes: they come to their end."""
    exited = await sandbox.close()
    drain(sandbox.process.stdout)
    drain(sandbox.process.stderr)
    return exited


async def test_one_request_from_start_to_end(driver: Driver) -> None:
    sandbox = await start(driver)
    await sandbox.ready(READY_SECONDS)
    assert await sandbox.openapi() == ""
    events = [event async for event in sandbox.serve(Head([(b"x", b"y")], method="POST"), chunks(b"a", b"bc"))]
    expected = [Head([(b"x", b"y"), (b"content-length", b"3")], status=200), b"abc", AnswerEnd(), Finished()]
    assert events == expected
    await end(sandbox)


async def test_closing_twice_is_closing_once(driver: Driver) -> None:
    sandbox = await start(driver)
    assert await sandbox.close() == await end(sandbox)


async def test_nothing_is_served_by_a_closed_one(driver: Driver) -> None:
    sandbox = await start(driver)
    await sandbox.ready(READY_SECONDS)
    await end(sandbox)
    with pytest.raises(Crashed):
        async for _ in sandbox.serve(Head([]), chunks()):
            pass


async def test_a_script_that_fails_says_why(driver: Driver) -> None:
    sandbox = await start(driver, BROKEN)
    with pytest.raises(StartFailed) as caught:
        await sandbox.ready(READY_SECONDS)
    assert (caught.value.kind, caught.value.detail, caught.value.line) == ("import", "ValueError: broken", 1)
    await end(sandbox)


async def test_telling_that_the_caller_is_gone_is_always_allowed(driver: Driver) -> None:
    sandbox = await start(driver)
    await sandbox.caller_gone()
    await end(sandbox)
    await sandbox.caller_gone()


async def test_the_pipes_belong_to_whoever_started_it(driver: Driver) -> None:
    sandbox = await start(driver)
    await sandbox.close()
    assert os.fstat(sandbox.process.stdout)
    await end(sandbox)


async def test_what_it_has_used_is_told_while_it_lives(driver: Driver) -> None:
    """Nothing at all where that can't be told; else never more than in the end."""
    sandbox = await start(driver)
    await sandbox.ready(READY_SECONDS)
    used = sandbox.usage()
    exited = await end(sandbox)
    assert used.cpu_seconds <= exited.used.cpu_seconds
    assert used.memory_peak <= exited.used.memory_peak
    assert (used == Usage()) == (exited.used == Usage())


async def metered(sandbox: FakeSandbox, request: Head, body: AsyncIterator[bytes]) -> AsyncIterator[Event]:
    """METERED, for the fake."""
    told: list[object] = []
    if request.metered:
        yield Said(json.dumps({"id": 1, "op": "afford", "model": "m", "tokens_in": 10, "tokens_out": None}).encode())
        granted = json.loads(sandbox.told[-1])
        yield Said(json.dumps({"op": "so_far", "call": 1, "in": 2, "out": 3}).encode())
        yield Said(json.dumps({"id": 2, "op": "used", "call": 1, "in": 4, "out": 5, "cached": 1}).encode())
        told = [{"call": granted.pop("id"), **granted}, None, None]
    answer = json.dumps(told).encode()
    yield Head([(b"content-length", str(len(answer)).encode())], status=200)
    yield answer
    yield AnswerEnd()
    yield Finished()


@pytest.mark.parametrize("is_metered", [True, False])
async def test_a_metered_request_says_what_it_uses_and_is_told(driver: Driver, *, is_metered: bool) -> None:
    if isinstance(driver, FakeDriver):
        driver.app = metered
    sandbox = await start(driver, METERED)
    await sandbox.ready(READY_SECONDS)
    said, body = [], b""
    async for event in sandbox.serve(Head([], method="POST", metered=is_metered), chunks(b"abc")):
        if isinstance(event, Said):
            said.append(json.loads(event.payload))
            if "id" in said[-1]:
                await sandbox.tell(json.dumps({"id": said[-1]["id"], "granted": 7}).encode())
        body += event if isinstance(event, bytes) else b""
    assert json.loads(body) == ([{"call": 1, "granted": 7}, None, None] if is_metered else [])
    assert said == (
        [
            {"id": 1, "op": "afford", "model": "m", "tokens_in": 10, "tokens_out": None},
            {"op": "so_far", "call": 1, "in": 2, "out": 3},
            {"id": 2, "op": "used", "call": 1, "in": 4, "out": 5, "cached": 1},
        ]
        if is_metered
        else []
    )
    await end(sandbox)
