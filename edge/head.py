"""The heads that travel between Envoy's Lua filter and the edge (deploy/envoy/edge.lua): the request's as gRPC
metadata, the answer's as the content type of its first HttpBody.

A list of words, "|" between them, in which all but printable ASCII, and "%" and "|", is percent-encoded: metadata
takes neither every header name nor every byte.
"""

import re
from collections.abc import Iterable, Mapping
from urllib.parse import quote_from_bytes, unquote_to_bytes

_ANSWER = "x-runmesh-answer"
"""The first word of an answer's head: by it Lua knows ours from Envoy's own."""

MAX_ANSWER_BYTES = 160 * 1024
"""Of an encoded head."""

_SAFE = "!\"#$&'()*+,-./:;<=>?@[\\]^_`{}~"
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}")
_FORBIDDEN = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_FRAMING = {
    "connection",
    "content-length",
    "keep-alive",
    "proxy-authenticate",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
}


def request_headers(metadata: Mapping[str, str]) -> list[tuple[str, str]]:
    """The caller's headers and its `host`; values are latin-1 text."""
    words = metadata.get("x-runmesh-head", "").split("|")
    pairs = [(name, value) for name, _, value in (decoded(word).partition(":") for word in words) if name]
    return [("host", decoded(metadata.get("x-runmesh-host", ""))), *pairs]


def decoded(word: str) -> str:
    """One word of a list, as latin-1 text."""
    return unquote_to_bytes(word).decode("latin-1") if "%" in word else word


def answer_head(status: int, headers: Iterable[tuple[str, str]], length: int | None) -> str | None:
    """The head for Lua; None when it is larger than MAX_ANSWER_BYTES.

    Dropped is what frames the body (`length`, where known, replaces it), and what no HTTP header can hold: names that
    aren't tokens, control characters in values. Text beyond latin-1 goes out as UTF-8.
    """
    words = [_ANSWER, str(status)]
    for name, value in headers:
        lower = name.lower()
        if lower in _FRAMING or not _NAME.fullmatch(name):
            continue
        words.append(_encoded(f"{lower}:{_FORBIDDEN.sub(' ', value).strip()}"))
    if length is not None and status not in {204, 304}:
        words.append(f"content-length:{length}")
    head = "|".join(words)
    return head if len(head) <= MAX_ANSWER_BYTES else None


def _encoded(text: str) -> str:
    try:
        raw = text.encode("latin-1")
    except UnicodeEncodeError:
        raw = text.encode("utf-8", errors="replace")
    return quote_from_bytes(raw, safe=_SAFE)
