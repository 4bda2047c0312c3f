"""Servers as one would write them in an afternoon, for controls: what an attack on the wire does to such a one.

They believe every length, follow every address, wait for everybody in turn, and never say that it is too much.
"""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@contextmanager
def naive_server() -> Iterator[tuple[str, int]]:
    """Where a lenient HTTP server listens that serves one connection after the other."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=_serve, args=(listening,), daemon=True)
        thread.start()
        yield listening.getsockname()
        with suppress(OSError):
            listening.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def exchanged(address: tuple[str, int], sent: bytes, seconds: float = 5) -> str:
    """All that comes back for these bytes; "" after so many seconds of silence."""
    with socket.create_connection(address, seconds) as sock:
        sock.sendall(sent)
        sock.shutdown(socket.SHUT_WR)
        answer = b""
        with suppress(TimeoutError, ConnectionError):
            while piece := sock.recv(65536):
                answer += piece
    return answer.decode("latin-1")


def _serve(listening: socket.socket) -> None:
    with suppress(OSError):
        while True:
            sock, _ = listening.accept()
            with sock, sock.makefile("rb") as reader, suppress(OSError, ValueError):
                while _answered(sock, reader):
                    pass


def _answered(sock: socket.socket, reader: BinaryIO) -> bool:
    """One request of a connection; False at its end."""
    words: list[bytes] = []
    while len(words) != 3:  # what isn't a request is skipped: it may be rubbish before one
        line = reader.readline()
        if not line:
            return False
        words = line.split()
    headers: dict[bytes, bytes] = {}
    while line := reader.readline().strip(b"\r\n"):
        name, _, value = line.partition(b":")
        headers.setdefault(name.strip().lower(), value)
    if words[0] == b"CONNECT" or words[1].startswith(b"http://"):
        sock.sendall(_relayed(words[1].removeprefix(b"http://").split(b"/")[0].decode()))
        return True
    if b"upgrade" in headers:
        sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + reader.readline())
        return False
    if b"chunked" in headers.get(b"transfer-encoding", b""):
        while size := int(reader.readline().strip() or b"0", 16):
            reader.read(size + 2)
        reader.readline()
    else:
        reader.read(int(headers.get(b"content-length", b"0")))
    sock.sendall(ANSWER)
    return True


def _relayed(target: str) -> bytes:
    """What somebody says at once whom the request names."""
    host, _, port = target.partition(":")
    with socket.create_connection((host, int(port or 80)), 5) as other:
        return other.recv(1000)
