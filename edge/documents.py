"""/openapi.json, /postman.json and /docs: this API described, for machines and people. Needs no key."""

import json
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from edge.http import Answer, Request
from edge.model import Access
from edge.openapi.document import document
from edge.openapi.explorer import HARMLESS, files, page, page_headers
from edge.openapi.postman import collection
from kit.errors import NotFound

JSON = ("content-type", "application/json")
# Whoever upgrades has the new one within minutes.
FOR_MINUTES = ("cache-control", "public, max-age=300")


class DocumentHandlers:
    """Handlers of mesh.edge.v1.Documents. `accesses`: what each rpc asks of its caller; asked for with the first call.
    All is made once, with the first call.
    """

    def __init__(self, accesses: Callable[[], Mapping[str, Access]], public_url: str) -> None:
        self._accesses = accesses
        self._public_url = public_url

    async def openapi(self, _request: Request) -> Answer:
        return Answer(200, [JSON, FOR_MINUTES, *HARMLESS], self._openapi)

    async def postman(self, _request: Request) -> Answer:
        return Answer(200, [JSON, FOR_MINUTES, *HARMLESS], self._postman)

    async def explorer(self, _request: Request) -> Answer:
        return Answer(200, [("content-type", "text/html; charset=utf-8"), *page_headers(self._public_url)], page())

    async def explorer_file(self, request: Request) -> Answer:
        """Errors: NotFound."""
        found = self._files.get(request.params["file_name"])
        if found is None:
            raise NotFound(f"/docs has no such file; there are {', '.join(self._files)}")
        kind, content = found
        return Answer(200, [("content-type", kind), FOR_MINUTES, *HARMLESS], content)

    @cached_property
    def _document(self) -> dict[str, Any]:
        return document(self._accesses(), self._public_url)

    @cached_property
    def _openapi(self) -> bytes:
        return _written(self._document)

    @cached_property
    def _postman(self) -> bytes:
        return _written(collection(self._document))

    @cached_property
    def _files(self) -> Mapping[str, tuple[str, bytes]]:
        return files()


def _written(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
