"""Bytes between two connections: as fast as the slower one takes them, half-closed, and broken off."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from executor.egress.carry import Carried, reset
from executor.egress.gate import Streams

MOST_IN_BETWEEN = 4 << 20


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[Streams, Streams]]:
    """Both ends of a TCP connection."""
    arrived: asyncio.Queue[Streams] = asyncio.Queue()
    server = await asyncio.start_server(lambda *streams: arrived.put_nowait(streams), "127.0.0.1", 0)
    async with server:
        one = await asyncio.open_connection(*server.sockets[0].getsockname())
        other = await arrived.get()
        try:
            yield one, other
        finally:
            for _, writer in (one, other):
                writer.transport.abort()
                with suppress(OSError):
                    await writer.wait_closed()


async def test_each_side_may_end_before_the_other() -> None:
    async with connected() as (client, inside), connected() as (outside, server):
        carried = Carried()
        carrying = asyncio.create_task(carried.between(inside, outside))
        client[1].write(b"question")
        client[1].write_eof()
        assert await server[0].read(-1) == b"question"
        server[1].write(b"long answer")
        server[1].write_eof()
        assert await client[0].read(-1) == b"long answer"
        await carrying
        assert (carried.bytes_out, carried.bytes_in) == (8, 11)


@pytest.mark.parametrize("who", ["client", "server"])
async def test_a_side_that_breaks_off_breaks_the_other_off(who: str) -> None:
    async with connected() as (client, inside), connected() as (outside, server):
        carrying = asyncio.create_task(Carried().between(inside, outside))
        broken, other = (client, server) if who == "client" else (server, client)
        broken[1].get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        broken[1].transport.abort()
        with pytest.raises(OSError, match="reset"):
            await carrying
        for _, writer in (inside, outside):
            reset(writer)
            reset(writer)  # harmless
        with pytest.raises(ConnectionResetError):
            await other[0].read(1)


async def test_a_slow_reader_slows_the_writer_down() -> None:
    async with connected() as (client, inside), connected() as (outside, _server):
        for streams in (client, inside, outside, _server):
            sock = streams[1].get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        carried = Carried()
        carrying = asyncio.create_task(carried.between(inside, outside))

        async def flood() -> None:
            while True:
                client[1].write(b"x" * 65536)
                await client[1].drain()

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(flood(), 1)
        assert 0 < carried.bytes_out < MOST_IN_BETWEEN
        carrying.cancel()
        await asyncio.gather(carrying, return_exceptions=True)
