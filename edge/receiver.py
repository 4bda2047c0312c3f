"""`X-Callback-Url`: where a record is to go. One parser for whoever checks the address and whoever connects. Pure."""

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from edge.http import Request
from kit.errors import Invalid

HEADER = "x-callback-url"
MAX_URL = 2048
_PORTS = {"http": 80, "https": 443}
# What RFC 3986 lets stand in a URL; "#" is refused with a sentence of its own.
_URL = re.compile(r"[!$%&'()*+,\-./0-9:;=?@A-Z\[\]_a-z~]+")
_NAME = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*\.?")


@dataclass(frozen=True)
class Receiver:
    """`host`: a name without its last dot, or an address without brackets; lower-case. `authority`: as written."""

    secure: bool
    host: str
    port: int
    authority: str
    # Path and query.
    target: str


def callback_url(request: Request) -> str:
    """The header's value; empty when there is none. Errors: Invalid."""
    given = [value.strip() for name, value in request.headers if name == HEADER]
    if len(given) > 1:
        raise Invalid("X-Callback-Url is there more than once")
    if not given or not given[0]:
        return ""
    receiver(given[0])
    return given[0]


def receiver(url: str) -> Receiver:
    """Errors: Invalid, without the address itself in its text: it may hold a secret."""
    if len(url) > MAX_URL:
        raise _bad(f"has more than {MAX_URL} characters")
    if "#" in url:
        raise _bad("has a fragment (#…), which is never sent")
    if not _URL.fullmatch(url):
        raise _bad("holds a character that a URL can't; percent-encode it")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise _bad("has no host and port that make sense") from None
    if parts.scheme not in _PORTS:
        raise _bad("must begin with http:// or https://")
    if "@" in parts.netloc:
        raise _bad("holds credentials; put a token into its path or query, or check the signature")
    if port == 0 or parts.netloc.endswith(":"):
        raise _bad("has no port that makes sense")
    host = _host(parts.hostname or "", bracketed=parts.netloc.startswith("["))
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Receiver(parts.scheme == "https", host, port or _PORTS[parts.scheme], parts.netloc, target)


def _host(text: str, *, bracketed: bool) -> str:
    if bracketed:
        try:
            address = ipaddress.IPv6Address(text)
        except ValueError:
            raise _bad("has no host that makes sense") from None
        if address.scope_id:  # an interface of this host's
            raise _bad("has no host that makes sense")
        return str(address)
    if not _NAME.fullmatch(text) or len(text) > 253:
        raise _bad("has no host that makes sense")
    return text.removesuffix(".")


def _bad(why: str) -> Invalid:
    return Invalid(f"X-Callback-Url {why}")
