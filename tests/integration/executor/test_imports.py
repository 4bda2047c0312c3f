"""What a workflow reaches while it is loaded, into an internet of the test's own: by a template, and at a check."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from executor.driver import BubblewrapDriver, open_driver
from executor.egress.log import EgressLog
from executor.imports import Imports
from executor.inspect import Inspect
from executor.model import Limits
from executor.sandbox import Launch, StartFailed, Unforkable
from executor.template import Template
from executor.validate import ImportReport
from executor.wayout import proxy_header
from kit.clock import SystemClock
from tests.fakes.internet import FakeInternet
from tests.fakes.real_sandboxes import OUR_ENVIRONMENT, PUBLIC_URL, READY_SECONDS, Started

PUBLIC, OTHER = "93.184.216.34", "8.8.4.4"
LIMITS = Limits(memory_bytes=1 << 30, cpu=1, processes=64)
APP = """
import json, os, socket, uvicorn
def tried(what):
    try:
        return what()
    except OSError as error:
        return type(error).__name__
def talk(host, port, say=b"x"):
    with socket.create_connection((host, port), timeout=10) as sock:
        sock.sendall(say)
        try:
            sock.shutdown(socket.SHUT_WR)
        except OSError as error:  # ENOTCONN: it was reset meanwhile, as reading will tell
            if error.errno != 107:
                raise
        return sock.makefile("rb").read().decode()
%s

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        return
    said = json.dumps(tried(serve)).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": said})

uvicorn.run(app)
"""


class World(FakeInternet):
    """With a server that answers by its own name, and a runtime."""

    def __init__(self, home: Path) -> None:
        super().__init__({"a.example": [[PUBLIC]], "b.example": [[OTHER]]})
        self.home = home
        self.runtime: list[bytes] = []

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[BubblewrapDriver]:
        clock = SystemClock()
        async with self._server(b"first ") as first, self._server(b"second ") as second:
            self.servers |= {(PUBLIC, 80): first, (OTHER, 80): second, ("10.0.0.1", 80): first}
            self.imports = Imports(self.open(), clock, self.home / "plain", self.home / "tls", lambda: b"nobody")
            server = await asyncio.start_unix_server(self._answer, self.home / "plain")
            async with server, open_driver(self.home, PUBLIC_URL, imports=self.imports) as driver:
                yield driver

    @asynccontextmanager
    async def _server(self, name: bytes) -> AsyncIterator[int]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with suppress(ConnectionError):  # whoever it was is gone
                writer.write(name + await reader.read(-1))
                await writer.drain()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            yield server.sockets[0].getsockname()[1]

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.runtime.append(await reader.read(-1))
        writer.write(b"refused")
        await writer.drain()
        writer.close()


@pytest.fixture
def world(sandbox_home: Path) -> World:
    return World(sandbox_home)


def launch(code: str, rules: list[str] | None = None) -> Launch:
    return Launch("run_1", OUR_ENVIRONMENT, (APP % code).encode(), "w.py", {}, "run", "v1", "org", egress=rules)


def told(contacts: EgressLog) -> list[tuple[str, int, str, int]]:
    lines = [json.loads(line) for line in contacts.lines().splitlines()]
    return [(each["host"], each["port"], each["verdict"], each["bytes_in"]) for each in lines]


async def served(template: Template, world: World) -> tuple[Any, EgressLog]:
    """By a slot whose network is the internet too."""
    sandbox = await template.fork(lambda: None)
    session, contacts = Started(sandbox), EgressLog()
    try:
        async with world.imports.served(sandbox.process, None, contacts):
            await sandbox.ready(READY_SECONDS)
            answer = await session.call()
    finally:
        await session.end()
    return json.loads(answer.body), contacts


async def test_an_import_reaches_the_internet_and_its_slots_have_networks_of_their_own(world: World) -> None:
    it = launch("""
FOUND = talk("b.example", 80) + "|" + talk("a.example", 80)
ADDRESS = socket.gethostbyname("a.example")
NETWORK = os.readlink("/proc/self/ns/net")
def serve():
    return [FOUND, talk(ADDRESS, 80), os.readlink("/proc/self/ns/net") == NETWORK]
""")
    async with world.opened() as driver:
        template = await driver.start_template(it, READY_SECONDS)
        assert told(it.contacts) == [("b.example", 80, "allowed", 8), ("a.example", 80, "allowed", 7)]
        for _ in range(2):
            # The address means the same in each slot, though other names came before it.
            result, contacts = await served(template, world)
            assert result == ["second x|first x", "first x", False]
            assert told(contacts) == [("a.example", 80, "allowed", 7)]
        assert len(told(it.contacts)) == 2
        template.retire()
        await template.gone.wait()


async def test_nothing_answers_once_it_is_loaded(world: World) -> None:
    """Not even to a template that goes on by itself, such as in a signal's handler."""
    it = launch("""
import signal, pathlib
def late(*_):
    pathlib.Path("/tmp/late").write_text(tried(lambda: talk("10.0.0.1", 80)) + tried(lambda: talk("127.0.0.2", 80)))
signal.signal(signal.SIGALRM, late)
signal.setitimer(signal.ITIMER_REAL, 2.0)
def serve():
    import time
    time.sleep(2.5)
    return pathlib.Path("/tmp/late").read_text()
""")
    async with world.opened() as driver:
        template = await driver.start_template(it, READY_SECONDS)
        result, _ = await served(template, world)
        template.retire()
        await template.gone.wait()
    assert result == "ConnectionRefusedError" * 2
    assert told(it.contacts) == []


async def test_what_an_import_mustnt_reach(world: World) -> None:
    code = """
FOUND = [tried(lambda: talk(host, 80)) for host in ("10.0.0.1", "169.254.169.254", "a.example", "b.example")]
def serve():
    return FOUND
"""
    it = launch(code, ["a.example"])
    async with world.opened() as driver:
        template = await driver.start_template(it, READY_SECONDS)
        result, _ = await served(template, world)
        template.retire()
        await template.gone.wait()
    assert set(result[:2]) <= {"ConnectionResetError", "BrokenPipeError"}
    assert result[2:] == ["first x", "gaierror"]
    assert world.connected == [(PUBLIC, 80)]
    assert [each[:3] for each in told(it.contacts)] == [
        ("10.0.0.1", 80, "denied"),
        ("169.254.169.254", 80, "denied"),
        ("a.example", 80, "allowed"),
        ("b.example", 0, "denied"),
    ]


async def test_a_connection_that_stays_open_makes_it_cold(world: World) -> None:
    it = launch('KEPT = socket.create_connection(("a.example", 80))\ndef serve(): pass')
    async with world.opened() as driver:
        with pytest.raises(Unforkable, match=r"leaves socket:\[\d+\] \(descriptor \d+\) open"):
            await driver.start_template(it, READY_SECONDS)
    assert [each[:3] for each in told(it.contacts)] == [("a.example", 80, "allowed")]


async def test_an_import_that_asks_the_runtime_is_nobody(world: World) -> None:
    it = launch('FOUND = talk("runtime.runmesh", 80, b"GET /")\ndef serve():\n    return FOUND')
    async with world.opened() as driver:
        template = await driver.start_template(it, READY_SECONDS)
        result, _ = await served(template, world)
        template.retire()
        await template.gone.wait()
    assert result == "refused"
    assert world.runtime == [proxy_header(b"nobody") + b"GET /"]


async def test_an_import_that_never_ends_leaves_nothing(world: World) -> None:
    it = launch('KEPT = socket.create_connection(("a.example", 80)); KEPT.recv(1)')
    async with world.opened() as driver:
        with pytest.raises(StartFailed, match="too long"):
            await driver.start_template(it, 3)
    assert world.imports.internet.connections == 0


async def test_the_check_of_a_deploy(world: World) -> None:
    async with world.opened() as driver:
        check = Inspect(driver, world.imports)

        async def checked(code: str, rules: list[str] | None) -> ImportReport:
            return await check(OUR_ENVIRONMENT, launch(code).source, "w.py", {}, READY_SECONDS, LIMITS, rules)

        report = await checked('assert talk("a.example", 80) == "first x"', None)
        assert (report.ok, report.obstacle) == (True, "")
        report = await checked('talk("a.example", 80)', ["b.example"])
        assert (report.ok, report.error_kind) == (False, "import")
        assert "a connection to a.example was refused: the workflow's egress list doesn't have it" in report.log_tail
        report = await checked('talk("10.0.0.1", 80)', None)
        assert "10.0.0.1:80 was refused: a private address" in report.log_tail
        report = await checked('KEPT = socket.create_connection(("a.example", 80))', None)
        assert report.ok
        assert "socket" in report.obstacle
