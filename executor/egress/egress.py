"""The sockets of one run's way out: what arrives on them is answered, carried, or refused; and written down."""

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, Self

from executor.arrivals import Arrivals, accepted
from executor.egress import dns
from executor.egress.carry import RESET, Carried, reset
from executor.egress.gate import Denied, Failed, Gate, Internet, Streams
from executor.egress.intercept import Interception
from executor.egress.log import Contact, EgressLog
from executor.egress.names import NETWORK, Names
from executor.egress.offline import Offline
from executor.egress.rules import Rules, plain_name
from kit.addresses import Address, not_public, plain
from kit.clock import Clock
from kit.telemetry import log

DNS_OVER_TCP = 2  # its place among the sockets
MAX_QUESTIONS = 32  # at once
DNS_IDLE_SECONDS = 10.0


class Egress:
    """`async with Egress(…):` serves until it is left. `sockets` as `netns.open_network` orders them: TCP, DNS by UDP,
    DNS by TCP, TCP over IPv6 where there is any; they stay whose they are, as do `names`. `gate`: instead of the one
    that `rules` make. `offline`: answers in place of the internet.
    """

    def __init__(
        self,
        sockets: list[socket.socket],
        names: Names,
        internet: Internet,
        rules: Rules,
        contacts: EgressLog,
        clock: Clock,
        interception: Interception | None = None,
        gate: Gate | None = None,
        offline: Offline | None = None,
    ) -> None:
        self._sockets = sockets
        self._interception = interception
        self._offline = offline
        self._internet = internet
        self._gate = gate or Gate(internet, rules)
        self._contacts = contacts
        self._clock = clock
        self._inside = {"localhost": "127.0.0.1"} | dict(internet.inside)
        self._names = names
        self._arrivals = Arrivals()
        self._connections: set[asyncio.Task[None]] = set()
        self._questions: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        for place, sock in enumerate(self._sockets):
            if sock.type == socket.SOCK_DGRAM:
                self._arrivals.watch(sock, self._asked)
            else:
                serve = self._converse if place == DNS_OVER_TCP else self._carry
                self._arrivals.watch(sock, partial(self._accept, serve))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._arrivals.close()
        tasks = self._connections | self._questions
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.gather(*tasks, return_exceptions=True)

    def _accept(self, serve: Callable[[socket.socket], Coroutine[Any, Any, None]], listener: socket.socket) -> None:
        for sock in accepted(listener):
            if len(self._connections) >= self._internet.share:
                self._refuse(sock)
                continue
            task = asyncio.create_task(serve(sock))
            self._connections.add(task)
            # Here, not in the task: one that is cancelled before its first step would never close it.
            task.add_done_callback(partial(self._carried, sock))

    def _carried(self, sock: socket.socket, task: asyncio.Task[None]) -> None:
        self._connections.discard(task)
        sock.close()
        _hear(task)

    def _refuse(self, sock: socket.socket) -> None:
        address, port = _own_name(sock)
        host = self._names.name_of(address) or str(address)
        reason = f"more than {len(self._connections)} connections at once"
        self._contacts.add(Contact(self._clock.now(), host, port, verdict="denied", reason=reason))
        _reset(sock)

    async def _carry(self, sock: socket.socket) -> None:
        """A connection to anywhere: the address that was meant is the socket's own."""
        address, port = _own_name(sock)
        contact, carried = Contact(self._clock.now(), str(address), port), Carried()
        began = asyncio.get_running_loop().time()
        self._internet.connections += 1
        inside: Streams | None = None
        try:
            name = self._meant(contact, address)
            if self._offline:
                await self._offline.serve(sock, contact, carried, partial(self._told, contact))
                return
            filling = await self._interception.filling(sock, contact.host, port) if self._interception else None
            if filling is None:
                inside = await asyncio.open_connection(sock=sock)
            found, outside = await self._gate.reach(name, None if name else address, port)
            contact.address = str(found)
            try:
                if inside:
                    await carried.between(inside, outside)
                elif self._interception and filling:
                    told = partial(self._told, contact)
                    await self._interception.serve(sock, outside, filling, carried, contact, told)
            finally:
                reset(outside[1])
                contact.secrets = sorted(filling.used) if filling else []
        except Denied as denied:
            contact.verdict, contact.reason = "denied", str(denied)
        except Failed as failed:
            contact.verdict, contact.reason = "failed", str(failed)
        except OSError as broken:
            contact.reason = f"broken off: {broken}"
        finally:
            self._internet.connections -= 1
            reset(inside[1]) if inside else _reset(sock)
            contact.bytes_in, contact.bytes_out = carried.bytes_in, carried.bytes_out
            contact.seconds = asyncio.get_running_loop().time() - began
            self._contacts.add(contact)

    def _told(self, contact: Contact, reason: str) -> None:
        """A request on a connection wasn't passed on."""
        now, host = self._clock.now(), contact.host
        self._contacts.add(Contact(now, host, contact.port, contact.address, verdict="denied", reason=reason))

    def _meant(self, contact: Contact, address: Address) -> str:
        """The name behind an address of ours; empty for a real address. Errors: Denied."""
        name = self._names.name_of(address)
        if name:
            contact.host = name
        elif address in NETWORK or (address.is_loopback and not self._gate.takes_loopback):
            raise Denied(not_public(address))
        return name

    def _asked(self, sock: socket.socket) -> None:
        """A datagram with a question."""
        with suppress(OSError):
            packet, sender = sock.recvfrom(dns.MAX_PACKET)
            if len(self._questions) >= MAX_QUESTIONS:
                return  # whoever asks tries again
            task = asyncio.create_task(self._tell(sock, packet, sender))
            self._questions.add(task)
            task.add_done_callback(self._questions.discard)
            task.add_done_callback(_hear)

    async def _tell(self, sock: socket.socket, packet: bytes, sender: Any) -> None:
        if reply := await self._answer(packet):
            with suppress(OSError):
                sock.sendto(reply, sender)

    async def _converse(self, sock: socket.socket) -> None:
        """Questions over TCP, one after the other."""
        reader, writer = await asyncio.open_connection(sock=sock)
        try:
            while True:
                async with asyncio.timeout(DNS_IDLE_SECONDS):
                    packet = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
                reply = await self._answer(packet)
                writer.write(len(reply).to_bytes(2, "big") + reply)
                async with asyncio.timeout(DNS_IDLE_SECONDS):
                    await writer.drain()
        except (OSError, EOFError, TimeoutError):
            pass  # it has no more questions
        finally:
            writer.transport.abort()

    async def _answer(self, packet: bytes) -> bytes:
        try:
            question = dns.parse(packet)
        except dns.Unanswerable as unanswerable:
            return unanswerable.reply
        try:
            name = plain_name(question.name)
        except ValueError:
            return dns.reply(question, dns.NO_SUCH_NAME)
        if name in self._inside:
            return dns.reply(question, dns.OK, _v4(self._inside[name]))
        return dns.reply(question, *await self._look_up(name))

    async def _look_up(self, name: str) -> tuple[int, ipaddress.IPv4Address | None]:
        """Nobody connects to a name that isn't found: what went wrong is written down here, or nowhere."""
        verdict, reason, code = "failed", "too many names", dns.FAILED
        try:
            if not await self._gate.knows(name):
                reason, code = "there is no such name", dns.NO_SUCH_NAME
            elif address := self._names.address_of(name):
                return dns.OK, address
        except Denied as denied:
            verdict, reason, code = "denied", str(denied), dns.NO_SUCH_NAME
        except Failed as failed:
            reason = str(failed)
        self._contacts.add(Contact(self._clock.now(), name, 0, verdict=verdict, reason=reason))
        return code, None


def _hear(task: asyncio.Task[None]) -> None:
    """What nobody expected costs that connection or question, and is seen."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log().warning("egress.broken", reason=repr(error))


def _reset(sock: socket.socket) -> None:
    """Closes it; the other end learns that it was broken off. Harmless when it is closed."""
    if sock.fileno() >= 0:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        sock.close()


def _own_name(sock: socket.socket) -> tuple[Address, int]:
    """Where the other end meant to connect to."""
    address, port = sock.getsockname()[:2]
    return plain(ipaddress.ip_address(address)), port


def _v4(address: str) -> ipaddress.IPv4Address | None:
    return ipaddress.IPv4Address(address) if ":" not in address else None
