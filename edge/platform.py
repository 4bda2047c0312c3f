"""What needs no key: health, metrics, and the answer to paths and methods that don't exist."""

import asyncio
import re
from collections.abc import Mapping
from typing import Protocol

from edge.http import Answer, Request, json_answer
from edge.problems import failure, nowhere

_SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(\{)?(.*)")


class Peer(Protocol):
    """Another service of the mesh, or this one."""

    async def ready(self) -> bool:
        """Whether it says that it serves; False when it can't be asked."""
        ...

    async def metrics(self) -> str:
        """Its metrics in Prometheus' text format; empty when it can't be asked."""
        ...


class PlatformHandlers:
    """Handlers of mesh.edge.v1.Platform. `peers` by name."""

    def __init__(self, peers: Mapping[str, Peer]) -> None:
        self._peers = peers

    async def health(self, _request: Request) -> Answer:
        return json_answer({"status": "ok"})

    async def ready(self, _request: Request) -> Answer:
        found = await asyncio.gather(*(peer.ready() for peer in self._peers.values()))
        missing = [name for name, ready in zip(self._peers, found, strict=True) if not ready]
        if missing:
            return failure("unavailable", f"not ready: {', '.join(missing)}")
        return json_answer({"status": "ok"})

    async def metrics(self, _request: Request) -> Answer:
        found = await asyncio.gather(*(peer.metrics() for peer in self._peers.values()))
        text = merged(dict(zip(self._peers, found, strict=True)))
        return Answer(200, [("content-type", "text/plain; version=0.0.4; charset=utf-8")], text.encode())

    async def refuse(self, request: Request) -> Answer:
        """Every path and method that isn't there."""
        return nowhere(request)


def merged(texts: Mapping[str, str]) -> str:
    """One exposition of several: each sample gets a `service` label, each family's lines stand together."""
    families: dict[str, list[str]] = {}
    for service, text in texts.items():
        family = ""
        for line in text.splitlines():
            if line.startswith("#"):
                family = line.split(" ", 3)[2] if line.count(" ") >= 2 else ""
                lines = families.setdefault(family, [])
                if line not in lines:
                    lines.append(line)
            elif found := _SAMPLE.fullmatch(line):
                name, braces, rest = found.groups()
                label = f'service="{service}"'
                sample = f"{name}{{{label},{rest}" if braces else f"{name}{{{label}}}{rest}"
                families.setdefault(family, []).append(sample)
    return "".join(line + "\n" for lines in families.values() for line in lines)
