"""Intercepted connections, byte by byte: what the server hears, what the workflow hears."""

import asyncio
import base64
import json
from pathlib import Path

import pytest

from executor.egress.gate import Failed
from tests.fakes.interception import HOST, VALUE, Serve, intercepted, until_end

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
PLACEHOLDER = b"secret://TOKEN"


def recording(heads: list[bytes], answer: bytes = OK) -> Serve:
    """A server that keeps heads, and answers each in the same way."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            heads.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(answer)

    return serve


def get(headers: bytes = b"", host: bytes = HOST.encode(), target: bytes = b"/") -> bytes:
    return b"GET %b HTTP/1.1\r\nHost: %b\r\n%b\r\n" % (target, host, headers)


async def test_placeholders_become_values_in_headers(tmp_path: Path) -> None:
    heads: list[bytes] = []
    basic = base64.b64encode(b"ada:" + PLACEHOLDER)
    headers = [
        b"Authorization: Bearer " + PLACEHOLDER,
        b"X-Whole: " + PLACEHOLDER,
        b"X-Two: " + PLACEHOLDER + b"," + PLACEHOLDER,
        b"X-Other: secret://TOKENS secret://OTHER",
        b"Connection: close",
    ]
    async with intercepted(tmp_path, recording(heads)) as rig:
        said = await rig.say(get(b"\r\n".join(headers) + b"\r\n", target=b"/?q=secret://TOKEN"))
        await rig.say(get(b"authorization: Basic " + basic + b"\r\nconnection: close\r\n"))
        assert said.endswith(b"\r\n\r\nok")
        assert rig.used == {"TOKEN"}
        # As the workflow sees it, so that the value's length isn't told.
        assert rig.carried.bytes_out == len(get(b"\r\n".join(headers) + b"\r\n", target=b"/?q=secret://TOKEN")) + len(
            get(b"authorization: Basic " + basic + b"\r\nconnection: close\r\n")
        )
    value = VALUE.encode()
    lines = heads[0].split(b"\r\n")
    assert lines[0] == b"GET /?q=secret://TOKEN HTTP/1.1"  # headers only
    assert {b"Authorization: Bearer " + value, b"X-Whole: " + value, b"X-Two: " + value + b"," + value} <= set(lines)
    assert b"X-Other: secret://TOKENS secret://OTHER" in lines
    assert b"authorization: Basic " + base64.b64encode(b"ada:" + value) in heads[1].split(b"\r\n")


async def test_one_connection_serves_many_requests_also_pipelined_ones(tmp_path: Path) -> None:
    heads: list[bytes] = []
    async with intercepted(tmp_path, recording(heads)) as rig:
        reader, writer = await rig.connect()
        for number in range(3):
            writer.write(get(b"X-Number: %d\r\n" % number))
            assert await reader.readuntil(b"ok") != b""
        writer.write(get(b"X: secret://TOKEN\r\n") * 5)
        for _ in range(5):
            await reader.readuntil(b"ok")
        writer.close()
        await writer.wait_closed()
    assert len(heads) == 8
    assert [VALUE.encode() in head for head in heads] == [False] * 3 + [True] * 5


async def test_only_http_1_is_offered(tmp_path: Path) -> None:
    async with intercepted(tmp_path, recording([])) as rig:
        _, writer = await rig.connect()
        assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
        writer.close()
        answer = await rig.say(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 505 ")


async def test_large_bodies_both_ways(tmp_path: Path) -> None:
    size = 3_000_000

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        body = b""
        if b"chunked" in head:
            while count := int(await reader.readline(), 16):
                body += await reader.readexactly(count)
                await reader.readline()
            await reader.readline()
        else:
            body = await reader.readexactly(size)
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n")
        for place in range(0, size, 50_000):
            writer.write(b"%x\r\n%b\r\n" % (50_000, body[place : place + 50_000]))
            await writer.drain()
        writer.write(b"0\r\n\r\n")

    async with intercepted(tmp_path, serve) as rig:
        sized = b"POST / HTTP/1.1\r\nHost: api.example\r\nContent-Length: %d\r\n\r\n" % size
        said = await rig.say(sized + b"a" * size)
        assert said.count(b"a" * 1000) >= size // 1000 - 400
        assert said.endswith(b"0\r\n\r\n")
        chunk = b"%x\r\n%b\r\n" % (100_000, b"b" * 100_000)
        chunked = b"POST / HTTP/1.1\r\nHost: api.example\r\nTransfer-Encoding: chunked\r\n\r\n"
        said = await rig.say(chunked + chunk * 30 + b"0\r\n\r\n")
        assert said.count(b"b") >= size
        assert said.endswith(b"0\r\n\r\n")


async def test_events_come_as_they_are_sent(tmp_path: Path) -> None:
    more = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: 1\n\n")
        await more.wait()
        writer.write(b"data: 2\n\n")

    async with intercepted(tmp_path, serve) as rig:
        reader, writer = await rig.connect()
        writer.write(get())
        async with asyncio.timeout(5):
            await reader.readuntil(b"data: 1\n\n")  # the server waits for us
        more.set()
        assert b"data: 2\n\n" in await until_end(reader)
        writer.close()


async def test_a_body_is_sent_as_it_comes_after_100_continue(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"Expect: 100-continue" in head
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        first = await reader.readexactly(3)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n" + first)
        writer.write(await reader.readexactly(3))
        await reader.read()

    async with intercepted(tmp_path, serve) as rig:
        reader, writer = await rig.connect()
        writer.write(b"PUT / HTTP/1.1\r\nHost: api.example\r\nExpect: 100-continue\r\nContent-Length: 6\r\n\r\n")
        async with asyncio.timeout(5):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
            writer.write(b"abc")
            assert (await reader.readuntil(b"abc")).startswith(b"HTTP/1.1 200 ")
            writer.write(b"def")
            assert await reader.readexactly(3) == b"def"
        writer.close()


async def test_an_answer_before_the_body_is_complete(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    async with intercepted(tmp_path, serve) as rig:
        reader, writer = await rig.connect()
        writer.write(b"PUT / HTTP/1.1\r\nHost: api.example\r\nContent-Length: 10000000\r\n\r\n" + b"x" * 300_000)
        async with asyncio.timeout(5):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 413 ")
        writer.close()


async def test_an_upgrade_is_passed_through(tmp_path: Path) -> None:
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nhi ")
        while data := await reader.read(100):
            writer.write(data.upper())

    async with intercepted(tmp_path, serve) as rig:
        reader, writer = await rig.connect()
        writer.write(get(b"Upgrade: websocket\r\nConnection: Upgrade\r\nAuthorization: secret://TOKEN\r\n"))
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"secret://TOKEN")
        async with asyncio.timeout(5):
            assert await reader.readexactly(17) == b"hi SECRET://TOKEN"
        writer.close()
        await writer.wait_closed()
    assert VALUE.encode() in heads[0]


SMUGGLED = {
    "another host": (get(host=b"evil.example"), 421, "host_mismatch"),
    "another port": (get(host=b"api.example:8443"), 421, "host_mismatch"),
    "its beginning": (get(host=b"api.example.evil.example"), 421, "host_mismatch"),
    "with a user": (get(host=b"api.example@evil.example"), 421, "host_mismatch"),
    "two hosts": (get(b"Host: evil.example\r\n"), 400, "bad_request"),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400, "bad_request"),
    "an old one without host": (b"GET / HTTP/1.0\r\n\r\n", 421, "host_mismatch"),
    "a whole address": (get(target=b"https://evil.example/"), 400, "bad_request"),
    "a tunnel": (b"CONNECT evil.example:443 HTTP/1.1\r\nHost: api.example\r\n\r\n", 405, "method_not_allowed"),
    "an echo": (b"TRACE / HTTP/1.1\r\nHost: api.example\r\nX: secret://TOKEN\r\n\r\n", 405, "method_not_allowed"),
    "two lengths": (
        get(b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n") + b"0\r\n\r\n",
        400,
        "bad_request",
    ),
    "two content lengths": (get(b"Content-Length: 4\r\nContent-Length: 5\r\n"), 400, "bad_request"),
    "another coding": (get(b"Transfer-Encoding: gzip, chunked\r\n"), 501, "bad_request"),
    "a space in a name": (get(b"Authorization : secret://TOKEN\r\n"), 400, "bad_request"),
    "a bare return": (get(b"X: a\rHost: evil.example\r\n"), 400, "bad_request"),
    "too long a head": (get(b"X: " + b"a" * 200_000 + b"\r\n"), 431, "bad_request"),
    "no http": (b"\x00\x01\x02\r\n\r\n", 400, "bad_request"),
}


@pytest.mark.parametrize("name", SMUGGLED)
async def test_what_means_something_else_to_somebody_goes_nowhere(tmp_path: Path, name: str) -> None:
    said, status, code = SMUGGLED[name]
    heads: list[bytes] = []
    async with intercepted(tmp_path, recording(heads)) as rig:
        answer = await rig.say(said)
        assert answer.startswith(b"HTTP/1.1 %d " % status), answer
        assert b"error-origin: runtime" in answer
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == code
        assert len(rig.refused) == 1
        assert VALUE not in rig.refused[0]
    assert heads == []


async def test_a_folded_header_is_one_line_outside(tmp_path: Path) -> None:
    heads: list[bytes] = []
    async with intercepted(tmp_path, recording(heads)) as rig:
        await rig.say(get(b"X: a\r\n Host: evil.example\r\n\tsecret://TOKEN\r\nConnection: close\r\n"))
    assert b"\r\nX: a Host: evil.example " + VALUE.encode() + b"\r\n" in heads[0]


async def test_a_refused_request_ends_the_connection(tmp_path: Path) -> None:
    heads: list[bytes] = []
    async with intercepted(tmp_path, recording(heads)) as rig:
        answer = await rig.say(get() + get(host=b"evil.example") + get(b"X: secret://TOKEN\r\n"))
    assert [line for line in answer.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")][1:] == []
    assert answer.count(b"HTTP/1.1 ") == 2
    assert len(heads) == 1


@pytest.mark.parametrize("sni", ["evil.example", "other.api.example"])
async def test_a_forged_name_gets_no_connection(tmp_path: Path, sni: str) -> None:
    heads: list[bytes] = []
    async with intercepted(tmp_path, recording(heads)) as rig:
        with pytest.raises(OSError):  # noqa: PT011  # a reset, or the alert before it
            await rig.connect(sni)
        assert isinstance(await rig.end(), Failed)
    assert heads == []


@pytest.mark.parametrize("wrong", [{"certificate": "evil.example"}, {"trusted": False}])
async def test_a_server_that_cannot_be_verified_hears_nothing(tmp_path: Path, wrong: dict[str, object]) -> None:
    heads: list[bytes] = []
    async with intercepted(tmp_path, recording(heads), **wrong) as rig:  # type: ignore[arg-type]
        answer = await rig.say(get(b"Authorization: secret://TOKEN\r\n"))
        assert answer.startswith(b"HTTP/1.1 502 ")
        problem = json.loads(answer.partition(b"\r\n\r\n")[2])
        assert problem["code"] == "upstream_not_verified"
        assert "the certificate of api.example can't be verified: " in problem["detail"]
        assert (rig.contact.verdict, rig.contact.reason) == ("denied", problem["detail"])
        assert rig.used == set()
    assert heads == []


async def test_a_server_without_tls_hears_nothing(tmp_path: Path) -> None:
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 here I am\r\n")
        heard.append(await until_end(reader))

    async with intercepted(tmp_path, serve, port=80, entries=["http://api.example", HOST]) as rig:
        rig.port = 443  # its upstream stays plain
        answer = await rig.say(get(b"Authorization: secret://TOKEN\r\n"))
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "upstream_failed"
        assert rig.contact.verdict == "failed"
    assert VALUE.encode() not in b"".join(heard)


async def test_plain_http_only_where_the_entry_says_so(tmp_path: Path) -> None:
    heads: list[bytes] = []
    async with intercepted(tmp_path, recording(heads), port=80, entries=["http://api.example"]) as rig:
        await rig.say(get(b"Authorization: Bearer secret://TOKEN\r\nConnection: close\r\n"))
    assert b"Bearer " + VALUE.encode() in heads[0]


BROKEN = {
    "nothing": (b"", 502),
    "no http": (b"SSH-2.0-x\r\n\r\n", 502),
    "half a head": (b"HTTP/1.1 200 OK\r\nContent-", 502),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_a_server_that_gives_no_answer(tmp_path: Path, name: str) -> None:
    answer, status = BROKEN[name]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)

    async with intercepted(tmp_path, serve) as rig:
        said = await rig.say(get())
        assert said.startswith(b"HTTP/1.1 %d " % status)


async def test_an_answer_that_breaks_off_is_broken_off(tmp_path: Path) -> None:
    heard = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
        await heard.wait()

    async with intercepted(tmp_path, serve) as rig:
        reader, writer = await rig.connect()
        writer.write(get())
        await reader.readuntil(b"abc")
        heard.set()
        with pytest.raises(ConnectionError):
            async with asyncio.timeout(5):
                await reader.read()
        writer.transport.abort()
        assert isinstance(await rig.end(), OSError)


async def test_an_idle_connection_ends_when_the_servers_does(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        await asyncio.sleep(0.2)

    async with intercepted(tmp_path, serve) as rig:
        reader, writer = await rig.connect()
        writer.write(get())
        async with asyncio.timeout(2):
            assert (await until_end(reader)).endswith(b"ok")
        writer.close()
        assert await rig.end() is None


async def test_hanging_up_hangs_up_on_the_server(tmp_path: Path) -> None:
    gone = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await until_end(reader)
        gone.set()

    async with intercepted(tmp_path, serve) as rig:
        _, writer = await rig.connect()
        writer.write(get())
        await asyncio.sleep(0.2)
        writer.close()
        async with asyncio.timeout(5):
            await gone.wait()


async def test_an_answer_of_http_1_0_ends_with_its_connection(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.0 200 OK\r\n\r\nold")

    async with intercepted(tmp_path, serve) as rig:
        said = await rig.say(get())
        assert b"connection: close" in said.lower()
        assert b"old" in said
