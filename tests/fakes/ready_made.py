"""library/templates as modules, driven in this process."""

import functools
import importlib.util
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx

from executor.header import Header, parse

ROOT = Path(__file__).parent.parent.parent
FILES = {file.stem: file for file in sorted((ROOT / "library" / "templates").glob("*.py"))}
Post = Callable[..., Awaitable[httpx.Response]]


def header(template: str) -> Header:
    return parse(FILES[template].read_bytes())


@functools.cache
def loaded(template: str) -> ModuleType:
    """The workflow, imported as a sandbox imports it: its variables are in the environment."""
    spec = importlib.util.spec_from_file_location(f"template_{template}", FILES[template])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def sent(template: str, body: Any = None, **request: Any) -> httpx.Response:
    """Its answer; an exception that it doesn't handle is raised."""
    transport = httpx.ASGITransport(loaded(template).app)
    given = request if body is None else {"json": body, **request}
    async with httpx.AsyncClient(transport=transport, base_url="http://workflow") as client:
        return await client.post("/", **given)


def html(body: str) -> httpx.Response:
    return httpx.Response(200, html=body)
