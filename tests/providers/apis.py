"""Others' APIs that the library's services ask, protocol-true, on one server of this machine: `with apis() as world:`.

Each knows its own credentials only. What they answer is decided by what they are asked; see each file.
"""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Literal
from urllib.parse import parse_qsl

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Mount

from tests.providers.provider import OURS, Recorded, Vendor


@dataclass
class World(Vendor):
    """`tokens` that were given and hold; `changes` to the operator's settings; `kept`: what they remember."""

    tokens: set[str] = field(default_factory=set)
    changes: dict[str, str] = field(default_factory=dict)
    kept: dict[str, Any] = field(default_factory=dict)

    def url(self, name: str) -> str:
        """Where an API is."""
        return f"http://{self.host}:{self.port}/{name}"

    def settings(self) -> dict[str, str]:
        """Of the operator."""
        found: dict[str, str] = {}
        for module in modules().values():
            found |= module.settings(self)
        return found | self.changes

    def asked(self, name: str) -> list[Recorded]:
        """What this API was asked, tokens left out."""
        return [each for each in self.requests if each.path.startswith(f"/{name}/") and "token" not in each.path]

    def new_token(self) -> str:
        """One more that holds."""
        token = f"token-{len(self.kept.setdefault('tokens', []))}-of-a-provider"
        self.kept["tokens"].append(token)
        self.tokens.add(token)
        return token

    def bears_token(self, request: Request) -> bool:
        """Whether it does."""
        return request.headers.get("authorization", "").removeprefix("Bearer ") in self.tokens


def modules() -> dict[str, ModuleType]:
    """By the name of the service."""
    from tests.providers import github, hunter, pipedream, reddit, searchapi, slack, whatsapp  # noqa: PLC0415  # they need what is above

    found = (github, reddit, searchapi, hunter, pipedream, slack, whatsapp)
    return {module.__name__.rpartition(".")[2]: module for module in found}


async def record(world: World, request: Request) -> Any:
    """Writes the request down; its body, JSON or a form. Fails what mustn't arrive here."""
    raw = await request.body()
    is_form = request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded")
    body = dict(parse_qsl(raw.decode())) if is_form else json.loads(raw) if raw else None
    headers = dict(request.headers)
    world.requests.append(Recorded(request.method, request.url.path, request.url.query, headers, body))
    ours = [name for name in headers if OURS.match(name)] + [name for name, each in headers.items() if "cwk-" in each]
    assert not ours, f"the provider is told {ours}"
    return body


@contextmanager
def served(app: Any, host: str = "127.0.0.1", lifespan: Literal["on", "off"] = "off") -> Iterator[int]:
    """The port where it is served until this is left."""
    with socket.socket() as sock:
        sock.bind((host, 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan=lifespan, ws="none"))
        thread = threading.Thread(target=server.run, args=([sock],))
        thread.start()
        try:
            yield sock.getsockname()[1]
        finally:
            server.should_exit = True
            server.force_exit = True
            thread.join(10)


@contextmanager
def apis(host: str = "127.0.0.1") -> Iterator[World]:
    """Serves until it is left."""
    world = World(host)
    app = Starlette(routes=[Mount(f"/{name}", routes=module.routes(world)) for name, module in modules().items()])
    with served(app, host) as world.port:
        yield world
