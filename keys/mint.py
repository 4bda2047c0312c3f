"""How an API key is made and recognised: prefix, 30 random base62 characters, 6 of checksum.

The checksum (CRC-32 of what stands before it) refuses a typo without a look-up; it protects nothing. `cwk-run-…`, the
placeholder inside of sandboxes, never has this form: base62 knows no dash.
"""

import secrets
import string
import zlib

from keys.model import KeyKind

PREFIXES = {KeyKind.STANDARD: "cwk-", KeyKind.ONE_TIME: "cwotk-"}
RANDOM_CHARACTERS = 30
CHECKSUM_CHARACTERS = 6
SHOWN_CHARACTERS = 4
MAX_LENGTH = 200
_BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase
_KNOWN = frozenset(_BASE62)


def new_key(kind: KeyKind) -> str:
    """A key that nobody has seen before (178 random bits)."""
    body = PREFIXES[kind] + "".join(secrets.choice(_BASE62) for _ in range(RANDOM_CHARACTERS))
    return body + checksum(body)


def shown_prefix(key: str) -> str:
    """The first characters, which lists show: the kind's prefix and four more."""
    return key[: key.index("-") + 1 + SHOWN_CHARACTERS]


def well_formed(text: str) -> bool:
    """Whether `text` can be a key at all; anything else isn't looked up."""
    if len(text) > MAX_LENGTH:
        return False
    prefix = text[: text.find("-") + 1]
    random = text[len(prefix) :]
    if prefix not in PREFIXES.values() or len(random) != RANDOM_CHARACTERS + CHECKSUM_CHARACTERS:
        return False
    return _KNOWN.issuperset(random) and checksum(text[:-CHECKSUM_CHARACTERS]) == text[-CHECKSUM_CHARACTERS:]


def checksum(body: str) -> str:
    """Six base62 characters."""
    number, digits = zlib.crc32(body.encode()), ""
    for _ in range(CHECKSUM_CHARACTERS):
        number, digit = divmod(number, 62)
        digits = _BASE62[digit] + digits
    return digits
