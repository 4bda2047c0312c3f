"""What leaves a recorded run over HTTP, and what comes back: written down, bounded, without secrets. Pure."""

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from executor.egress.fill import Headers, placeholder
from executor.redact import LEAST_HIDDEN, spellings

FORMAT = 1
MOST_EXCHANGES = 500
MOST_BODY = 1 << 20
MOST_BYTES = 8 << 20
MOST_SPELLINGS = 8000
# Of a request; the others may hold credentials, and nothing depends on them.
KEPT_HEADERS = frozenset({b"accept", b"content-type", b"content-encoding"})


class Mask:
    """Puts placeholders in the place of secrets' values, also as addresses, JSON and base64 spell them. Values shorter
    than six characters stay: they would be found in anything.
    """

    def __init__(self, secrets: Iterable[tuple[str, str]]) -> None:
        """(name, value) each."""
        self._names: dict[bytes, bytes] = {}
        for name, value in secrets:
            if len(value) >= LEAST_HIDDEN:
                self.hide(value.encode(), placeholder(name).encode())
        self._longest_first: list[bytes] | None = None

    def hide(self, value: bytes, instead: bytes) -> bool:
        """From now on, this value too. False when there are too many already."""
        if len(self._names) >= MOST_SPELLINGS:
            return False
        text = value.decode("utf-8", "surrogateescape")
        for spelling in (value, base64.b64encode(value)):
            self._names.setdefault(spelling, instead)
        for text_ in spellings(text):
            self._names.setdefault(text_.encode("utf-8", "surrogateescape"), instead)
        self._longest_first = None
        return True

    def __call__(self, data: bytes) -> bytes:
        if self._longest_first is None:
            self._longest_first = sorted(self._names, key=len, reverse=True)
        # One pattern of them all would be tried at every byte.
        there = [each for each in self._longest_first if each in data]
        if not there:
            return data
        return re.sub(b"|".join(map(re.escape, there)), lambda found: self._names[found[0]], data)


class Budget:
    """Bytes that may be held, of those that `above` has."""

    def __init__(self, most: int, above: "Budget | None" = None) -> None:
        self._most = self.left = most
        self._above = above

    def take(self, count: int) -> bool:
        """Whether there are so many; they are taken then."""
        if count > self.left or (self._above and not self._above.take(count)):
            return False
        self.left -= count
        return True

    def give(self, count: int) -> None:
        """Back."""
        self.left += count
        if self._above:
            self._above.give(count)

    def close(self) -> None:
        """Gives back what was taken."""
        self.give(self._most - self.left)


# Of all recordings of this process that aren't in the filestore yet.
POOL = Budget(64 << 20)


class Body:
    """A body as it comes by."""

    def __init__(self, budget: Budget) -> None:
        self.size = 0
        self.cut = False
        self._budget = budget
        self._kept = bytearray()
        self._hash = hashlib.sha256()

    def add(self, data: bytes) -> None:
        """The next bytes."""
        self.size += len(data)
        self._hash.update(data)
        if not self.cut and len(self._kept) + len(data) <= MOST_BODY and self._budget.take(len(data)):
            self._kept += data
            return
        self.drop()

    def drop(self) -> None:
        """Nothing of it is kept."""
        self.cut = True
        self._budget.give(len(self._kept))
        self._kept.clear()

    def whole(self, mask: Mask) -> bytes | None:
        """None when it was too long to be kept."""
        return None if self.cut else mask(bytes(self._kept))

    def digest(self, mask: Mask) -> str:
        """SHA-256 (hex) of what is kept; of a body that was too long, of itself."""
        kept = self.whole(mask)
        return self._hash.hexdigest() if kept is None else hashlib.sha256(kept).hexdigest()


@dataclass
class Exchange:
    """A request, and what came back. `at`: seconds since the recording's clock began; `failed`: why there is no answer,
    or not all of it.
    """

    scheme: str
    host: str
    port: int
    method: str
    target: bytes
    at: float
    request_headers: Headers
    request: Body
    answer: Body
    status: int = 0
    headers: Headers = field(default_factory=list)
    failed: str = "it went on when the run ended"

    def answered(self, status: int, headers: Headers) -> None:
        """The head of the answer."""
        self.status, self.headers = status, headers

    def told(self, mask: Mask) -> dict[str, Any]:
        """As a recording has it."""
        body = self.answer.whole(mask)
        return {
            "at": round(self.at, 3),
            "scheme": self.scheme,
            "host": mask(self.host.encode()).decode(),
            "port": self.port,
            "method": self.method,
            "target": mask(self.target).decode("latin-1"),
            "requestHeaders": _texts(self.request_headers, mask),
            "requestDigest": self.request.digest(mask),
            "requestBytes": self.request.size,
            "requestBody": _base64(self.request.whole(mask)),
            "status": self.status or None,
            "headers": _texts(self.headers, mask),
            "body": _base64(body),
            "bytes": self.answer.size,
            "cut": body is None,
            "failed": self.failed,
        }


class Recorder:
    """Of one attempt of a run. Close it: what it holds is taken from `pool`."""

    def __init__(self, mask: Mask, pool: Budget = POOL) -> None:
        self.mask = mask
        self.cut = False
        self._budget = Budget(MOST_BYTES, pool)
        self._exchanges: list[Exchange] = []
        self._unreachable: dict[tuple[str, int], str] = {}

    def begin(self, place: tuple[str, str, int], method: str, target: bytes, headers: Headers, at: float) -> Exchange:
        """A request to `place` (scheme, host, port) that goes out now."""
        kept = [(name.lower(), value) for name, value in headers if name.lower() in KEPT_HEADERS]
        listed = len(self._exchanges) < MOST_EXCHANGES
        budget = self._budget if listed else Budget(0)
        exchange = Exchange(*place, method, target, at, kept, Body(budget), Body(budget))
        if listed:
            self._exchanges.append(exchange)
        self.cut = self.cut or not listed
        return exchange

    def unreachable(self, host: str, port: int, reason: str) -> None:
        """A connection that wasn't made, or was refused."""
        if len(self._unreachable) < MOST_EXCHANGES:
            self._unreachable.setdefault((host, port), reason)

    def close(self) -> None:
        """It is written down, or never will be. Once."""
        self._budget.close()

    def document(self, about: Mapping[str, Any]) -> bytes:
        """The recording, JSON."""
        exchanges = [exchange.told(self.mask) for exchange in self._exchanges]
        missing = [
            {"host": self.mask(host.encode()).decode(), "port": port, "reason": self.mask(reason.encode()).decode()}
            for (host, port), reason in self._unreachable.items()
        ]
        cut = self.cut or any(exchange["cut"] for exchange in exchanges)
        return json.dumps(
            {"format": FORMAT, **about, "cut": cut, "exchanges": exchanges, "unreachable": missing}
        ).encode()


def _texts(headers: Headers, mask: Mask) -> list[list[str]]:
    return [[name.decode("latin-1"), mask(value).decode("latin-1")] for name, value in headers]


def _base64(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data).decode()
