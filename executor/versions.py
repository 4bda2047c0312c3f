"""What a version is and its source: immutable but for its limits, so what was fetched once stays true."""

import os
import tempfile
from collections import OrderedDict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

from executor.model import Version, sha256_hex
from kit.errors import Unavailable
from kit.settings import private_dir

REMEMBERED = 1024
MAX_SOURCE_BYTES = 1024 * 1024
REMEMBERED_BYTES = 16 * MAX_SOURCE_BYTES


class VersionBook(Protocol):
    """The scheduler's book of versions."""

    async def version(self, version_id: str) -> Version:
        """Errors: NotFound, Unavailable."""


class SourceStore(Protocol):
    """The filestore, by digest."""

    def get(self, digest: str) -> AsyncIterator[bytes]:
        """Errors: NotFound, Unavailable."""


class Versions:
    """Versions by id in memory, sources by digest there too, and in `directory`, which may be deleted at any time."""

    def __init__(self, book: VersionBook, store: SourceStore, directory: Path) -> None:
        self._book = book
        self._store = store
        self._directory = private_dir(directory)
        self._known: OrderedDict[str, Version] = OrderedDict()
        self._sources: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0

    async def version(self, version_id: str) -> Version:
        """Errors: NotFound, Unavailable."""
        if version_id not in self._known:
            self._known[version_id] = await self._book.version(version_id)
            while len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        self._known.move_to_end(version_id)
        return self._known[version_id]

    def forget(self) -> None:
        """A workflow was changed: its limits, which come with a version, may have been."""
        self._known.clear()

    async def source(self, version: Version) -> bytes:
        """The script's bytes, checked against their digest. Errors: NotFound, Unavailable."""
        digest = version.source_digest
        source = self._sources.get(digest)
        if source is None:
            source = await self._read(digest)
            if digest not in self._sources:  # nobody else was faster
                self._sources[digest] = source
                self._bytes += len(source)
        self._sources.move_to_end(digest)
        while self._bytes > REMEMBERED_BYTES and len(self._sources) > 1:
            self._bytes -= len(self._sources.popitem(last=False)[1])
        return source

    async def _read(self, digest: str) -> bytes:
        path = self._directory / digest
        if path.exists():
            source = path.read_bytes()
            if sha256_hex(source) == digest:
                return source
        source = await self._fetched(digest)
        _write_whole(path, source)
        return source

    async def _fetched(self, digest: str) -> bytes:
        source = b""
        async for chunk in self._store.get(digest):
            source += chunk
            if len(source) > MAX_SOURCE_BYTES:
                break
        if sha256_hex(source) != digest:
            raise Unavailable("the filestore gave another source than the one that was deployed")
        return source


def _write_whole(path: Path, data: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
    Path(temporary).rename(path)
