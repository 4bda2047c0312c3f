"""Callers' files: a place is made, filled once, read by whoever has the address, and goes after some days."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol

from filestore.addresses import Addresses
from filestore.backend import Backend, Reader
from filestore.model import Content, File, check_file_name, disposition, media_type
from filestore.quota import Quota
from filestore.storage import Price, price_at
from kit.clock import Clock
from kit.errors import Conflict, Denied, Exhausted, Invalid, NotFound
from kit.names import is_id, new_id

UPLOAD_TIME = timedelta(hours=1)
# An upload that began in time may take long: the row stays at least this much longer.
SLOW_UPLOAD = timedelta(days=1)


class FileStore(Protocol):
    """What is known of files."""

    async def add(self, file: File) -> None: ...

    async def get(self, file_id: str) -> File | None: ...

    async def fill(self, file: File, room_id: str, most: int, now: datetime) -> None:
        """Records the upload (`content`, `expires_at`), in place of its room. Errors: Conflict when there is one, or no
        such file; Exhausted (too_large) when its room has gone and the files of the organization would pass `most`.
        """
        ...

    async def expired(self, now: datetime, limit: int) -> list[File]: ...

    async def remove(self, file: File, now: datetime) -> None:
        """It takes no room any more, and costs nothing from its `expires_at` on. Idempotent."""
        ...

    async def forget_rooms(self, now: datetime) -> None:
        """Those whose time is over, which count no more."""
        ...


class Prices(Protocol):
    """What storage costs."""

    async def prices(self, since: datetime) -> Sequence[Price]:
        """All that were valid then, or later. Errors: Unavailable."""
        ...


@dataclass(frozen=True)
class Place:
    """The two addresses of a new file."""

    upload_uri: str
    download_uri: str


class Files:
    """All that is done with files."""

    def __init__(
        self,
        files: FileStore,
        backend: Backend,
        addresses: Addresses,
        clock: Clock,
        quota: Quota,
        prices: Prices,
        *,
        max_bytes: int,
        lifetime: timedelta,
    ) -> None:
        self._files = files
        self._backend = backend
        self._addresses = addresses
        self._clock = clock
        self._quota = quota
        self._prices = prices
        self._max_bytes = max_bytes
        self._lifetime = lifetime

    async def create(self, organization_id: str, name: str, *, without_credit: bool = False) -> Place:
        """Errors: Invalid for a name over 255 bytes or with a control character; Exhausted (payment_required) for an
        organization that has no credit, unless storage costs nothing.
        """
        now = self._clock.now()
        if without_credit and price_at(await self._prices.prices(now), now):
            raise Exhausted(
                "your organization has no credits left, and to keep files costs some: an admin key of the first "
                "organization grants more (POST /credits)",
                code="payment_required",
            )
        until = now + UPLOAD_TIME
        file = File(new_id("file"), organization_id, check_file_name(name), now, until + SLOW_UPLOAD)
        await self._files.add(file)
        return Place(self._addresses.upload(file, until), self._addresses.download(file))

    async def open_upload(self, file_id: str, expires: str, signature: str) -> File:
        """The file that this address may fill now. Errors: Denied for a bad or old address, NotFound, Conflict."""
        if not self._addresses.may_upload(file_id, expires, signature, self._clock.now()):
            raise Denied("this upload address is not valid or has expired; ask for a new one by POST /file")
        file = await self._files.get(file_id)
        if file is None:
            raise NotFound("no such file")
        if file.content is not None:
            raise Conflict("this file was uploaded already; ask for a new address by POST /file")
        return file

    def check_size(self, size: int) -> None:
        """Errors: Invalid (too_large)."""
        if size > self._max_bytes:
            raise Invalid(f"a file has at most {self._max_bytes} bytes", code="too_large")

    async def fill(self, file: File, content_type: str, chunks: AsyncIterator[bytes], size: int = 0) -> Content:
        """All or nothing. `size`, if it is known, is looked at before the first byte is read. Errors: Invalid and
        Exhausted (too_large, both); Conflict when another upload was faster.

        The bytes are kept first, at a place of their own, so that no transaction waits for a store elsewhere. Should
        it end in between, they are nobody's, and go with the file's folder when its time is over.
        """
        self.check_size(size)
        key = file.new_key()
        async with self._quota.upload(file.organization_id, size) as room, self._backend.receive(key) as incoming:
            async for chunk in chunks:
                self.check_size(incoming.size + len(chunk))
                await room.reach(incoming.size + len(chunk))
                await incoming.write(chunk)
            content = Content(media_type(content_type), await incoming.finish(), key)
            await incoming.keep(key)
            now = self._clock.now()
            filled = replace(file, content=content, expires_at=now + self._lifetime)
            try:
                await self._files.fill(filled, room.id, self._quota.most, now)
            except (Conflict, Exhausted):
                await self._backend.delete(key)
                raise
            room.kept()
        return content

    async def readable(self, file_id: str, signature: str) -> tuple[File, Content]:
        """Errors: NotFound for a bad address, and for a file that is unknown, empty or gone, all alike."""
        file = None
        if is_id(file_id, "file") and self._addresses.may_download(file_id, signature):
            file = await self._files.get(file_id)
        if file is None or file.content is None or file.expires_at <= self._clock.now():
            raise NotFound("no such file: the address is not valid, nothing was uploaded, or it has expired")
        return file, file.content

    def open(self, file: File) -> AbstractAsyncContextManager[Reader]:
        """The bytes of a readable file. Errors: NotFound."""
        return self._backend.open(file.storage_key)

    def link(self, file: File, content: Content) -> str | None:
        """Where else a readable file can be read for some minutes, with its type and name; None: only here."""
        return self._backend.link(file.storage_key, content.media_type, disposition(file.name))
