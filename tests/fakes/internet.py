"""An internet of a test's own: names and public addresses that lead to servers on this machine's loopback."""

import asyncio
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field

from executor.egress.gate import Internet, Streams
from executor.egress.resolve import NoSuchName, Resolver, Unresolved
from kit.addresses import Address, Network
from kit.clock import Clock, SystemClock


@dataclass
class FakeInternet:
    """`names` lead to addresses, several lists of them one after the other; `servers` are where these really answer."""

    names: dict[str, list[list[str]]] = field(default_factory=dict)
    # (address, port) → the port on 127.0.0.1.
    servers: dict[tuple[str, int], int] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    connected: list[tuple[str, int]] = field(default_factory=list)
    private: Sequence[Network] = ()
    own: Sequence[str] = ()

    def find(self, name: str) -> Sequence[Address]:
        """As `resolve.ask_host`."""
        self.asked.append(name)
        if name == "unknown.example":
            raise Unresolved("the servers are silent")
        answers = self.names.get(name)
        if not answers:
            raise NoSuchName(name)
        now = answers.pop(0) if len(answers) > 1 else answers[0]
        return [ipaddress.ip_address(address) for address in now]

    async def connect(self, address: Address, port: int) -> Streams:
        """As `gate.connect`."""
        self.connected.append((str(address), port))
        if (str(address), port) not in self.servers:
            raise ConnectionRefusedError(111, "Connection refused")
        return await asyncio.open_connection("127.0.0.1", self.servers[str(address), port])

    def open(self, clock: Clock | None = None) -> Internet:
        """As runs know it."""
        resolver = Resolver(clock or SystemClock(), self.find)
        inside = {"runtime.runmesh": "127.0.0.2"}
        return Internet(resolver, self.private, inside, self.connect, lambda address: str(address) in self.own)
