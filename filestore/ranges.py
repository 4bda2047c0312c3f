"""The arithmetic of HTTP range requests (RFC 9110, 14). Positions are [start, end)."""

import re
from dataclasses import dataclass

MAX_RANGES = 100
_ONE = re.compile(r"(\d{0,18})-(\d{0,18})")


@dataclass(frozen=True)
class Span:
    """The bytes from `start` up to, not including, `end`."""

    start: int
    end: int

    def content_range(self, size: int) -> str:
        """As the header says it."""
        return f"bytes {self.start}-{self.end - 1}/{size}"


def parse(header: str, size: int) -> list[Span] | None:
    """The spans asked for, in order, joined where they overlap or touch; [] when none of them lies within `size`.

    None: the header isn't for us to heed (another unit, malformed, too many ranges) and all is to be sent.
    """
    unit, _, text = header.partition("=")
    parts = [part.strip() for part in text.split(",")]
    if unit.strip().lower() != "bytes" or len(parts) > MAX_RANGES:
        return None
    spans = []
    for part in filter(None, parts):
        match = _ONE.fullmatch(part)
        if match is None or part == "-":
            return None
        first, last = match.groups()
        if first and last and int(last) < int(first):
            return None
        spans.append(_span(first, last, size))
    if not spans:
        return None
    return _joined([span for span in spans if span.start < span.end])


def etag_matches(header: str, etag: str) -> bool:
    """If-None-Match: whether one of the listed tags is ours, weak or strong, or `*` is."""
    return header.strip() == "*" or etag in {tag.strip().removeprefix("W/") for tag in header.split(",")}


def _span(first: str, last: str, size: int) -> Span:
    if not first:
        return Span(max(0, size - int(last)), size)
    return Span(int(first), min(int(last) + 1, size) if last else size)


def _joined(spans: list[Span]) -> list[Span]:
    joined: list[Span] = []
    for span in sorted(spans, key=lambda span: span.start):
        if joined and span.start <= joined[-1].end:
            joined[-1] = Span(joined[-1].start, max(joined[-1].end, span.end))
        else:
            joined.append(span)
    return joined
