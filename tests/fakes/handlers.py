"""Handlers that nobody calls: what the edge says of its endpoints can be asked without a mesh."""

import inspect
from typing import Any

from edge.endpoints import documented, endpoints
from edge.model import Access
from edge.openapi.document import document

PUBLIC_URL = "https://api.example.com"


class Anything:
    """Has every attribute, and may be called."""

    def __getattr__(self, name: str) -> "Anything":
        return Anything()

    def __call__(self, *_: Any) -> "Anything":
        return Anything()


def accesses() -> dict[str, Access]:
    """What each rpc asks of its caller."""
    handlers: dict[str, Any] = {name: Anything() for name in inspect.signature(endpoints).parameters}
    return {name: each.access for name, each in documented(endpoints(**handlers), PUBLIC_URL).items()}


def openapi() -> dict[str, Any]:
    """The document, as the edge serves it."""
    return document(accesses(), PUBLIC_URL)
