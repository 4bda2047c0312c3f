"""A service of the library in this process, metered by a tab, asking a vendor on this machine."""

import asyncio
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import httpx
import pytest

from executor.header import parse
from executor.model_calls import ModelCalls
from executor.shim_exchange import Meter
from scheduler.library import text_of
from tests.fakes.tab import FakeTab

LIBRARY = Path(__file__).parent.parent.parent / "library"


class Told(Protocol):
    """What the service asks."""

    def settings(self) -> dict[str, str]:
        """Its environment."""


@dataclass
class Line:
    """What lies between a service's meter and the executor."""

    calls: ModelCalls
    meter: Any = None
    said: list[dict[str, Any]] = field(default_factory=list)

    async def frame(self, kind: bytes, payload: bytes) -> None:
        """As `shim_exchange.Exchange.frame`."""
        assert kind == b"M"
        self.said.append(json.loads(payload))
        if answer := await self.calls.hear(payload):
            self.meter.hear(answer)


@dataclass
class Service:
    """`ask` it as a caller's request reaches it."""

    module: ModuleType
    name: str
    tab: FakeTab
    line: Line

    async def ask(self, method: str, path: str, body: Any = None, **options: Any) -> httpx.Response:
        """The whole answer. Errors: whatever the app raises."""
        transport = httpx.ASGITransport(app=self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            return await client.request(method, path, **({} if body is None else {"json": body}), **options)

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        """With a meter, as in a sandbox."""
        await self.module.app({**scope, "extensions": {"runmesh.meter": self.line.meter}}, receive, send)

    @property
    def lines(self) -> dict[str, int]:
        """What was booked, without the vendor's name in front."""
        prefix = f"tokens:{self.name}/"
        assert all(meter.startswith(prefix) for meter in self.tab.lines)
        return {meter.removeprefix(prefix): quantity for meter, quantity in self.tab.lines.items()}


def service(name: str, vendor: Told, monkeypatch: pytest.MonkeyPatch, tab: FakeTab | None = None) -> Service:
    """The service, as it is deployed, loaded by itself."""
    text = text_of(LIBRARY / f"{name}.py", LIBRARY)
    defaults = {each.name: each.default for each in parse(text.encode()).env_vars if each.default is not None}
    for setting, value in (defaults | vendor.settings()).items():
        monkeypatch.setenv(setting, value)
    module = ModuleType(f"library_{name}")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # dataclasses look it up
    exec(compile(text, f"{name}.py", "exec"), module.__dict__)
    tab = tab or FakeTab()
    line = Line(ModelCalls(tab, name))
    line.meter = Meter(line)  # type: ignore[arg-type]  # of an exchange it needs `frame` only
    return Service(module, name, tab, line)


async def leave(service: Service, path: str, body: Any, parts: int, until: bytes = b"") -> bytes:
    """A caller that goes once it has seen so many parts of the answer, or `until` in one: what it saw."""
    seen, gone, told = bytearray(), asyncio.Event(), iter([json.dumps(body).encode()])

    async def receive() -> dict[str, Any]:
        for raw in told:
            return {"type": "http.request", "body": raw, "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        nonlocal parts
        seen.extend(message.get("body", b""))
        parts = 0 if until and until in message.get("body", b"") else parts - bool(message.get("body"))
        if parts <= 0:
            gone.set()
        await asyncio.sleep(0)

    path, _, query = path.partition("?")
    scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": query.encode()}
    asgi = {"version": "3.0", "spec_version": "2.3"}
    await service.app({**scope, "headers": [], "asgi": asgi, "server": ("service", 80)}, receive, send)
    return bytes(seen)
