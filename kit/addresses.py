"""Which addresses belong to the public internet, in whatever spelling: where those may lead who ask us to connect."""

import ipaddress
import socket
from collections.abc import Sequence

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# IANA's special-purpose registries, by what a log should say; the first that has an address names it. The interpreter's
# own `is_global` differs by version.
_SPECIAL = {
    "an unspecified address": ("0.0.0.0/8", "::/128"),
    "a loopback address": ("127.0.0.0/8", "::1/128"),
    "a link-local address": ("169.254.0.0/16", "fe80::/10"),
    "a private address": ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", "fec0::/10"),
    "a carrier's own address": ("100.64.0.0/10",),
    "a metadata address": ("192.0.0.192/32", "168.63.129.16/32"),  # of clouds that don't use 169.254.169.254
    "a multicast address": ("224.0.0.0/4", "ff00::/8"),
    "an IPv4 address in disguise": ("2001::/32", "2002::/16"),  # Teredo, 6to4
    "a reserved address": (
        "192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.175.48.0/24",
        "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4", "2001::/23", "2001:db8::/32", "3fff::/20",
        "2620:4f:8000::/48",
    ),
}  # fmt: skip
_NAMED = [(ipaddress.ip_network(network), kind) for kind, networks in _SPECIAL.items() for network in networks]
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
_TRANSLATED = ipaddress.ip_network("64:ff9b::/96")  # NAT64
_COMPATIBLE = ipaddress.ip_network("::/96")
# `…:0:5efe:a.b.c.d`, with the universal bit or without: ISATAP.
_ISATAP = (0x00005EFE, 0x02005EFE)


def plain(address: Address) -> Address:
    """The IPv4 address where this is one that is written as an IPv6 address (`::ffff:a.b.c.d`)."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def not_public(address: Address) -> str:
    """Why it is no address of the public internet, such as "a private address"; empty when it is one."""
    address = plain(address)
    if isinstance(address, ipaddress.IPv6Address):
        return _not_public_v6(address)
    return _special(address)


def _not_public_v6(address: ipaddress.IPv6Address) -> str:
    if reason := _special(address):
        return reason
    value = int(address)
    if address in _TRANSLATED:
        return _special(ipaddress.IPv4Address(value & 0xFFFFFFFF))
    if address in _COMPATIBLE:
        return "an IPv4 address in disguise"
    if address not in _GLOBAL_UNICAST:
        return "not an address of the public internet"
    return "an IPv4 address in disguise" if value >> 32 & 0xFFFFFFFF in _ISATAP else ""


def _special(address: Address) -> str:
    for network, kind in _NAMED:
        if address.version == network.version and address in network:
            return kind
    return ""


def is_in(address: Address, networks: Sequence[Network]) -> bool:
    """Whether one of the networks has it."""
    address = plain(address)
    return any(address.version == network.version and address in network for network in networks)


def networks(text: str) -> tuple[Network, ...]:
    """The setting RUNMESH_EGRESS_ALLOW_PRIVATE: addresses and networks, separated by commas. Errors: ValueError."""
    return tuple(ipaddress.ip_network(item.strip(), strict=False) for item in text.split(",") if item.strip())


def is_own(address: Address) -> bool:
    """Whether this machine has the address, public though it may be."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.bind((str(address), 0))
    except OSError:
        return False
    return True
