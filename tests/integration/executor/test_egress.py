"""The transparent way out of real sandboxes, into an internet of the test's own."""

import asyncio
import json
import os
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from executor.driver import BubblewrapDriver
from executor.egress.egress import Egress
from executor.egress.gate import MOST_OF_A_RUN, Internet
from executor.egress.log import EgressLog
from executor.egress.names import Names
from executor.egress.rules import parse
from executor.sandbox import Head, Launch
from executor.templates import open_templates
from kit.addresses import networks
from kit.clock import SystemClock
from tests.fakes.certificates import Authority
from tests.fakes.internet import FakeInternet
from tests.fakes.real_sandboxes import OUR_ENVIRONMENT, READY_SECONDS, Started, drain, started

PUBLIC, OTHER, SIXTH = "93.184.216.34", "8.8.4.4", "2606:2800:220:1::1"
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]
# Runs `result = …` and prints it as JSON.
PROBE = """
import json, os, socket, ssl
def tried(what):
    try:
        return what()
    except OSError as error:
        return type(error).__name__
def talk(host, port, say=b"", family=0):
    with socket.create_connection((host, port), timeout=10) as sock:
        sock.sendall(say)
        try:
            sock.shutdown(socket.SHUT_WR)
        except OSError as error:  # ENOTCONN: it was reset meanwhile, as reading will tell
            if error.errno != 107:
                raise
        return sock.makefile("rb").read().decode()
%s
print(json.dumps(result), flush=True)
"""


@asynccontextmanager
async def serving(serve: Serve, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """The port of a server on this machine's loopback."""

    async def close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await serve(reader, writer)
        writer.close()

    server = await asyncio.start_server(close, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers after the other side has said all: needs half-closed connections."""
    writer.write(b"echo " + await reader.read(-1))
    await writer.drain()


async def probe(
    driver: BubblewrapDriver, world: FakeInternet, code: str, rules: Sequence[str] | None = None
) -> tuple[Any, list[dict[str, Any]]]:
    """What `code` found, and the egress log."""
    contacts = EgressLog()
    internet, clock = world.open(), SystemClock()
    async with (
        started(driver, PROBE % code) as session,
        Egress(session.sandbox.process.egress, Names(), internet, parse(rules), contacts, clock),
    ):
        result = await printed(session)
    return result, [json.loads(line) for line in contacts.lines().splitlines()]


async def printed(session: Started) -> Any:
    """The line that it prints, as JSON."""
    line = b""
    os.set_blocking(session.sandbox.process.stdout, True)
    async with asyncio.timeout(READY_SECONDS):
        while not line.endswith(b"\n"):
            piece = await asyncio.to_thread(os.read, session.sandbox.process.stdout, 65536)
            if not piece:
                os.set_blocking(session.sandbox.process.stderr, False)
                raise AssertionError(os.read(session.sandbox.process.stderr, 65536).decode())
            line += piece
    return json.loads(line)


async def test_any_port_of_any_name_or_address_is_reached(driver: BubblewrapDriver) -> None:
    async with serving(echo) as port:
        targets = {(PUBLIC, 5432): port, (OTHER, 25): port, (SIXTH, 6379): port}
        world = FakeInternet({"db.example": [[PUBLIC]], "six.example": [[SIXTH]]}, targets)
        code = f"""
result = [talk("db.example", 5432, b"a"), talk("{OTHER}", 25, b"b"), talk("six.example", 6379, b"c"),
          talk("{SIXTH}", 6379, b"d"), talk("::ffff:{OTHER}", 25, b"e")]
"""
        result, contacts = await probe(driver, world, code)
    assert result == ["echo a", "echo b", "echo c", "echo d", "echo e"]
    assert [(each["host"], each["port"], each["address"], each["verdict"]) for each in contacts] == [
        ("db.example", 5432, PUBLIC, "allowed"),
        (OTHER, 25, OTHER, "allowed"),
        ("six.example", 6379, SIXTH, "allowed"),
        (SIXTH, 6379, SIXTH, "allowed"),
        (OTHER, 25, OTHER, "allowed"),
    ]
    assert {(each["bytes_in"], each["bytes_out"], each["reason"]) for each in contacts} == {(6, 1, "")}


async def test_private_addresses_are_refused_in_every_spelling(driver: BubblewrapDriver) -> None:
    literal = ["169.254.169.254", "10.0.0.1", "192.168.1.1", "100.64.0.1", "198.18.0.77", "::ffff:169.254.169.254",
               "fd00:ec2::254", "64:ff9b::a9fe:a9fe", "2002:a00:1::1"]  # fmt: skip
    named = {f"n{number}.example": [[address]] for number, address in enumerate([*literal, "127.0.0.1", "0.0.0.0"])}
    world = FakeInternet(dict(named))
    code = f"result = [tried(lambda: talk(host, 80, b'x')) for host in {[*literal, *named]!r}]"
    result, contacts = await probe(driver, world, code)
    assert set(result) <= {"ConnectionResetError", "BrokenPipeError", "ConnectionRefusedError"}
    assert world.connected == []
    assert len(contacts) == len(result) - 1  # two of them are one address in two spellings
    assert {each["verdict"] for each in contacts} == {"denied"}
    assert "a link-local address (169.254.169.254)" in contacts[0]["reason"]


async def test_a_name_that_leads_elsewhere_the_second_time_leads_nowhere(driver: BubblewrapDriver) -> None:
    """DNS rebinding; and of several addresses only the public ones are tried."""
    async with serving(echo) as port:
        world = FakeInternet(
            {"rebind.example": [[PUBLIC], ["169.254.169.254"]], "both.example": [["10.0.0.1", PUBLIC]]},
            {(PUBLIC, 80): port, ("169.254.169.254", 80): port, ("10.0.0.1", 80): port},
        )
        code = """
import time
result = [talk("rebind.example", 80, b"1"), talk("both.example", 80, b"2")]
time.sleep(6)  # the executor remembers for five seconds
result.append(tried(lambda: talk("rebind.example", 80, b"3")))
"""
        result, contacts = await probe(driver, world, code)
    assert result[:2] == ["echo 1", "echo 2"]
    assert result[2] in ("ConnectionResetError", "BrokenPipeError")
    assert set(world.connected) == {(PUBLIC, 80)}
    assert contacts[-1]["verdict"] == "denied"


async def test_https_and_a_redirect_to_a_private_address(driver: BubblewrapDriver, tmp_path: Path) -> None:
    authority = Authority(tmp_path)

    async def site(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1]
        if request == b"/away":
            writer.write(b"HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/latest\r\ncontent-length: 0\r\n\r\n")
        else:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello")
        await writer.drain()

    async with serving(site, authority.server("api.example")) as port:
        world = FakeInternet({"api.example": [[PUBLIC]]}, {(PUBLIC, 443): port})
        code = f"""
import httpx
context = ssl.create_default_context(cadata={authority.certificate!r})
with httpx.Client(verify=context, follow_redirects=True) as client:
    result = [client.get("https://api.example/x").text]
    try:
        client.get("https://api.example/away")
    except httpx.TransportError as error:
        result.append(type(error).__name__)
"""
        result, contacts = await probe(driver, world, code)
    assert result[0] == "hello"
    assert result[1] in ("ConnectError", "ReadError", "WriteError", "RemoteProtocolError")
    assert [(each["host"], each["verdict"]) for each in contacts][-1] == ("169.254.169.254", "denied")
    assert world.connected == [(PUBLIC, 443)] * len(world.connected)


async def test_the_rules_of_a_workflow(driver: BubblewrapDriver) -> None:
    async with serving(echo) as port:
        names = {name: [[PUBLIC]] for name in ("api.example", "a.wild.example", "evil.wild.example", "other.example")}
        world = FakeInternet(names, {(PUBLIC, 443): port, (OTHER, 443): port})
        code = f"""
hosts = ["api.example", "a.wild.example", "evil.wild.example", "other.example", "{PUBLIC}", "{OTHER}"]
result = [tried(lambda: talk(host, 443, b"x")) for host in hosts]
"""
        rules = ["API.example.", "*.wild.example", "!evil.wild.example"]
        result, contacts = await probe(driver, world, code, rules)
        assert result[:2] == ["echo x", "echo x"]
        assert result[2:4] == ["gaierror", "gaierror"]
        assert set(result[4:]) <= {"ConnectionResetError", "BrokenPipeError"}
        assert set(world.asked) == {"api.example", "a.wild.example"}  # nothing leaks by asking for names
        assert [each["verdict"] for each in contacts] == ["allowed"] * 2 + ["denied"] * 4
        result, contacts = await probe(driver, world, code, [])
    assert "echo x" not in result
    assert {each["verdict"] for each in contacts} == {"denied"}


async def test_the_operator_may_allow_private_addresses(driver: BubblewrapDriver) -> None:
    async with serving(echo) as port:
        world = FakeInternet({"db.internal": [["10.1.2.3"]]}, {("10.1.2.3", 5432): port}, own=["10.1.2.3"])
        world.private = networks("10.1.0.0/16, 192.168.7.7")
        result, _ = await probe(driver, world, 'result = talk("db.internal", 5432, b"x")')
    assert result == "echo x"


async def test_what_is_not_there_is_a_clean_error(driver: BubblewrapDriver) -> None:
    world = FakeInternet({"closed.example": [[PUBLIC]]})
    code = f"""
def ask(host):
    try:
        return socket.getaddrinfo(host, 80)[0][4][0]
    except socket.gaierror as error:
        return error.errno
def datagram():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(5)
        sock.connect(("{PUBLIC}", 443))
        sock.send(b"quic")
        sock.send(b"quic")
        return sock.recv(10)
known = [socket.EAI_NONAME, socket.EAI_AGAIN, socket.EAI_NODATA]
result = [known.index(ask("missing.example")), known.index(ask("unknown.example")), ask("localhost"),
          tried(lambda: talk("closed.example", 80)), tried(datagram)]
"""
    result, contacts = await probe(driver, world, code)
    assert result[:3] == [0, 1, "127.0.0.1"] or result[:3] == [0, 1, "::1"]
    assert result[3] == "ConnectionResetError"
    assert result[4] == "ConnectionRefusedError"
    assert [(each["host"], each["port"], each["verdict"], each["reason"]) for each in contacts] == [
        ("missing.example", 0, "failed", "there is no such name"),
        ("unknown.example", 0, "failed", "its name can't be looked up: the servers are silent"),
        ("closed.example", 80, "failed", "Connection refused"),
    ]


async def test_much_goes_through_both_ways(driver: BubblewrapDriver) -> None:
    async with serving(echo) as port:
        world = FakeInternet({"big.example": [[PUBLIC]]}, {(PUBLIC, 80): port})
        result, contacts = await probe(driver, world, 'result = len(talk("big.example", 80, b"x" * (8 << 20)))')
    assert result == (8 << 20) + 5
    assert (contacts[0]["bytes_in"], contacts[0]["bytes_out"]) == ((8 << 20) + 5, 8 << 20)


def egress_of(session: Started, internet: Internet, contacts: EgressLog) -> Egress:
    process = session.sandbox.process
    return Egress(process.egress, process.names, internet, parse(None), contacts, SystemClock())


SLOT = """
import json, socket
import uvicorn

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        return
    with socket.create_connection(("db.example", 5432), timeout=10) as sock:
        sock.sendall(b"slot")
        sock.shutdown(socket.SHUT_WR)
        said = sock.makefile("rb").read()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": said})

uvicorn.run(app)
"""


async def test_a_slot_has_the_same_way(driver: BubblewrapDriver) -> None:
    async with serving(echo) as port, open_templates(driver, SystemClock(), READY_SECONDS) as templates:
        internet = FakeInternet({"db.example": [[PUBLIC]]}, {(PUBLIC, 5432): port}).open()
        for _ in range(2):
            launch = Launch("run_1", OUR_ENVIRONMENT, SLOT.encode(), "w.py", {}, "run", "v1", "org")
            session, contacts = Started(await templates.start(launch)), EgressLog()
            try:
                async with egress_of(session, internet, contacts):
                    await session.sandbox.ready(READY_SECONDS)
                    assert (await session.call()).body == b"echo slot"
            finally:
                await session.end()
            assert contacts.bytes_carried == len("slot" + "echo slot")
        assert not templates._cold


async def test_it_ends_with_connections_open(driver: BubblewrapDriver) -> None:
    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 ready")
        with suppress(ConnectionError):
            await reader.read(-1)

    async with serving(hang) as port:
        world = FakeInternet({"slow.example": [[PUBLIC]]}, {(PUBLIC, 80): port})
        code = """
socks = [socket.create_connection(("slow.example", 80)) for _ in range(5)]
result = [sock.recv(100).decode() for sock in socks]
"""
        result, contacts = await probe(driver, world, code)
    assert result == ["220 ready"] * 5
    assert [(each["verdict"], each["bytes_in"]) for each in contacts] == [("allowed", 9)] * 5


async def test_a_flood_of_connections_is_refused_and_counted(driver: BubblewrapDriver) -> None:
    async with serving(echo) as port:
        world = FakeInternet({"many.example": [[PUBLIC]]}, {(PUBLIC, 80): port})
        code = """
def opened():
    sock = socket.create_connection(("many.example", 80), timeout=10)
    sock.sendall(b"x")
    return sock
socks = [tried(opened) for _ in range(300)]
def reply(sock):
    sock.shutdown(socket.SHUT_WR)
    return sock.recv(100).decode()
result = [tried(lambda: reply(sock)) if not isinstance(sock, str) else sock for sock in socks]
"""
        result, contacts = await probe(driver, world, code)
    assert result.count("echo x") == MOST_OF_A_RUN
    refused = [each for each in contacts if each["verdict"] == "denied"]
    assert [each["host"] for each in refused] == ["many.example"]


REMEMBERING = """
import socket
import uvicorn
KNOWN = {}

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        return
    name = scope["path"][1:]
    other = socket.gethostbyname(f"other-{name}")
    address = KNOWN.setdefault("a.example", socket.gethostbyname("a.example") if not KNOWN else "")
    with socket.create_connection((address, 80), timeout=10) as sock:
        sock.sendall(name.encode())
        sock.shutdown(socket.SHUT_WR)
        said = sock.makefile("rb").read()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": said})

uvicorn.run(app)
"""


async def test_an_instance_remembers_what_its_addresses_mean(driver: BubblewrapDriver) -> None:
    """Else an address that a library kept would lead to another name's server in the next call."""
    async with serving(echo) as port, open_templates(driver, SystemClock(), READY_SECONDS) as templates:
        names = {"a.example": [[PUBLIC]], "other-one": [[OTHER]], "other-two": [[OTHER]]}
        internet = FakeInternet(names, {(PUBLIC, 80): port}).open()
        for call in ("one", "two"):
            launch = Launch("run_1", OUR_ENVIRONMENT, REMEMBERING.encode(), "w.py", {}, "instance", "v1", "org")
            session, contacts = Started(await templates.start(launch)), EgressLog()
            try:
                async with egress_of(session, internet, contacts):
                    await session.sandbox.ready(READY_SECONDS)
                    head = Head([(b"host", b"test")], path=f"/{call}")
                    assert (await session.call(head)).body == f"echo {call}".encode()
            finally:
                await session.sandbox.close()
                assert (drain(session.sandbox.process.stdout), drain(session.sandbox.process.stderr)) == (b"", b"")
