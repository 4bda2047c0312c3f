"""The backend in a bucket of S3, or of a server that speaks as S3 does.

What is small goes up in one request, what isn't in parts of 5 MiB (a multipart upload, seen by nobody until it is
complete) that gather on the local disk. S3 can't rename: what will be kept under a key that isn't known yet, a large
blob, goes to `incoming/` first and is copied there.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import obstore
from obstore.store import S3Store

from filestore.backend import CHUNK_BYTES
from filestore.bucket import Bucket
from filestore.model import INCOMING, LASTING, Stored
from filestore.s3_connect import connected
from filestore.s3_errors import told
from filestore.s3_leftovers import Leftovers
from filestore.s3_reader import S3Reader
from filestore.sigv4 import presigned
from filestore.spool import Spool
from filestore.whole import whole
from kit.errors import NotFound, Problem
from kit.settings import private_dir
from kit.telemetry import log

PART_BYTES = 5 * 1024 * 1024  # the least that S3 allows
MOST_FILE_BYTES = 10_000 * PART_BYTES  # more parts it doesn't take
MOST_BLOB_BYTES = 5 * 1024**3  # what it copies in one request
AT_ONCE = 8  # parts on their way, and so in memory, in the whole process
LINK_SECONDS = 300
SLOW_SECONDS = 5.0  # how long S3 may take for what carries no bytes
_DELETES = 16


class S3Backend:
    """Bytes in a bucket. `spool`: a directory on this machine for parts that aren't full yet."""

    def __init__(self, bucket: Bucket, spool: Path) -> None:
        self._bucket = bucket
        self._store = connected(bucket)
        self._spool = private_dir(spool)
        self._sending = asyncio.Semaphore(AT_ONCE)
        self._leftovers = Leftovers(bucket)
        # So that nothing is deleted as old in the moment in which it is put again.
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def announce(self) -> None:
        """Says in the log whether the bucket can be used. It may come later: then calls are refused until it does."""
        try:
            await self.size(f"{LASTING}/none")
            with told("list"):
                async with asyncio.timeout(SLOW_SECONDS):
                    await anext(aiter(obstore.list(self._store, LASTING, chunk_size=1)), None)
        except Problem as problem:
            log().error("s3.unusable", bucket=self._bucket.place.bucket, reason=problem.message)
        else:
            log().info("s3.ready", bucket=self._bucket.place.bucket, server=self._bucket.server)

    @asynccontextmanager
    async def receive(self, key: str = "") -> AsyncIterator["S3Incoming"]:
        incoming = S3Incoming(self, self._store, self._spool, self._sending, key)
        try:
            yield incoming
        finally:
            await whole(incoming.close())

    @asynccontextmanager
    async def open(self, key: str) -> AsyncIterator[S3Reader]:
        with told("get"):
            async with asyncio.timeout(SLOW_SECONDS):
                found = await obstore.get_async(self._store, key)
        yield await S3Reader.begun(self._store, key, found)

    async def size(self, key: str) -> int | None:
        try:
            return int((await self._head(key))["size"])
        except NotFound:
            return None

    async def delete(self, key: str) -> None:
        with told("delete"):
            async with asyncio.timeout(SLOW_SECONDS):
                await obstore.delete_async(self._store, key)

    async def delete_all(self, prefix: str) -> None:
        async for keys in self._keys(prefix, datetime.max.replace(tzinfo=UTC)):
            await asyncio.gather(*map(self.delete, keys))

    async def delete_old(self, prefix: str, before: datetime) -> int:
        deleted = await self._leftovers.abort_old(before) if prefix == INCOMING else 0
        async for keys in self._keys(prefix, before):
            deleted += sum(await asyncio.gather(*(self._delete_if_old(key, before) for key in keys)))
        return deleted

    def link(self, key: str, media_type: str, disposition: str) -> str | None:
        if not self._bucket.redirect or self._bucket.credentials is None:
            return None
        query = {"response-content-type": media_type, "response-content-disposition": disposition}
        with told("sign"):  # a file of credentials may have gone
            return presigned(
                "GET",
                self._bucket.public_url(key),
                query,
                self._bucket.credentials(),
                region=self._bucket.region,
                now=datetime.now(UTC),
                seconds=LINK_SECONDS,
            )

    def turn(self, key: str) -> asyncio.Lock:
        """Held by whoever puts or deletes this key. Of this process only: another may delete what we have just put."""
        return self._turns.setdefault(key, asyncio.Lock())

    async def _head(self, key: str) -> Any:
        with told("head"):
            async with asyncio.timeout(SLOW_SECONDS):
                return await obstore.head_async(self._store, key)

    async def _keys(self, prefix: str, before: datetime) -> AsyncIterator[list[str]]:
        """Of what is older, some at a time."""
        pages = aiter(obstore.list(self._store, prefix, chunk_size=_DELETES))
        while True:
            with told("list"):
                async with asyncio.timeout(SLOW_SECONDS):
                    page = await anext(pages, None)
            if page is None:
                return
            yield [found["path"] for found in page if _is_old(found, before)]

    async def _delete_if_old(self, key: str, before: datetime) -> bool:
        async with self.turn(key):
            try:
                old = _is_old(await self._head(key), before)
            except NotFound:
                return False
            if old:
                await self.delete(key)
            return old


class S3Incoming:
    """Parts on their way up."""

    def __init__(
        self, backend: S3Backend, store: S3Store, directory: Path, sending: asyncio.Semaphore, key: str
    ) -> None:
        self._backend = backend
        self._store = store
        self._sending = sending
        self._key = key or f"{INCOMING}/{secrets.token_hex(16)}"
        self._spool = Spool(directory)
        self._writer: Any = None  # there once a part is full
        self._complete = False  # it lies under self._key
        self.size = 0

    async def write(self, data: bytes) -> None:
        """Goes up once 5 MiB have come together."""
        rest = memoryview(data)
        while rest:
            piece = rest[: PART_BYTES - self._spool.size]
            rest = rest[len(piece) :]
            self.size += len(piece)
            await self._spool.add(data if len(piece) == len(data) else bytes(piece))
            if self._spool.size == PART_BYTES:
                async with self._sending:
                    await whole(self._send(await self._spool.take()))

    async def finish(self) -> Stored:
        return Stored(self._spool.digest(), self.size)

    async def keep(self, key: str) -> None:
        async with self._backend.turn(key):
            if self.size <= CHUNK_BYTES:  # doesn't count among the large ones, and needn't be waited for as long
                with told("put"):
                    async with asyncio.timeout(SLOW_SECONDS):
                        await self._keep(key, await self._spool.take())
            else:
                async with self._sending:
                    await whole(self._keep(key, await self._spool.take()))

    async def close(self) -> None:
        """Gives up what wasn't kept."""
        self._spool.close()
        try:
            if self._writer is not None:
                with told("abort"):
                    await self._writer.__aexit__(asyncio.CancelledError, None, None)
            if self._complete:  # under a key of the meantime
                await self._backend.delete(self._key)
        except Problem as problem:
            log().warning("s3.left", key=self._key, reason=problem.message)

    async def _send(self, part: bytes) -> None:
        with told("put part"):
            if self._writer is None:
                self._writer = obstore.open_writer_async(
                    self._store, self._key, buffer_size=PART_BYTES, max_concurrency=1
                )
            await self._writer.write(part)
            await self._writer.write(b"")  # waits until S3 has the part; else it would be told with the next

    async def _keep(self, key: str, rest: bytes) -> None:
        with told("put"):
            if self._writer is None:
                await obstore.put_async(self._store, key, rest, use_multipart=False)
                return
            writer = self._writer
            await writer.write(rest)
            self._writer = None  # obstore gives it up, whatever comes of it
            await writer.close()
            if key != self._key:
                self._complete = True
                await obstore.copy_async(self._store, self._key, key)


def _is_old(found: Any, before: datetime) -> bool:
    """S3 tells whole seconds, cut off."""
    return bool(found["last_modified"] + timedelta(seconds=1) <= before)
