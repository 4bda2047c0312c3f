"""What the edge reads of a recording (docs/decisions/0019): which requests left a run, in order. Pure."""

import json
from collections import defaultdict, deque
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Outbound:
    """A request that left a run. `digest`: SHA-256 (hex) of its body; `status` 0: there was no answer."""

    method: str
    url: str
    digest: str
    status: int

    @property
    def to(self) -> tuple[str, str]:
        """What two requests have to share to be the same one with another body."""
        return self.method, self.url


def outbound_of(recording: bytes) -> list[Outbound]:
    """The requests of a recording."""
    exchanges = json.loads(recording)["exchanges"] if recording else []
    return [Outbound(each["method"], _url(each), each["requestDigest"], each["status"] or 0) for each in exchanges]


def compared(before: list[Outbound], after: list[Outbound]) -> dict[str, Any]:
    """`{"same", "items": [{"method", "url", "change"}]}`; `change` is same, changed (another body), added or removed.
    The order doesn't count: whoever asks several at once has none.
    """
    left: dict[tuple[str, str], deque[Outbound]] = defaultdict(deque)
    for one in before:
        left[one.to].append(one)
    items: list[dict[str, Any]] = []
    others: list[Outbound] = []
    for one in after:
        equal = next((each for each in left[one.to] if each.digest == one.digest), None)
        if equal is None:
            others.append(one)
        else:
            left[one.to].remove(equal)
            items.append(_item(one, "same"))
    for one in others:
        change = "changed" if left[one.to] else "added"
        if left[one.to]:
            left[one.to].popleft()
        items.append(_item(one, change))
    items += [_item(one, "removed") for rest in left.values() for one in rest]
    return {"same": all(item["change"] == "same" for item in items), "items": items}


def _item(one: Outbound, change: str) -> dict[str, Any]:
    return {"method": one.method, "url": one.url, "status": one.status or None, "change": change}


def _url(exchange: dict[str, Any]) -> str:
    host = f"[{exchange['host']}]" if ":" in exchange["host"] else exchange["host"]
    usual = {"http": 80, "https": 443}.get(exchange["scheme"]) == exchange["port"]
    return f"{exchange['scheme']}://{host}{'' if usual else ':' + str(exchange['port'])}{exchange['target']}"
