"""A network in which every TCP connection goes to one listener, which learns where it was meant to go.

By netlink, without `ip` and `nft`: a route that makes every address a local one, so that whatever isn't TCP is refused
at once, and a rule of nftables that hands TCP to a transparent listener (TPROXY: unlike a redirect it needs no
connection tracking, whose table all sandboxes would share). Part of the spawner: standard library only.
"""

import ipaddress
import os
import socket
import struct
from collections.abc import Iterable, Sequence

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_REQUEST, _ACK, _CREATE, _APPEND = 0x1, 0x4, 0x400, 0x800
_ERROR = 2
_RECEIVE_BYTES = 65536
_NESTED = 0x8000

_RTM_NEWROUTE, _RTM_NEWADDR = 24, 20
_RTA_OIF = 4
_TABLE_LOCAL, _PROTOCOL_STATIC, _SCOPE_HOST, _TYPE_LOCAL = 255, 4, 254, 2
_IFA_ADDRESS, _IFA_LOCAL, _IFA_F_NODAD = 1, 2, 0x02
_LOOPBACK_INDEX = 1

_NETFILTER, _SUBSYSTEM = 12, 10
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_NEW_TABLE, _NEW_CHAIN, _NEW_RULE = _SUBSYSTEM << 8, _SUBSYSTEM << 8 | 3, _SUBSYSTEM << 8 | 6
_INET, _PREROUTING, _MANGLE = 1, 0, -150
_FAMILY, _TRANSPORT = 15, 16  # what `meta` can load
_NFPROTO_IPV4, _NFPROTO_IPV6 = 2, 10
_NETWORK_HEADER = 1
_IPV4_DESTINATION, _IPV6_DESTINATION = 16, 24  # offsets in the headers
_RETURN = -5
_NAME = b"runmesh\0"


def add_address(address: Address) -> None:
    """`ip address add ADDRESS dev lo`. Errors: OSError."""
    packed = address.packed
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    body = struct.pack("=BBBBI", family, len(packed) * 8, _IFA_F_NODAD, 0, _LOOPBACK_INDEX)
    body += _attribute(_IFA_LOCAL, packed) + _attribute(_IFA_ADDRESS, packed)
    _ask(socket.NETLINK_ROUTE, _message(_RTM_NEWADDR, body, 1, _CREATE | _ACK), 1)


def send_route(route: bytes) -> None:
    """Errors: OSError."""
    _ask(socket.NETLINK_ROUTE, route, 1)


def send_rules(rules: tuple[bytes, int]) -> None:
    """Errors: OSError."""
    _ask(_NETFILTER, *rules)


def everything_is_local(family: int) -> bytes:
    """`ip route add local default dev lo`, for IPv4 or IPv6, to be sent when the loopback is up."""
    body = struct.pack("=8BI", family, 0, 0, 0, _TABLE_LOCAL, _PROTOCOL_STATIC, _SCOPE_HOST, _TYPE_LOCAL, 0)
    body += _attribute(_RTA_OIF, struct.pack("=I", _LOOPBACK_INDEX))
    return _message(_RTM_NEWROUTE, body, 1, _CREATE | _ACK)


def all_tcp_goes_to(port: int, spared: Sequence[Address]) -> tuple[bytes, int]:
    """Every TCP connection but those to the loopback and to the `spared` goes to the transparent listener at `port`,
    whatever its own. What it accepts has the address that was meant as its own name. (messages, how many of them are
    acknowledged).
    """
    chain = _attribute(1, _NAME) + _attribute(3, _NAME) + _attribute(7, b"filter\0")
    chain += _nest(4, _number(1, _PREROUTING) + _number(2, _MANGLE))
    rules = [
        [*_is_family(_NFPROTO_IPV4), *_goes_to(_IPV4_DESTINATION, b"\x7f"), _return()],
        [*_is_family(_NFPROTO_IPV6), *_goes_to(_IPV6_DESTINATION, ipaddress.IPv6Address("::1").packed), _return()],
        *(_spare(address) for address in spared),
        [*_is_family(_NFPROTO_IPV4), *_hand_over(_NFPROTO_IPV4, ipaddress.ip_address("127.0.0.1"), port)],
        [*_is_family(_NFPROTO_IPV6), *_hand_over(_NFPROTO_IPV6, ipaddress.ip_address("::1"), port)],
    ]
    body = struct.pack("!BBH", _INET, 0, 0)
    batch = struct.pack("!BBH", 0, 0, _SUBSYSTEM)
    messages = [
        _message(_BATCH_BEGIN, batch, 0),
        _message(_NEW_TABLE, body + _attribute(1, _NAME), 1, _CREATE | _ACK),
        _message(_NEW_CHAIN, body + chain, 2, _CREATE | _ACK),
        *(
            _message(_NEW_RULE, body + _rule(expressions), number, _CREATE | _APPEND | _ACK)
            for number, expressions in enumerate(rules, 3)
        ),
        _message(_BATCH_END, batch, 3 + len(rules)),
    ]
    return b"".join(messages), len(messages) - 2


def _ask(protocol: int, messages: bytes, awaited: int) -> None:
    """Sends the messages as one, and awaits that many acknowledgements."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol) as netlink:
        netlink.sendall(messages)
        while awaited:
            answer = netlink.recv(_RECEIVE_BYTES)
            for number in _acknowledgements(answer):
                if number:
                    raise OSError(-number, f"the network can't be made: {os.strerror(-number)}")
                awaited -= 1


def _acknowledgements(answer: bytes) -> Iterable[int]:
    while len(answer) >= 20:
        length, kind = struct.unpack_from("=IH", answer)
        if kind == _ERROR:
            yield struct.unpack_from("=i", answer, 16)[0]
        answer = answer[(length + 3) & ~3 :]


def _message(kind: int, body: bytes, number: int, flags: int = 0) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, _REQUEST | flags, number, 0) + body


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def _nest(kind: int, inner: bytes) -> bytes:
    return _attribute(kind | _NESTED, inner)


def _number(kind: int, value: int) -> bytes:
    return _attribute(kind, struct.pack("!I", value & 0xFFFFFFFF))


def _rule(expressions: Sequence[bytes]) -> bytes:
    return _attribute(1, _NAME) + _attribute(2, _NAME) + _nest(4, b"".join(expressions))


def _expression(name: bytes, inner: bytes) -> bytes:
    return _nest(1, _attribute(1, name + b"\0") + _nest(2, inner))


def _meta_is(key: int, value: bytes) -> list[bytes]:
    return [_expression(b"meta", _number(1, 1) + _number(2, key)), _register_is(value)]


def _is_family(protocol: int) -> list[bytes]:
    return _meta_is(_FAMILY, bytes([protocol]))


def _goes_to(offset: int, start: bytes) -> list[bytes]:
    """The destination, `offset` bytes into the network header, starts with these bytes."""
    load = _number(1, 1) + _number(2, _NETWORK_HEADER) + _number(3, offset) + _number(4, len(start))
    return [_expression(b"payload", load), _register_is(start)]


def _spare(address: Address) -> list[bytes]:
    if address.version == 4:
        return [*_is_family(_NFPROTO_IPV4), *_goes_to(_IPV4_DESTINATION, address.packed), _return()]
    return [*_is_family(_NFPROTO_IPV6), *_goes_to(_IPV6_DESTINATION, address.packed), _return()]


def _register_is(value: bytes) -> bytes:
    return _expression(b"cmp", _number(1, 1) + _number(2, 0) + _nest(3, _attribute(1, value)))


def _return() -> bytes:
    return _expression(b"immediate", _number(1, 0) + _nest(2, _nest(2, _number(1, _RETURN))))


def _hand_over(family: int, address: Address, port: int) -> list[bytes]:
    """To the transparent listener there."""
    return [
        *_meta_is(_TRANSPORT, bytes([socket.IPPROTO_TCP])),
        _expression(b"immediate", _number(1, 1) + _nest(2, _attribute(1, address.packed))),
        _expression(b"immediate", _number(1, 2) + _nest(2, _attribute(1, struct.pack("!H", port)))),
        _expression(b"tproxy", _number(1, family) + _number(2, 1) + _number(3, 2)),
    ]
