"""The ends of connections, on either event loop."""

import asyncio
import contextlib
import socket
from collections.abc import Callable

import pytest
import uvloop

from executor.egress.carry import abort, reset

MUCH = b"x" * (8 << 20)
End = Callable[[asyncio.StreamWriter], None]


async def opened() -> tuple[asyncio.StreamWriter, socket.socket]:
    """A connection, and its other side, which is read by hand."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    _, writer = await asyncio.open_connection(sock=ours)
    return writer, theirs


async def read(sock: socket.socket, size: int) -> int:
    """How much of so much came before the end; a reset is one."""
    got = 0
    with contextlib.suppress(ConnectionResetError):
        while got < size and (piece := await asyncio.get_running_loop().sock_recv(sock, 1 << 20)):
            got += len(piece)
    return got


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize("end", [abort, reset])
def test_a_connection_that_is_over_may_be_ended_again(loop: Callable[[], asyncio.AbstractEventLoop], end: End) -> None:
    """Closed with much in its buffer, all of which went out before it was gone."""

    async def closed_and_drained() -> int:
        writer, theirs = await opened()
        with theirs:
            writer.write(MUCH)
            writer.close()
            got = await read(theirs, len(MUCH))
            await writer.wait_closed()
            end(writer)
        return got

    with asyncio.Runner(loop_factory=loop) as runner:
        assert runner.run(closed_and_drained()) == len(MUCH)


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize("end", [abort, reset])
@pytest.mark.parametrize("is_closing", [True, False])
def test_what_is_buffered_is_dropped(
    loop: Callable[[], asyncio.AbstractEventLoop], end: End, *, is_closing: bool
) -> None:
    async def ended() -> int:
        writer, theirs = await opened()
        with theirs:
            writer.write(MUCH)
            if is_closing:
                writer.close()
            end(writer)
            await asyncio.sleep(0)
            return await read(theirs, len(MUCH))

    with asyncio.Runner(loop_factory=loop) as runner:
        assert runner.run(ended()) < len(MUCH)
