"""Ids: a prefix, `_`, and a ULID (https://github.com/ulid/spec): 48 bits of milliseconds, 80 random ones, so that ids
sort by the time they were made.
"""

import re
import secrets
import time
from datetime import UTC, datetime

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_LATEST = 253_402_300_799_000  # the last second that a datetime can hold, in ms
_ID = re.compile(r"[a-z]+_[0-9a-hjkmnp-tv-z]{26}")


def new_id(prefix: str) -> str:
    """A new id, such as `run_01hf…` (26 characters after the underscore)."""
    number = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    return prefix + "_" + "".join(_ALPHABET[number >> shift & 31] for shift in range(125, -5, -5))


def is_id(text: str, prefix: str) -> bool:
    """Whether `text` has the shape of an id with this prefix; guards look-ups against garbage."""
    return text.startswith(prefix + "_") and _ID.fullmatch(text) is not None


def made_at(text: str) -> datetime:
    """When an id was made, as it says itself: whoever sends one may have made it up. UTC."""
    digits = text.partition("_")[2][:10]
    number = 0
    for digit in digits:
        number = number << 5 | _ALPHABET.index(digit)
    return datetime.fromtimestamp(min(number, _LATEST) / 1000, UTC)
