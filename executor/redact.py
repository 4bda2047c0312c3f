"""Secrets, out of texts that others read: in the spellings that programs give them without meaning to. Pure.

No more than that can be had: whoever holds a value can print it backwards. docs/secrets.md says where it ends.
"""

import base64
import json
import math
import re
from collections.abc import Iterable
from functools import lru_cache
from itertools import chain, islice, zip_longest
from urllib.parse import quote, quote_plus

LEAST_HIDDEN = 6  # characters: what is shorter would be found in anything
HIDDEN = "***"
MOST_HIDDEN = 2000  # spellings: each is looked for in each line
# A key of this platform: prefix, 30 characters, checksum. Its kind may be told.
_KEY = re.compile(r"\b(cwk-|cwotk-)[0-9A-Za-z]{36}")


def spellings(value: str) -> tuple[str, ...]:
    """How `value` may stand in a text: as it is, in JSON, in Python's quotes, in an address, in base64 (whatever stands
    before and after it in what is encoded; both alphabets). The likeliest first; each once.
    """
    data = value.encode("utf-8", "surrogateescape")
    plain = value.encode("utf-8", "replace").decode()
    quoted = (json.dumps(value), json.dumps(plain, ensure_ascii=False), repr(value), repr(value + "'\"")[:-4] + "'")
    found = [value, plain, *(each[1:-1] for each in quoted), repr(data)[2:-1]]
    for address in (quote(data, safe=""), quote(data), quote_plus(data), quote(data, safe="!'()*")):
        found += [address, re.sub("%..", lambda octet: octet[0].lower(), address)]
    for before in range(3):
        inside = _base64_inside(data, before)
        found += [inside, inside.replace("+", "-").replace("/", "_")]
    return tuple(each for each in dict.fromkeys(found) if len(each) >= LEAST_HIDDEN)


def _base64_inside(data: bytes, before: int) -> str:
    """The characters that depend on nothing but `data` when `before` bytes stand in front of it, modulo 3."""
    encoded = base64.b64encode(bytes(before) + data).decode()
    return encoded[math.ceil(8 * before / 6) : 8 * (before + len(data)) // 6]


@lru_cache(maxsize=256)
def _all_spellings(values: tuple[str, ...]) -> tuple[str, ...]:
    """Those of all of them, the longest first; of a value with several lines, a key in PEM for instance, those of each
    line as well. Where there are too many, the likeliest of each, the values before their lines.
    """
    lines = (line for value in values if "\n" in value.strip() for line in value.splitlines())
    whole = (part.strip() for part in chain(values, lines))
    # No more than count in the first turn: the other spellings of a million lines would take minutes.
    each_ones = [spellings(part) for part in islice((one for one in whole if len(one) >= LEAST_HIDDEN), MOST_HIDDEN)]
    in_turn = dict.fromkeys(one for turn in zip_longest(*each_ones) for one in turn if one is not None)
    return tuple(sorted(list(in_turn)[:MOST_HIDDEN], key=len, reverse=True))


class Redaction:
    """Puts `***` in their place. Values under six characters stay, but keys of this platform go, whoever's they are."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        self._spellings = _all_spellings(tuple(sorted(set(values))))

    def __call__(self, text: str) -> str:
        for spelling in self._spellings:
            if spelling in text:
                text = text.replace(spelling, HIDDEN)
        return _KEY.sub(rf"\1{HIDDEN}", text) if "cw" in text else text
