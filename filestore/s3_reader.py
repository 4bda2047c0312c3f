"""Reading from S3: one request for all that follows, and another only when the reader jumps."""

from typing import Any

import obstore
from obstore.store import S3Store

from filestore.backend import CHUNK_BYTES
from filestore.s3_errors import SOON, told
from kit.errors import NotFound, Unavailable


class S3Reader:
    """An answer that is being read. What isn't read stays with S3."""

    def __init__(self, store: S3Store, key: str, found: Any) -> None:
        self.size: int = found.meta["size"]
        self._store = store
        self._key = key
        self._tag = found.meta["e_tag"]
        self._bytes = aiter(found.stream(min_chunk_size=CHUNK_BYTES))
        self._buffer = bytearray()
        self._position = 0

    @classmethod
    async def begun(cls, store: S3Store, key: str, found: Any) -> "S3Reader":
        """With its first bytes here: what is small stays readable, whatever becomes of it there."""
        reader = cls(store, key, found)
        await reader._fill(min(reader.size, CHUNK_BYTES))
        return reader

    async def read(self, offset: int, count: int) -> bytes:
        count = max(0, min(count, self.size - offset))
        if count == 0:
            return b""
        if offset != self._position:
            await self._jump(offset)
        await self._fill(count)
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        self._position += count
        return data

    async def _fill(self, count: int) -> None:
        while len(self._buffer) < count:
            with told("read"):
                chunk = await anext(self._bytes, None)
            if chunk is None:
                raise Unavailable("the bytes ended too early", retry_after=SOON)
            self._buffer += chunk

    async def _jump(self, offset: int) -> None:
        options: Any = {"range": {"offset": offset}, "if_match": self._tag}
        try:
            with told("get range"):
                found = await obstore.get_async(self._store, self._key, options=options)
        except NotFound:
            raise Unavailable("the bytes were deleted meanwhile", retry_after=SOON) from None
        self._bytes = aiter(found.stream(min_chunk_size=CHUNK_BYTES))
        self._buffer.clear()
        self._position = offset
