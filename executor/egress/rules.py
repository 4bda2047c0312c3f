"""What a workflow may reach: `[tool.runmesh] egress`. Pure.

A list of entries, each one of

    api.example.com     that name                    10.0.0.0/8, 192.0.2.7, 2001:db8::/32   these addresses
    *.example.com       every name below it          *                                      everything public
    !…                  none of that, whatever else the list says

No list, and one of nothing but `!…`, allow the public internet; an empty list nothing at all. When there are entries
that allow, nothing else is allowed. Names are matched as they were asked for, addresses as they were found. Private
addresses stay denied whatever a list says, unless the operator allows them (RUNMESH_EGRESS_ALLOW_PRIVATE).
"""

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from kit.addresses import Address, Network, is_in, not_public, plain

MAX_RULES = 500
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")


@dataclass(frozen=True)
class Side:
    """What is allowed, or what is denied."""

    names: frozenset[str] = frozenset()
    # Of `*.example.com`: `.example.com`.
    suffixes: tuple[str, ...] = ()
    networks: tuple[Network, ...] = ()
    everything: bool = False

    def has_name(self, name: str) -> bool:
        """Whether one of its entries means this name."""
        return self.everything or name in self.names or name.endswith(self.suffixes)

    @property
    def is_empty(self) -> bool:
        """Whether it has no entry."""
        return not (self.everything or self.names or self.suffixes or self.networks)


@dataclass(frozen=True)
class Rules:
    """A workflow's. `permits_none`: its list is empty."""

    allowed: Side = field(default_factory=Side)
    denied: Side = field(default_factory=Side)
    permits_none: bool = False

    def refuses_name(self, name: str) -> str:
        """Why this name isn't even looked up, empty when it may be. `name` as `plain_name` gives it."""
        if self.permits_none:
            return "the workflow's egress list is empty"
        if self.denied.has_name(name):
            return "the workflow's egress list denies it"
        if self._allows_name(name) or self.allowed.networks:
            return ""
        return "the workflow's egress list doesn't have it"

    def refuses(self, address: Address, name: str, private: Sequence[Network] = ()) -> str:
        """Why no connection is made to this address, which `name` led to (empty: it was asked for itself).

        `private` are the operator's exceptions.
        """
        if name and (reason := self.refuses_name(name)):
            return reason
        if self.permits_none:
            return "the workflow's egress list is empty"
        if self.denied.everything or is_in(address, self.denied.networks):
            return "the workflow's egress list denies its address"
        if not (self._allows_name(name) or is_in(address, self.allowed.networks)):
            return "the workflow's egress list doesn't have it"
        if (reason := not_public(address)) and not is_in(address, private):
            return f"{reason} ({plain(address)}), which the operator of this platform doesn't allow"
        return ""

    def _allows_name(self, name: str) -> bool:
        if self.allowed.is_empty:
            return True
        return self.allowed.has_name(name) if name else self.allowed.everything


def parse(entries: Sequence[str] | None) -> Rules:
    """None: the workflow says nothing. Errors: ValueError that names the entry and what is wrong."""
    if entries is None:
        return Rules()
    if len(entries) > MAX_RULES:
        raise ValueError(f"{len(entries)} entries are too many: {MAX_RULES} at most")
    allowed = [entry for entry in entries if not entry.startswith("!")]
    denied = [entry[1:] for entry in entries if entry.startswith("!")]
    return Rules(_side(allowed), _side(denied), permits_none=not entries)


def plain_name(text: str) -> str:
    """A name in lower case, in ASCII, without its last dot. Errors: ValueError when it is none."""
    name = text.strip().removesuffix(".").lower()
    if len(name) > 253:  # in ASCII it is longer still; and to find out takes a time that grows with its square
        raise ValueError(f"{text[:255]!r} is no host name")
    if not name.isascii():
        try:
            name = name.encode("idna").decode()
        except UnicodeError:
            raise ValueError(f"{text[:255]!r} is no host name") from None
    if not name or len(name) > 253 or not all(_LABEL.fullmatch(label) for label in name.split(".")):
        raise ValueError(f"{text[:255]!r} is no host name")
    return name


def _side(entries: Sequence[str]) -> Side:
    names: set[str] = set()
    suffixes: list[str] = []
    networks: list[Network] = []
    for entry in entries:
        if network := _network(entry):
            networks.append(network)
        elif entry.startswith("*."):
            suffixes.append("." + plain_name(_host(entry[2:], entry)))
        elif entry != "*":
            names.add(plain_name(_host(entry, entry)))
    return Side(frozenset(names), tuple(suffixes), tuple(networks), everything="*" in entries)


def _network(entry: str) -> Network | None:
    try:
        return ipaddress.ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        if re.fullmatch(r"[\d.]+(/\d*)?|[0-9a-fA-F:.]*:[0-9a-fA-F:.]*/\d+", entry):
            raise ValueError(f"{entry[:255]!r} is no address and no network") from None
        return None


def _host(name: str, entry: str) -> str:
    if any(sign in name for sign in "/:@*!? "):
        what = 'such as "api.example.com", "*.example.com" or "10.0.0.0/8", without scheme, port and path'
        raise ValueError(f"{entry[:255]!r} is no host or network {what}")
    return name
