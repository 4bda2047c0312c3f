"""Where names really lead: the host's own resolver, asked by threads, and never by more of them than there are."""

import asyncio
import ipaddress
import socket
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

from kit.addresses import Address
from kit.clock import Clock

THREADS = 128
KEEP = timedelta(seconds=5)  # so that the connection after a question needs no second look-up
MAX_KEPT = 2000
Find = Callable[[str], Sequence[Address]]


class NoSuchName(Exception):
    """There is no address for it."""


class Unresolved(Exception):
    """Nobody can tell at the moment."""


def ask_host(name: str) -> list[Address]:
    """As any program on this host would. Blocks. Errors: NoSuchName, Unresolved."""
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        if error.errno in (socket.EAI_NONAME, socket.EAI_NODATA):
            raise NoSuchName(name) from None
        raise Unresolved(error.strerror) from None
    except (OSError, UnicodeError) as error:
        raise Unresolved(str(error)) from None
    # A scope (fe80::1%eth0) says which of this host's interfaces: no business of a workflow's.
    return list(dict.fromkeys(ipaddress.ip_address(str(info[4][0]).split("%")[0]) for info in found))


class Resolver:
    """Of one host; `find` blocks. The same question is asked once at a time, and its answer serves for five seconds."""

    def __init__(self, clock: Clock, find: Find = ask_host) -> None:
        self._clock = clock
        self._find = find
        self._threads = ThreadPoolExecutor(THREADS, "egress-resolve")
        self._busy = 0
        self._asked: OrderedDict[str, tuple[datetime, asyncio.Future[Sequence[Address]]]] = OrderedDict()

    @property
    def share(self) -> int:
        """How many look-ups one run may have under way: half of the threads that are left. A name server that never
        answers keeps one for half a minute, and whoever asks many of them would keep all.
        """
        return max(1, (THREADS - self._busy) // 2)

    def known(self, name: str) -> asyncio.Future[Sequence[Address]] | None:
        """Its answer, there or on its way. Await it shielded: others may, too. Errors: NoSuchName, Unresolved."""
        asked_at, answer = self._asked.get(name, (None, None))
        if answer and asked_at and (not answer.done() or asked_at <= self._clock.now() < asked_at + KEEP):
            return answer
        return None

    def ask(self, name: str) -> asyncio.Future[Sequence[Address]]:
        """As `known`; asks if need be."""
        if answer := self.known(name):
            return answer
        answer = asyncio.get_running_loop().run_in_executor(self._threads, self._find, name)
        self._busy += 1
        answer.add_done_callback(self._answered)
        self._asked[name] = (self._clock.now(), answer)
        self._asked.move_to_end(name)
        while len(self._asked) > MAX_KEPT:
            self._asked.popitem(last=False)
        return answer

    def _answered(self, answer: asyncio.Future[Sequence[Address]]) -> None:
        self._busy -= 1
        if not answer.cancelled():  # an error that nobody waits for is none
            answer.exception()

    def close(self) -> None:
        """Nobody asks any more."""
        self._threads.shutdown(wait=False, cancel_futures=True)
