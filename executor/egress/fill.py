"""Secrets that stay outside: which are filled in where, and where their placeholders stand in a request. Pure.

A secret's `hosts` are entries `[https://|http://][*.]NAME[:PORT]`: no scheme is https, no port the scheme's own.
"""

import base64
import binascii
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

Headers = list[tuple[bytes, bytes]]
_ENTRY = re.compile(r"(?:(?P<scheme>https?)://)?(?P<wild>\*\.)?(?P<name>[^/:*]+)(?::(?P<port>\d+))?")
_PLACEHOLDER = re.compile(rb"secret://([A-Za-z_][A-Za-z0-9_]*)")
_BASIC = re.compile(rb"(basic +)([A-Za-z0-9+/]+=*)", re.IGNORECASE)
_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[^:\[\]@/]+)(?::(?P<port>\d+))?")
_DEFAULT_PORTS = {"https": 443, "http": 80}


def placeholder(name: str) -> str:
    """What a sandbox finds in place of a secret that stays outside."""
    return f"secret://{name}"


@dataclass(frozen=True)
class Entry:
    """One of a secret's hosts."""

    name: str
    port: int
    tls: bool = True
    # `name` is what others end with: `.example.com`.
    wild: bool = False

    def means(self, host: str, port: int) -> bool:
        """Whether a connection to this name, as `plain_name` gives it, or literal address is one to it."""
        return port == self.port and (host.endswith(self.name) if self.wild else host == self.name)


@dataclass(frozen=True)
class FillIn:
    """A secret that stays outside."""

    name: str
    value: str = field(repr=False)
    entries: tuple[Entry, ...] = ()


@dataclass
class Filling:
    """What is filled in on the way to one host and port, over TLS or not. `used`: the names of those that were."""

    host: str
    port: int
    tls: bool
    values: dict[bytes, bytes] = field(repr=False)
    used: set[str] = field(default_factory=set)

    def fill(self, headers: Headers) -> Headers:
        """With the values in place of their placeholders, in the credentials of HTTP Basic too; others stay."""
        return [(name, self._value(name, value)) for name, value in headers]

    def _value(self, name: bytes, value: bytes) -> bytes:
        value = _PLACEHOLDER.sub(self._replace, value)
        basic = _BASIC.fullmatch(value) if name.lower() == b"authorization" else None
        if basic is None:
            return value
        try:
            credentials = base64.b64decode(basic[2], validate=True)
        except binascii.Error:
            return value
        filled = _PLACEHOLDER.sub(self._replace, credentials)
        return value if filled == credentials else basic[1] + base64.b64encode(filled)

    def _replace(self, found: re.Match[bytes]) -> bytes:
        value = self.values.get(found[1])
        if value is None:
            return found[0]
        self.used.add(found[1].decode())
        return value

    def is_meant(self, headers: Headers) -> bool:
        """Whether there is one `Host`, and it is that of the connection."""
        hosts = [value for name, value in headers if name.lower() == b"host"]
        found = _HOST.fullmatch(hosts[0].decode("latin-1").lower()) if len(hosts) == 1 else None
        if found is None:
            return False
        name = found["name"].strip("[]").removesuffix(".")
        return name == self.host and int(found["port"] or self.port) == self.port


def fill_in(name: str, value: str, hosts: Sequence[str]) -> FillIn:
    """From what the keys service says. An entry that we can't read means no host."""
    return FillIn(name, value, tuple(entry for host in hosts if (entry := _entry(host))))


def filling_at(fill_ins: Iterable[FillIn], host: str, port: int) -> Filling | None:
    """None where nothing is filled in: such a connection is left alone. Where entries with and without TLS mean the
    same host and port, those with TLS count.
    """
    meant = [(one, entry.tls) for one in fill_ins for entry in one.entries if entry.means(host, port)]
    if not meant:
        return None
    tls = any(secure for _, secure in meant)
    return Filling(host, port, tls, {one.name.encode(): one.value.encode() for one, secure in meant if secure == tls})


def _entry(text: str) -> Entry | None:
    found = _ENTRY.fullmatch(text)
    if found is None:
        return None
    scheme, wild = found["scheme"] or "https", bool(found["wild"])
    port = int(found["port"] or _DEFAULT_PORTS[scheme])
    return Entry(f".{found['name']}" if wild else found["name"], port, scheme == "https", wild)
