"""A sandbox's network, and the sockets in it where its only ways out begin.

Part of the spawner (standard library only). A forked child enters the network namespace as the owner of the user
namespace that made it, so this needs no privilege of the host's.
"""

import ctypes
import errno
import fcntl
import functools
import ipaddress
import os
import socket
import struct
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from executor import netlink

RUNTIME_HOST = "runtime.runmesh"
RUNTIME_ADDRESS = "127.0.0.2"
PUBLIC_ADDRESS = "127.0.0.3"
DNS_ADDRESS = "127.0.0.53"
DNS_PORT = 53
# Where all TCP ends up; nothing inside may listen below 1024.
TRANSPARENT_PORT = 1
BACKLOG = 128
_NS_GET_USERNS = 0xB701
_IP_FREEBIND, _IPV6_FREEBIND = 15, 78
_IP_TRANSPARENT, _IPV6_TRANSPARENT = 19, 75
_PATIENCE_SECONDS = 2.0
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1


@dataclass(frozen=True)
class Way:
    """An address inside that leads to the runtime. `name` stands in /etc/hosts; empty for a literal address."""

    address: str
    port: int
    tls: bool
    name: str = ""


@dataclass(frozen=True)
class Network:
    """What to do in a sandbox's network: its own addresses, listeners, and what the kernel is told, as it is sent."""

    spared: tuple[netlink.Address, ...]
    listen: tuple[tuple[str, int], ...]
    route: bytes
    route6: bytes
    rules: tuple[bytes, int]


def network_of(addresses: Sequence[tuple[str, int]]) -> Network:
    """Of these listeners. To be called once before a fork: each child would have to find it out for itself."""
    return _network_of(tuple((address, port) for address, port in addresses))


@functools.cache
def _network_of(addresses: tuple[tuple[str, int], ...]) -> Network:
    literal = [(ipaddress.ip_address(address), port) for address, port in addresses]
    spared = tuple(address for address, _ in literal if not address.is_loopback)
    return Network(
        spared,
        tuple((str(address), port) for address, port in literal),
        netlink.everything_is_local(socket.AF_INET),
        netlink.everything_is_local(socket.AF_INET6),
        netlink.all_tcp_goes_to(TRANSPARENT_PORT, spared),
    )


def ways_out(public_url: str) -> list[Way]:
    """The runtime's own name, and wherever callers outside reach it, so that its URLs work inside too."""
    ways = [Way(RUNTIME_ADDRESS, 80, tls=False, name=RUNTIME_HOST)]
    url = urlsplit(public_url)
    host = url.hostname or ""
    tls = url.scheme == "https"
    port = url.port or (443 if tls else 80)
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        if host == "localhost":
            return [*ways, Way("127.0.0.1", port, tls)]
        return [*ways, Way(PUBLIC_ADDRESS, port, tls, name=host)]
    if address.is_unspecified:  # connecting to it reaches the loopback
        address = ipaddress.ip_address("::1" if address.version == 6 else "127.0.0.1")
    return [*ways, Way(str(address), port, tls)]


def names_inside(public_url: str) -> dict[str, str]:
    """The names of the ways out, and their addresses."""
    return {way.name: way.address for way in ways_out(public_url) if way.name}


def listeners(pid: int, addresses: Sequence[tuple[str, int]]) -> list[socket.socket]:
    """Enters the network of the sandbox whose init is `pid` and opens it. For a forked, single-threaded child.

    Errors: OSError.
    """
    _enter(pid)
    return open_network(addresses)


def open_network(addresses: Sequence[tuple[str, int]]) -> list[socket.socket]:
    """In the network that we are in, whose loopback is up or comes up: listeners at `addresses`; then the transparent
    way out's: for TCP over IPv4, DNS over UDP, DNS over TCP, and for TCP over IPv6 where this host has it.

    Errors: OSError.
    """
    network = network_of(addresses)
    for address in network.spared:
        netlink.add_address(address)
    made = [_listen(address, port) for address, port in network.listen]
    _await_loopback()
    netlink.send_route(network.route)
    tcp = _listen("127.0.0.1", TRANSPARENT_PORT, transparent=True)
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    udp.bind((DNS_ADDRESS, DNS_PORT))
    made += [tcp, udp, _listen(DNS_ADDRESS, DNS_PORT)]
    with suppress(OSError):  # a host without IPv6: nobody inside can name such an address either
        listener = _listen("::1", TRANSPARENT_PORT, transparent=True)
        netlink.send_route(network.route6)
        made.append(listener)
    netlink.send_rules(network.rules)
    return made


def bring_up_loopback() -> None:
    """`ip link set lo up`. Errors: OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))


def _await_loopback() -> None:
    """bubblewrap brings it up, soon after it has told us of the sandbox; no route before. Errors: OSError."""
    until = time.monotonic() + _PATIENCE_SECONDS
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        while (
            not struct.unpack_from("16xh", fcntl.ioctl(sock, _SIOCGIFFLAGS, struct.pack("16s16x", b"lo")))[0] & _IFF_UP
        ):
            if time.monotonic() > until:
                raise OSError(errno.ENETDOWN, "the sandbox's loopback doesn't come up")
            time.sleep(0.0005)


def _listen(address: str, port: int, *, transparent: bool = False) -> socket.socket:
    """A transparent one accepts connections to other addresses too, when the kernel is told to hand them over."""
    is_v4 = ":" not in address
    sock = socket.socket(socket.AF_INET if is_v4 else socket.AF_INET6, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # bubblewrap may not have brought the loopback up yet.
    level, option = (socket.SOL_IP, _IP_FREEBIND) if is_v4 else (socket.IPPROTO_IPV6, _IPV6_FREEBIND)
    sock.setsockopt(level, option, 1)
    if transparent:
        sock.setsockopt(level, _IP_TRANSPARENT if is_v4 else _IPV6_TRANSPARENT, 1)
    sock.bind((address, port))
    sock.listen(BACKLOG)
    return sock


def _enter(pid: int) -> None:
    network = _open_patiently(Path(f"/proc/{pid}/ns/net"))
    owner = fcntl.ioctl(network, _NS_GET_USERNS)
    libc = ctypes.CDLL(None, use_errno=True)
    for namespace in (owner, network):
        if libc.setns(namespace, 0):
            number = ctypes.get_errno()
            raise OSError(number, f"setns: {os.strerror(number)}")
        os.close(namespace)


def _open_patiently(path: Path) -> int:
    """While bubblewrap changes its credentials the kernel lets nobody look."""
    until = time.monotonic() + _PATIENCE_SECONDS
    while True:
        with suppress(PermissionError):
            return os.open(path, os.O_RDONLY)
        if time.monotonic() > until:
            raise PermissionError(errno.EACCES, f"{path} doesn't open")
        time.sleep(0.002)
