"""Addresses that stand for names, in one run's network only. Pure."""

import ipaddress

MAX_NAMES = 10_000
NETWORK = ipaddress.ip_network("198.18.0.0/15")  # for benchmarks: nothing on the internet has one
_FIRST = int(NETWORK.network_address) + 1


class Names:
    """Name ↔ address; a name keeps its address."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._places: dict[str, int] = {}

    def copy(self) -> "Names":
        """The same meanings, for a process that is forked from one where these were learnt."""
        names = Names()
        names._names, names._places = list(self._names), dict(self._places)
        return names

    def address_of(self, name: str) -> ipaddress.IPv4Address | None:
        """None when the run has asked for too many names."""
        if name not in self._places:
            if len(self._names) >= MAX_NAMES:
                return None
            self._places[name] = len(self._names)
            self._names.append(name)
        return ipaddress.IPv4Address(_FIRST + self._places[name])

    def name_of(self, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
        """Empty when no name has this address."""
        place = int(address) - _FIRST
        return self._names[place] if address.version == 4 and 0 <= place < len(self._names) else ""
