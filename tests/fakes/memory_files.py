"""The stores of the filestore, in memory."""

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime

from filestore.model import Content, File, Stored
from kit.errors import Conflict, NotFound


class MemoryBackend:
    """Bytes in a dictionary."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.kept_at: dict[str, datetime] = {}

    @asynccontextmanager
    async def receive(self, key: str = "") -> AsyncIterator["MemoryIncoming"]:
        yield MemoryIncoming(self)

    @asynccontextmanager
    async def open(self, key: str) -> AsyncIterator["MemoryReader"]:
        if key not in self.kept:
            raise NotFound("no such bytes")
        yield MemoryReader(self.kept[key])

    async def size(self, key: str) -> int | None:
        return len(self.kept[key]) if key in self.kept else None

    async def delete(self, key: str) -> None:
        self.kept.pop(key, None)
        self.kept_at.pop(key, None)

    async def delete_all(self, prefix: str) -> None:
        for key in [key for key in self.kept if key.startswith(f"{prefix}/")]:
            await self.delete(key)

    async def delete_old(self, prefix: str, before: datetime) -> int:
        old = [key for key, at in self.kept_at.items() if key.startswith(f"{prefix}/") and at < before]
        for key in old:
            await self.delete(key)
        return len(old)

    def link(self, key: str, media_type: str, disposition: str) -> str | None:
        return None


class MemoryIncoming:
    """Bytes on their way in."""

    def __init__(self, backend: MemoryBackend) -> None:
        self._backend = backend
        self._data = b""

    @property
    def size(self) -> int:
        return len(self._data)

    async def write(self, data: bytes) -> None:
        self._data += data

    async def finish(self) -> Stored:
        return Stored(hashlib.sha256(self._data).hexdigest(), len(self._data))

    async def keep(self, key: str) -> None:
        self._backend.kept[key] = self._data
        self._backend.kept_at[key] = datetime.now(UTC)


class MemoryReader:
    """An open entry."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)

    async def read(self, offset: int, count: int) -> bytes:
        return self._data[offset : offset + count]


class MemoryFileStore:
    """What is known of files."""

    def __init__(self) -> None:
        self.files: dict[str, File] = {}

    async def add(self, file: File) -> None:
        self.files[file.id] = file

    async def get(self, file_id: str) -> File | None:
        return self.files.get(file_id)

    async def fill(self, file_id: str, content: Content, expires_at: datetime) -> None:
        file = self.files.get(file_id)
        if file is None or file.content is not None:
            raise Conflict("uploaded already")
        self.files[file_id] = replace(file, content=content, expires_at=expires_at)

    async def expired(self, now: datetime, limit: int) -> list[File]:
        old = [file for file in self.files.values() if file.expires_at <= now]
        return sorted(old, key=lambda file: file.expires_at)[:limit]

    async def remove(self, file_id: str) -> None:
        self.files.pop(file_id, None)
