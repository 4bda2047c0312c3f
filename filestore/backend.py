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
        """After `finish`: it now lies under `key`, at once and whole, in place of what was there. `receive` must have
        been told the same key, or none.
        """
        ...


class Reader(Protocol):
    """Bytes that lie under a key. When it is deleted or filled anew meanwhile they stay readable, or reading fails:
    what is read is never of two contents.
    """

    @property
    def size(self) -> int: ...

    async def read(self, offset: int, count: int) -> bytes:
        """`count` bytes from `offset`, fewer only at the end. Errors: Unavailable."""
        ...


class Backend(Protocol):
    """Where bytes lie. Errors of all: Unavailable, soon, when the store is away."""

    def receive(self, key: str = "") -> AbstractAsyncContextManager[Incoming]:
        """Leaving it without `keep` leaves nothing behind. `key`: where it will be kept, if that is known already."""
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

    async def delete_all(self, prefix: str) -> None:
        """Deletes what lies under `prefix/`. Idempotent."""
        ...

    async def delete_old(self, prefix: str, before: datetime) -> int:
        """Deletes what lies under `prefix/` and was kept before then; how many."""
        ...

    def link(self, key: str, media_type: str, disposition: str) -> str | None:
        """An address outside of the mesh at which whoever has it may read the key's bytes for some minutes; answers
        there bear this Content-Type and Content-Disposition. None: there is no such thing here.
        """
        ...
