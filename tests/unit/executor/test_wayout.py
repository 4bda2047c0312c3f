import asyncio
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from executor.wayout import IDENTITY_TLV, WayOut, proxy_header

TOKEN = b"abc.def"


def read_header(data: bytes) -> tuple[bytes, bytes]:
    """(the identity TLV's value, what follows the header), read as the PROXY protocol's text says."""
    assert data[:12] == b"\r\n\r\n\x00\r\nQUIT\n"
    version_command, family, length = struct.unpack("!BBH", data[12:16])
    assert version_command >> 4 == 2
    assert version_command & 15 == 1
    assert family == 0x11
    payload, rest = data[16 : 16 + length], data[16 + length :]
    kind, size = struct.unpack("!BH", payload[12:15])
    assert kind == IDENTITY_TLV
    assert len(payload) == 15 + size
    return payload[15:], rest


def test_the_header_is_as_the_protocol_wants_it() -> None:
    assert read_header(proxy_header(TOKEN) + b"GET /") == (TOKEN, b"GET /")


class Envoy:
    """Takes connections on UNIX sockets; keeps what it reads, answers with `answer`."""

    def __init__(self, directory: Path, answer: bytes = b"answer") -> None:
        self.plain, self.tls = directory / "plain.sock", directory / "tls.sock"
        self.answer = answer
        self.got: dict[Path, list[bytes]] = {self.plain: [], self.tls: []}

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        async with (
            await asyncio.start_unix_server(self._serve(self.plain), self.plain),
            await asyncio.start_unix_server(self._serve(self.tls), self.tls),
        ):
            yield

    def _serve(self, path: Path) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                self.got[path].append(await reader.read())
                writer.write(self.answer)
                writer.close()
                await writer.wait_closed()
            except (OSError, asyncio.CancelledError):
                writer.transport.abort()

        return serve


@pytest.fixture
def inside() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as found:
        yield found


@pytest.fixture
def secure() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as found:
        yield found


async def call(address: tuple[str, int], data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(*address)
    try:
        writer.write(data)
        writer.write_eof()
        return await reader.read()
    except OSError:
        return b""
    finally:
        writer.transport.abort()


async def test_bytes_go_both_ways_behind_the_identity(tmp_path: Path, inside: socket.socket) -> None:
    envoy = Envoy(tmp_path, os.urandom(1_000_000))
    sent = os.urandom(1_000_000)
    async with envoy.listening(), WayOut([(inside, False)], envoy.plain, envoy.tls, lambda: TOKEN):
        assert await call(inside.getsockname(), sent) == envoy.answer
    assert read_header(envoy.got[envoy.plain][0]) == (TOKEN, sent)
    assert envoy.got[envoy.tls] == []


async def test_a_listener_of_tls_leads_to_envoys_tls(
    tmp_path: Path, inside: socket.socket, secure: socket.socket
) -> None:
    envoy = Envoy(tmp_path)
    async with envoy.listening(), WayOut([(inside, False), (secure, True)], envoy.plain, envoy.tls, lambda: TOKEN):
        await call(secure.getsockname(), b"x")
    assert [read_header(got) for got in envoy.got[envoy.tls]] == [(TOKEN, b"x")]


async def test_the_identity_is_asked_for_each_connection(tmp_path: Path, inside: socket.socket) -> None:
    envoy = Envoy(tmp_path)
    tokens = iter([b"one", b"two"])
    async with envoy.listening(), WayOut([(inside, False)], envoy.plain, envoy.tls, lambda: next(tokens)):
        await call(inside.getsockname(), b"")
        await call(inside.getsockname(), b"")
    assert [read_header(got)[0] for got in envoy.got[envoy.plain]] == [b"one", b"two"]


async def test_without_envoy_the_connection_ends(tmp_path: Path, inside: socket.socket) -> None:
    async with WayOut([(inside, False)], tmp_path / "no", tmp_path / "none", lambda: TOKEN):
        assert await call(inside.getsockname(), b"x") == b""


async def test_leaving_ends_what_is_under_way(tmp_path: Path, inside: socket.socket) -> None:
    envoy = Envoy(tmp_path)
    async with envoy.listening():
        async with WayOut([(inside, False)], envoy.plain, envoy.tls, lambda: TOKEN) as way_out:
            reader, writer = await asyncio.open_connection(*inside.getsockname())
            async with asyncio.timeout(5):
                while not way_out.connections:  # noqa: ASYNC110  # accepting tells nobody
                    await asyncio.sleep(0.005)
        async with asyncio.timeout(5):
            with suppress(ConnectionError):
                assert await reader.read() == b""
        writer.close()
        assert way_out.connections == 0


async def test_connections_are_bounded(tmp_path: Path, inside: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("executor.wayout.MAX_CONNECTIONS", 8)
    envoy = Envoy(tmp_path)
    async with envoy.listening(), WayOut([(inside, False)], envoy.plain, envoy.tls, lambda: TOKEN) as way_out:
        writers = [(await asyncio.open_connection(*inside.getsockname()))[1] for _ in range(8)]
        async with asyncio.timeout(5):
            while way_out.connections < 8:  # noqa: ASYNC110  # accepting tells nobody
                await asyncio.sleep(0.005)
        assert await call(inside.getsockname(), b"one too many") == b""
        for writer in writers:
            writer.close()
