"""The stores of the filestore, and its ledger, in memory."""

import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime

from filestore.model import File, Stored
from filestore.storage import Price, Room, Storage, StorageBill, check_room
from kit.errors import Conflict, NotFound, Unavailable
from kit.names import new_id


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
    """What is known of files: files.FileStore, quota.Rooms, charge.Periods."""

    def __init__(self) -> None:
        self.files: dict[str, File] = {}
        self.rooms: dict[str, Room] = {}
        self.storage: dict[str, Storage] = {}
        self.bills: list[StorageBill] = []

    async def add(self, file: File) -> None:
        self.files[file.id] = file

    async def get(self, file_id: str) -> File | None:
        return self.files.get(file_id)

    async def take(self, room: Room, need: int, most: int, now: datetime) -> int:
        size = min(room.size, check_room(need, self._taken(room.organization_id, room.id, now), most))
        self.rooms[room.id] = replace(room, size=size)
        return size

    async def leave(self, room_id: str) -> None:
        self.rooms.pop(room_id, None)

    async def fill(self, file: File, room_id: str, most: int, now: datetime) -> None:
        before = self.files.get(file.id)
        if before is None or before.content is not None:
            raise Conflict("uploaded already")
        assert file.content is not None
        size = file.content.stored.size
        check_room(size, self._taken(file.organization_id, room_id, now), most)
        self.rooms.pop(room_id, None)
        self.storage[file.organization_id] = self._of(file.organization_id, now).with_file(size, now)
        self.files[file.id] = file

    async def expired(self, now: datetime, limit: int) -> list[File]:
        old = [file for file in self.files.values() if file.expires_at <= now]
        return sorted(old, key=lambda file: file.expires_at)[:limit]

    async def remove(self, file: File, now: datetime) -> None:
        gone = self.files.pop(file.id, None)
        if gone is not None and gone.content is not None:
            held = self._of(gone.organization_id, now)
            self.storage[held.organization_id] = held.without_file(gone.content.stored.size, gone.expires_at, now)

    async def forget_rooms(self, now: datetime) -> None:
        self.rooms = {room.id: room for room in self.rooms.values() if room.expires_at > now}

    async def due(self, before: datetime, limit: int) -> list[Storage]:
        found = [it for it in self.storage.values() if it.since <= before and (it.kept or it.mb_days)]
        return sorted(found, key=lambda it: it.since)[:limit]

    async def close(self, period: Storage, price: int, now: datetime) -> None:
        held = self._of(period.organization_id, now)
        if held.since == period.since:
            self.storage[held.organization_id], bill = held.billed(new_id("sto"), price, now)
            self.bills += [bill] if bill else []

    @asynccontextmanager
    async def due_bills(self, limit: int) -> AsyncIterator[list[StorageBill]]:
        found = sorted(self.bills, key=lambda bill: bill.id)[:limit]
        yield found
        self.bills = [bill for bill in self.bills if bill not in found]

    def _of(self, organization_id: str, now: datetime) -> Storage:
        return self.storage.get(organization_id) or Storage.empty(organization_id, now)

    def _taken(self, organization_id: str, room_id: str, now: datetime) -> int:
        rooms = (it for it in self.rooms.values() if it.organization_id == organization_id and it.id != room_id)
        return self._of(organization_id, now).kept + sum(room.size for room in rooms if room.expires_at > now)


class MemoryLedger:
    """charge.Ledger and files.Prices. `away`: it doesn't answer; `books`: whether it does; `deaf`: it
    does, and nobody hears of it.
    """

    def __init__(self, *prices: Price) -> None:
        self.known = prices
        self.booked: dict[str, StorageBill] = {}
        self.away = self.deaf = False
        self.books = True

    async def prices(self, since: datetime) -> Sequence[Price]:
        if self.away:
            raise Unavailable("away")
        return [price for price in self.known if price.until is None or price.until > since]

    async def settle(self, bills: Sequence[StorageBill]) -> None:
        if self.away or not self.books:
            raise Unavailable("away")
        for bill in bills:
            assert self.booked.setdefault(bill.id, bill) == bill
        if self.deaf:
            raise Unavailable("no answer")
