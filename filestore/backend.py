"""The port to where bytes lie. Keys are paths of lower-case letters, digits, `_` and `/`, made by model.py only."""

from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Protocol

from filestore.model import Stored

CHUNK_BYTES = 256 * 1024


class Incoming(Protocol):
    """Bytes on their way in, seen by nobody until they are kept."""

    @property
    def size(self) -> int:
        """Bytes so far."""
        ...

    async def write(self, data: bytes) -> None: ...

    async def finish(self) -> Stored:
        """All is written: brings it safely to the disk and tells what it was."""
        ...

    async def keep(self, key: str) -> None:
        """After `finish`: it now lies under `key`, at once and whole, in place of what was there."""
        ...


class Reader(Protocol):
    """Bytes that lie under a key; they stay readable when the key is deleted meanwhile."""

    @property
    def size(self) -> int: ...

    async def read(self, offset: int, count: int) -> bytes:
        """`count` bytes from `offset`, fewer only at the end."""
        ...


class Backend(Protocol):
    """Where bytes lie."""

    def receive(self) -> AbstractAsyncContextManager[Incoming]:
        """Leaving it without `keep` leaves nothing behind."""
        ...

    def open(self, key: str) -> AbstractAsyncContextManager[Reader]:
        """Errors: NotFound."""
        ...

    async def size(self, key: str) -> int | None:
        """None when there is nothing."""
        ...

    async def delete(self, key: str) -> None:
        """Idempotent."""
        ...

    async def delete_old(self, prefix: str, before: datetime) -> int:
        """Deletes what lies under `prefix/` and was kept before then; how many."""
        ...
