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

THREADS = 32
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
        self._asked: OrderedDict[str, tuple[datetime, asyncio.Future[Sequence[Address]]]] = OrderedDict()

    def ask(self, name: str) -> asyncio.Future[Sequence[Address]]:
        """Await it shielded: others may, too. Errors: NoSuchName, Unresolved."""
        now = self._clock.now()
        if name in self._asked:
            asked_at, answer = self._asked[name]
            if not answer.done() or asked_at <= now < asked_at + KEEP:
                return answer
        answer = asyncio.get_running_loop().run_in_executor(self._threads, self._find, name)
        answer.add_done_callback(_hear)
        self._asked[name] = (now, answer)
        self._asked.move_to_end(name)
        while len(self._asked) > MAX_KEPT:
            self._asked.popitem(last=False)
        return answer

    def close(self) -> None:
        """Nobody asks any more."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _hear(answer: asyncio.Future[Sequence[Address]]) -> None:
    """An error that nobody waits for is none."""
    if not answer.cancelled():
        answer.exception()
