"""Sockets in a sandbox's network on which something may arrive at any time. A flood costs the flooder time, not us."""

import asyncio
import socket
from collections.abc import Callable, Iterator

from kit.telemetry import log

MAX_STEPS = 400  # a second: a datagram, or up to so many connections, each
ACCEPT_AT_ONCE = 4


class Pace:
    """At most `most` steps within a second."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._began = 0.0
        self._steps = 0

    def step(self, now: float) -> float:
        """0: go. Else it is no step, and how many seconds are to pass before one may be."""
        if now >= self._began + 1:
            self._began, self._steps = now, 0
        if self._steps >= self._most:
            return self._began + 1 - now
        self._steps += 1
        return 0.0


class Arrivals:
    """Watches sockets, which stay whose they are, until `close`."""

    def __init__(self) -> None:
        self._pace = Pace(MAX_STEPS)
        self._sockets: list[socket.socket] = []
        self._pauses: dict[socket.socket, asyncio.TimerHandle] = {}

    def watch(self, sock: socket.socket, arrived: Callable[[socket.socket], None]) -> None:
        """Calls `arrived` when something is there, as often as our pace allows."""
        loop = asyncio.get_running_loop()
        sock.setblocking(False)
        self._sockets.append(sock)

        def come() -> None:
            if pause := self._pace.step(loop.time()):
                loop.remove_reader(sock)
                self._pauses[sock] = loop.call_later(pause, loop.add_reader, sock, come)
            else:
                arrived(sock)

        loop.add_reader(sock, come)

    def close(self) -> None:
        """Watches no longer."""
        for sock in self._sockets:
            asyncio.get_running_loop().remove_reader(sock)
        for pause in self._pauses.values():
            pause.cancel()


def accepted(listener: socket.socket) -> Iterator[socket.socket]:
    """A few of the connections that wait."""
    for _ in range(ACCEPT_AT_ONCE):
        try:
            sock, _ = listener.accept()
        except (BlockingIOError, ConnectionError):
            return
        except OSError as error:  # no descriptors: the caller sees a reset, or waits
            log().warning("arrivals.not_accepted", reason=str(error))
            return
        sock.setblocking(False)
        yield sock
