"""The package index: which source distributions a package has, and their bytes."""

import asyncio
import hashlib
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from packaging.utils import canonicalize_name

from executor.index_page import File, Sdist, files, sdists_only
from executor.interpreters import Interpreter
from executor.reach import ELSEWHERE, Reach, index_urls
from kit.errors import Invalid, Unavailable

MAX_SDIST = 200 << 20
MAX_PAGE = 64 << 20
_ACCEPT = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.01"
_TIMEOUT = httpx.Timeout(60.0, connect=10.0)


class Index:
    """The operator's indexes, or PyPI, in the order in which uv asks them."""

    def __init__(self, environ: Mapping[str, str], reach: Reach | None = None) -> None:
        self._urls = index_urls(environ)
        self._reach = reach or Reach.of(environ)

    async def sdists(self, name: str, interpreter: Interpreter) -> list[Sdist]:
        """The versions that have no wheel for the interpreter, newest first. Errors: Unavailable."""
        canonical = canonicalize_name(name)
        async with self._client() as client:
            for url in self._urls:
                page = await self._page(client, f"{url.rstrip('/')}/{canonical}/")
                if page is not None:
                    return sdists_only(page, canonical, interpreter)
        return []

    async def download(self, sdist: Sdist, target: Path) -> None:
        """Writes the archive. Errors: Unavailable; Invalid when it is too large or not what the index promised."""
        digest = hashlib.sha256()
        size = 0
        try:
            async with self._client() as client, client.stream("GET", sdist.url) as answer:
                answer.raise_for_status()
                with target.open("wb") as file:
                    async for chunk in answer.aiter_raw():
                        size += len(chunk)
                        if size > MAX_SDIST:
                            raise _invalid(f"{sdist.file_name} is larger than {MAX_SDIST >> 20} MiB")
                        digest.update(chunk)
                        await asyncio.to_thread(file.write, chunk)
        except httpx.HTTPError as error:
            raise Unavailable(f"the package index doesn't give {sdist.file_name}: {type(error).__name__}") from error
        if digest.hexdigest() != sdist.sha256:
            raise _invalid(f"{sdist.file_name} is not the file that the package index announces (SHA-256 differs)")

    async def _page(self, client: httpx.AsyncClient, url: str) -> list[File] | None:
        body = bytearray()
        host = urlsplit(url).hostname
        try:
            async with client.stream("GET", url, headers={"Accept": _ACCEPT}) as answer:
                if answer.status_code == httpx.codes.NOT_FOUND:
                    return None
                answer.raise_for_status()
                async for chunk in answer.aiter_bytes():
                    body += chunk
                    if len(body) > MAX_PAGE:
                        raise Unavailable(f"the package index {host} answers more than {MAX_PAGE >> 20} MiB")
                return await asyncio.to_thread(files, bytes(body), str(answer.url))
        except (httpx.HTTPError, ValueError, RecursionError) as error:
            raise Unavailable(f"the package index {host} doesn't answer as one: {type(error).__name__}") from error

    def _client(self) -> httpx.AsyncClient:
        # `identity`: an archive's hash is of its bytes as they are.
        headers = {"Accept-Encoding": "identity"}
        hooks = {"request": [self._check]}
        return httpx.AsyncClient(
            timeout=_TIMEOUT, follow_redirects=True, max_redirects=5, headers=headers, event_hooks=hooks
        )

    async def _check(self, request: httpx.Request) -> None:
        """A page may name any address, and an answer redirect to any. Errors: Unavailable."""
        url = request.url
        if not self._reach.has(url.scheme, url.host, url.port):
            raise Unavailable(f"the package index sends for files to {url.host}, {ELSEWHERE}")


def _invalid(message: str) -> Invalid:
    return Invalid(message, code="invalid_workflow")
