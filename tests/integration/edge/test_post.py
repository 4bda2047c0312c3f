"""A POST to a stranger's address: where it goes, where it never goes, and what an answer costs. Servers are real."""

import asyncio
import ipaddress
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from edge.post import Failed, Post, Refused, Streams, ask_host, authorities
from edge.post import connect as really_connect
from kit.addresses import Address, networks
from tests.fakes.certificates import Authority

PUBLIC, OTHER = "93.184.216.34", "2606:4700::1"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
Handle = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Internet:
    """`names` lead to lists of addresses, one list after the other. All public addresses lead to one server here."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers or [[PUBLIC]])
        self.port = 0
        self.asked: list[str] = []
        self.connected: list[tuple[str, int]] = []
        self.dead: set[str] = set()
        self.own: set[str] = set()

    def find(self, name: str) -> list[Address]:
        self.asked.append(name)
        now = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [ipaddress.ip_address(address) for address in now]

    async def connect(self, address: Address, port: int, **tls: Any) -> Streams:
        self.connected.append((str(address), port))
        if str(address) in self.dead:
            raise ConnectionRefusedError(111, "Connection refused")
        return await asyncio.open_connection("127.0.0.1", self.port, **tls)

    def post(self, tls: ssl.SSLContext | None = None, private: str = "") -> Post:
        return Post(
            networks(private),
            tls=tls,
            find=self.find,
            connect=self.connect,
            is_own=lambda address: str(address) in self.own,
        )


@asynccontextmanager
async def serving(internet: Internet, handle: Handle, tls: ssl.SSLContext | None = None) -> AsyncIterator[None]:
    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handle(reader, writer)
        except OSError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(once, "127.0.0.1", 0, ssl=tls)
    internet.port = server.sockets[0].getsockname()[1]
    async with server:
        yield


class Heard:
    """Answers `answer`, and keeps what it was asked."""

    def __init__(self, answer: bytes = OK) -> None:
        self.answer = answer
        self.head = b""
        self.body = b""

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in self.head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        self.body = await reader.readexactly(int(length.split(b":")[1]))
        writer.write(self.answer)
        await writer.drain()


async def sent(internet: Internet, handle: Handle, url: str = "http://a.example/x?y=1", body: bytes = b"{}") -> int:
    async with serving(internet, handle):
        return await internet.post()(url, {"webhook-id": "dlv_1"}, body)


async def test_it_goes_to_the_checked_address_with_the_name_that_was_asked_for() -> None:
    internet, heard = Internet(), Heard()
    assert await sent(internet, heard, "http://A.example:8080/x?y=1", b"{}" * 200_000) == 200
    assert internet.connected == [(PUBLIC, 8080)]
    assert internet.asked == ["a.example"]
    lines = heard.head.split(b"\r\n")
    assert lines[0] == b"POST /x?y=1 HTTP/1.1"
    assert {b"Host: A.example:8080", b"webhook-id: dlv_1", b"Connection: close"} <= {
        name.title() + b":" + value if name != b"webhook-id" else line
        for line in lines[1:-2]
        for name, _, value in [line.partition(b":")]
    }
    assert heard.body == b"{}" * 200_000


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "100.100.100.200",
        "168.63.129.16", "0.0.0.0", "224.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1", "203.0.113.1",
        "::", "::1", "fe80::1", "fc00::1", "fd00:ec2::254", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1",
        "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2001:db8::1", "::7f00:1",
    ],
)  # fmt: skip
@pytest.mark.parametrize("among", [[], [PUBLIC], [OTHER, PUBLIC]])
async def test_no_private_address_not_even_among_others(address: str, among: list[str]) -> None:
    internet = Internet([*among, address])
    with pytest.raises(Refused, match="its host is"):
        await internet.post()("https://a.example/", {}, b"")
    assert internet.connected == []


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "2130706433", "0x7f000001", "0x7f.1", "017700000001", "0177.0.0.1", "127.1", "127.0.0.1.",
        "[::1]", "[::ffff:127.0.0.1]", "localhost", "[::ffff:7f00:1]", "0", "0.0.0.0", "169.254.169.254", "2852039166",
    ],
)  # fmt: skip
async def test_spellings_of_this_host_by_its_own_resolver(host: str) -> None:
    internet = Internet()
    post = Post(find=ask_host, connect=internet.connect)
    with pytest.raises((Refused, Failed)):
        await post(f"http://{host}:{internet.port or 1}/", {}, b"")
    assert internet.connected == []
    post.close()


async def test_control_the_same_spellings_do_lead_here() -> None:
    heard, internet = Heard(), Internet()
    async with serving(internet, heard):
        for host in ("2130706433", "0x7f.1", "017700000001", "127.1"):
            post = Post(networks("127.0.0.0/8"), find=ask_host, connect=really_connect)
            assert await post(f"http://{host}:{internet.port}/", {}, b"") == 200
            post.close()


async def test_a_name_that_leads_elsewhere_the_second_time() -> None:
    """One attempt looks up once and connects to what it saw; the next one is refused."""
    internet, heard = Internet([PUBLIC], ["127.0.0.1"]), Heard()
    assert await sent(internet, heard) == 200
    assert internet.connected == [(PUBLIC, 80)]
    with pytest.raises(Refused):
        await sent(internet, heard)
    assert internet.connected == [(PUBLIC, 80)]


async def test_an_own_address_that_is_public_is_refused_too() -> None:
    internet = Internet()
    internet.own.add(PUBLIC)
    with pytest.raises(Refused, match="own machine"):
        await internet.post()("http://a.example/", {}, b"")


async def test_what_the_operator_allows() -> None:
    internet, heard = Internet(["10.1.2.3"], ["10.1.2.3", "10.2.0.1"]), Heard()
    internet.own.add("10.1.2.3")
    async with serving(internet, heard):
        post = internet.post(private="10.1.0.0/16")
        assert await post("http://a.example/", {}, b"") == 200
        with pytest.raises(Refused):
            await post("http://a.example/", {}, b"")


async def test_another_address_where_one_is_dead() -> None:
    internet, heard = Internet([OTHER, PUBLIC]), Heard()
    internet.dead.add(OTHER)
    assert await sent(internet, heard) == 200
    assert [address for address, _ in internet.connected] == [OTHER, PUBLIC]
    internet.dead.add(PUBLIC)
    with pytest.raises(Failed, match="refused"):
        await sent(internet, heard)


async def test_a_name_without_addresses() -> None:
    with pytest.raises(Failed, match="looked up"):
        await Post(find=ask_host)("http://no-such-name.invalid/", {}, b"")
    with pytest.raises(Failed, match="no address"):
        await Internet([]).post()("http://a.example/", {}, b"")


async def test_certificates_are_for_the_name_not_the_address(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    trusting = ssl.create_default_context(cadata=authority.certificate)
    internet, heard = Internet(), Heard()
    async with serving(internet, heard, authority.server("a.example")):
        assert await internet.post(trusting)("https://a.example/", {}, b"") == 200
        assert internet.connected == [(PUBLIC, 443)]
        with pytest.raises(Failed, match="certificate"):
            await internet.post(trusting)("https://b.example/", {}, b"")
        with pytest.raises(Failed, match="certificate"):
            await internet.post(authorities())("https://a.example/", {}, b"")
    async with serving(internet, heard):
        with pytest.raises(Failed):
            await internet.post(trusting)("https://a.example/", {}, b"")
    async with serving(internet, heard, authority.server(PUBLIC)):
        assert await internet.post(trusting)(f"https://{PUBLIC}/", {}, b"") == 200


@pytest.mark.parametrize("to", ["http://127.0.0.1/", "http://a.example/again", "//other.example/"])
async def test_redirects_lead_nowhere(to: str) -> None:
    internet = Internet()
    answer = f"HTTP/1.1 307 Temporary Redirect\r\nLocation: {to}\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n"
    heard = Heard(answer.encode())
    assert await sent(internet, heard) == 307
    assert len(internet.connected) == len(internet.asked) == 1
    heard.answer = OK
    assert await sent(internet, heard) == 200
    assert b"cookie" not in heard.head.lower()


async def test_proxies_of_the_environment_arent_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert await sent(Internet(), Heard()) == 200


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x16\x03\x01" * 1000,
        b"HTTP/1.1 200 OK\r\n" + b"X: " + b"a" * 200_000 + b"\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
    ],
)
async def test_what_is_no_answer(answer: bytes) -> None:
    with pytest.raises(Failed):
        await sent(Internet(), Heard(answer))


async def test_interim_answers_are_no_answer() -> None:
    assert await sent(Internet(), Heard(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 5 + OK)) == 200


async def test_an_endless_answer_is_left_alone() -> None:
    taken = 0
    ended = asyncio.Event()

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal taken
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        try:
            while True:
                writer.write(b"x" * 65536)
                await writer.drain()
                taken += 65536
        except OSError:
            ended.set()

    async with asyncio.timeout(5):
        assert await sent(Internet(), endless) == 200
        await ended.wait()
    assert taken < 8 * 1024 * 1024  # what sockets hold


async def test_an_answer_that_drips_doesnt_hold_its_status_back() -> None:
    async def drips(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 500 Smuggled\r\n\r\n")
        await asyncio.sleep(0.05)
        writer.write(b"x")

    async with asyncio.timeout(3):
        assert await sent(Internet(), drips) == 204


async def test_an_early_answer_counts_though_the_body_wasnt_taken() -> None:
    async def early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        await reader.read(1)

    async with asyncio.timeout(5):
        assert await sent(Internet(), early, body=b"x" * 20_000_000) == 413


async def test_whoever_gives_up_leaves_no_connection() -> None:
    ended = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read(-1)
        finally:
            ended.set()

    internet = Internet()
    async with serving(internet, silent):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await internet.post()("http://a.example/", {}, b"{}")
        await asyncio.wait_for(ended.wait(), 5)


async def test_an_address_that_isnt_one_is_refused() -> None:
    """A row that was written by an older edge, say."""
    with pytest.raises(Refused):
        await Internet().post()("http://user@a.example/", {}, b"")
