"""Whether a connection is made, and to which address: that which was checked, never a name looked up once more."""

import asyncio
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from executor.egress.resolve import NoSuchName, Resolver, Unresolved
from executor.egress.rules import Rules
from kit.addresses import Address, Network, is_in, is_own, plain
from kit.clock import Clock

CONNECT_SECONDS = 10.0
LOOKUP_SECONDS = 10.0
MAX_ADDRESSES = 8
# Of all runs together; each has a descriptor on both sides.
MAX_CONNECTIONS = 4096
# Of one run: the least that it gets, unless there are no more at all, and the most.
LEAST_OF_A_RUN, MOST_OF_A_RUN = 4, 256
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Denied(Exception):
    """The rules say no."""


class Failed(Exception):
    """It may, but can't be reached."""


class Connect(Protocol):
    """How a connection is made; tests have an internet of their own."""

    async def __call__(self, address: Address, port: int) -> Streams:
        """Errors: OSError."""


async def connect(address: Address, port: int) -> Streams:
    """By TCP. Errors: OSError."""
    reader, writer = await asyncio.open_connection(str(address), port)
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return reader, writer


@dataclass
class Internet:
    """What all runs of this host reach out through. `private`: what the operator allows although it isn't public;
    `inside`: names of addresses inside of every sandbox.
    """

    resolver: Resolver
    private: Sequence[Network] = ()
    inside: Mapping[str, str] = field(default_factory=dict)
    connect: Connect = connect
    is_own: Callable[[Address], bool] = is_own
    connections: int = 0

    @property
    def share(self) -> int:
        """How many connections one run may have by now: half of what is left, so that sixteen runs of one organization
        don't have them all.
        """
        return min(MOST_OF_A_RUN, max(LEAST_OF_A_RUN, (MAX_CONNECTIONS - self.connections) // 2))


@contextmanager
def open_internet(clock: Clock, private: Sequence[Network], inside: Mapping[str, str]) -> Iterator[Internet]:
    """The real one."""
    resolver = Resolver(clock)
    try:
        yield Internet(resolver, private, inside)
    finally:
        resolver.close()


class Gate:
    """One run's."""

    # Whether connections to the sandbox's own loopback are for it to decide.
    takes_loopback = False

    def __init__(self, internet: Internet, rules: Rules) -> None:
        self._internet = internet
        self._rules = rules
        # Under way, also those that it doesn't wait for any more.
        self._asking: set[asyncio.Future[Sequence[Address]]] = set()

    async def knows(self, name: str) -> bool:
        """Whether there is such a name. Errors: Denied when that is none of the workflow's business; Failed."""
        if reason := self._rules.refuses_name(name):
            raise Denied(reason)
        try:
            return bool(await self._find(name))
        except NoSuchName:
            return False

    async def reach(self, name: str, address: Address | None, port: int) -> tuple[Address, Streams]:
        """A connection to `name`, or where that is empty to `address`; and where it leads. Errors: Denied, Failed."""
        if name and (reason := self._rules.refuses_name(name)):
            raise Denied(reason)
        allowed = self._allowed(await self._addresses(name) if address is None else [address], name)
        if self._internet.connections >= MAX_CONNECTIONS:
            raise Failed("this host has too many connections open")
        last = "no address"
        for found in allowed[:MAX_ADDRESSES]:
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    return found, await self._internet.connect(found, port)
            except TimeoutError:
                last = "no answer in time"
            except OSError as error:
                last = error.strerror or str(error)
        raise Failed(last)

    def _allowed(self, addresses: Sequence[Address], name: str) -> list[Address]:
        """Errors: Denied when none is."""
        allowed, reason = [], "it has no address"
        for address in map(plain, addresses):
            refused = self._refuses(address, name)
            if refused:
                reason = refused
            else:
                allowed.append(address)
        if not allowed:
            raise Denied(reason)
        return allowed

    def _refuses(self, address: Address, name: str) -> str:
        private = self._internet.private
        if reason := self._rules.refuses(address, name, private):
            return reason
        if not is_in(address, private) and self._internet.is_own(address):
            return "an address of the platform's own machine"
        return ""

    async def _addresses(self, name: str) -> Sequence[Address]:
        try:
            return await self._find(name)
        except NoSuchName:
            raise Failed("there is no such name") from None

    def _ask(self, name: str) -> asyncio.Future[Sequence[Address]]:
        """Errors: Failed."""
        resolver = self._internet.resolver
        if answer := resolver.known(name):
            return answer
        if len(self._asking) >= resolver.share:
            raise Failed("too many names are being looked up at once")
        answer = resolver.ask(name)
        self._asking.add(answer)
        answer.add_done_callback(self._asking.discard)
        return answer

    async def _find(self, name: str) -> Sequence[Address]:
        try:
            async with asyncio.timeout(LOOKUP_SECONDS):
                return await asyncio.shield(self._ask(name))
        except TimeoutError:
            raise Failed("its name server doesn't answer in time") from None
        except Unresolved as error:
            raise Failed(f"its name can't be looked up: {error}") from None
