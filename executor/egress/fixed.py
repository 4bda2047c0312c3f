"""A gate that leads to a few targets only, wherever these are: what the operator names may have a private address."""

import ipaddress
from collections.abc import Iterable

from executor.egress.gate import Denied, Gate, Internet, Streams
from executor.egress.rules import Rules, plain_name
from kit.addresses import Address, plain

LOCALHOST = "localhost"
# What a run calls this host's own loopback: `127.0.0.1` is its sandbox's.
NEAR = "provider.internal"
PACKAGES = "packages come from the package index only"


class FixedGate(Gate):
    """To `targets`: (name or address, port)."""

    takes_loopback = True

    def __init__(self, internet: Internet, targets: Iterable[tuple[str, int]], refusal: str = PACKAGES) -> None:
        """`refusal`: why it doesn't lead elsewhere. Errors: ValueError for what is neither a name nor an address."""
        super().__init__(internet, Rules())
        self._refusal = refusal
        self._targets = {(plain_host(host), port) for host, port in targets}
        self._names = {host for host, _ in self._targets}
        self._near = {port: host for host, port in self._targets if is_near(host)}

    async def knows(self, name: str) -> bool:
        """Errors: Denied for the name of no target; Failed."""
        if name == NEAR and self._near:
            return True
        if name not in self._names:
            raise Denied(self._refusal)
        return await super().knows(name)

    async def reach(self, name: str, address: Address | None, port: int) -> tuple[Address, Streams]:
        """Errors: Denied, Failed."""
        if name == NEAR and port in self._near:
            host = self._near[port]
            name, address = (host, None) if host == LOCALHOST else ("", ipaddress.ip_address(host))
        if address is not None and address.is_loopback and (LOCALHOST, port) in self._targets:
            name, address = LOCALHOST, None
        if ((name or str(address)), port) not in self._targets:
            raise Denied(self._refusal)
        return await super().reach(name, address, port)

    def _refuses(self, address: Address, name: str) -> str:  # noqa: ARG002  # as the gate's
        """Nothing: whom the operator names is reached."""
        return ""


def is_near(host: str) -> bool:
    """Whether it is this host's loopback, as `plain_host` spells it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == LOCALHOST


def plain_host(host: str) -> str:
    """One spelling of a name or an address. Errors: ValueError when it is neither."""
    try:
        return str(plain(ipaddress.ip_address(host.strip("[]"))))
    except ValueError:
        return plain_name(host)
