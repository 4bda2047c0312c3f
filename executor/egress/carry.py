"""Carries bytes between two connections, as fast as the slower one takes them, and counts."""

import asyncio
import socket
import struct
from contextlib import suppress

from executor.egress.gate import Streams

CHUNK_BYTES = 64 * 1024
RESET = struct.pack("ii", 1, 0)  # struct linger: close at once


class Carried:
    """What went through so far, in bytes."""

    def __init__(self) -> None:
        self.bytes_in = 0
        self.bytes_out = 0

    async def between(self, inside: Streams, outside: Streams) -> None:
        """Until both sides have said all. Errors: OSError when one breaks off; the other must then be reset."""
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._out(inside[0], outside[1]))
                both.create_task(self._in(outside[0], inside[1]))
            for _, writer in (inside, outside):
                writer.close()
                await writer.wait_closed()  # what is still buffered goes out
        except* OSError as broken:
            raise OSError(str(broken.exceptions[0])) from None

    async def _out(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(CHUNK_BYTES):
            writer.write(chunk)
            self.bytes_out += len(chunk)
            await writer.drain()
        writer.write_eof()

    async def _in(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(CHUNK_BYTES):
            writer.write(chunk)
            self.bytes_in += len(chunk)
            await writer.drain()
        writer.write_eof()


def reset(writer: asyncio.StreamWriter) -> None:
    """Closes at once; the other side learns that it was broken off (a reset), not ended. Harmless when it is closed."""
    if not writer.transport.is_closing():  # of a closed one the descriptor may be another's by now
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    abort(writer)


def abort(writer: asyncio.StreamWriter) -> None:
    """Closes at once, whatever is buffered. Harmless when it is closed."""
    # What asyncio's own transport raises that was closed with a full buffer, all of which went out since: it has let go
    # of its loop, and doesn't look. (uvloop's, on which services run, has no such gap; nothing public tells the state.)
    with suppress(AttributeError):
        writer.transport.abort()
