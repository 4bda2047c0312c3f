"""Blobs: bytes known by their digest, never changed."""

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator

from filestore.backend import CHUNK_BYTES, Backend
from filestore.model import Stored, blob_key
from kit.errors import Invalid, NotFound


class Blobs:
    """Puts, gets and looks up blobs."""

    def __init__(self, backend: Backend, max_bytes: int) -> None:
        self._backend = backend
        self._max_bytes = max_bytes

    async def put(self, chunks: AsyncIterator[bytes], *, lasting: bool = False) -> Stored:
        """Idempotent: the same bytes lie there once, and begin their time anew. Errors: Invalid (too_large)."""
        async with self._backend.receive() as incoming:
            async for chunk in chunks:
                if incoming.size + len(chunk) > self._max_bytes:
                    raise Invalid(f"a blob has at most {self._max_bytes} bytes", code="too_large")
                await incoming.write(chunk)
            stored = await incoming.finish()
            await incoming.keep(blob_key(stored.digest, lasting=lasting))
            return stored

    async def get(self, digest: str) -> AsyncGenerator[bytes, None]:
        """In chunks of at most 256 KiB. Errors: NotFound; the last chunk is kept back when these aren't its bytes."""
        _, key = await self._find(digest)
        found = hashlib.sha256()
        async with self._backend.open(key) as reader:
            for offset in range(0, reader.size, CHUNK_BYTES):
                chunk = await reader.read(offset, CHUNK_BYTES)
                found.update(chunk)
                if offset + len(chunk) >= reader.size and found.hexdigest() != digest:
                    raise RuntimeError(f"{key} holds other bytes than its name says")
                yield chunk

    async def size(self, digest: str) -> int:
        """In bytes. Errors: NotFound."""
        size, _ = await self._find(digest)
        return size

    async def _find(self, digest: str) -> tuple[int, str]:
        for lasting in (False, True):
            key = blob_key(digest, lasting=lasting)
            size = await self._backend.size(key)
            if size is not None:
                return size, key
        raise NotFound("no such blob")
