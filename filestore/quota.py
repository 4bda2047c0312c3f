"""Room for uploads: what the files of an organization take together has a limit, which many at once can't pass either.

Room is set aside before bytes are taken in: all of it when the size is known, else step by step. Who crashes leaves
room taken for some minutes only.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Protocol

from filestore.storage import Room
from filestore.whole import whole
from kit.clock import Clock
from kit.errors import Unavailable
from kit.names import new_id
from kit.telemetry import tried_again

# Longer than an upload may send nothing, and than a store may take to keep what was sent.
LEASE = timedelta(minutes=15)
RENEW = timedelta(minutes=1)
# Of what has been sent so far, as much again is set aside, within these.
LEAST_AHEAD, MOST_AHEAD = 1024 * 1024, 64 * 1024 * 1024


class Rooms(Protocol):
    """All that is set aside."""

    async def take(self, room: Room, need: int, most: int, now: datetime) -> int:
        """Makes it, or changes it, so that it has `room.size`; what there is, from `need` on, where that is less.
        `most`: what all files of the organization and all other rooms may take with it. Errors: Exhausted (too_large).
        """
        ...

    async def leave(self, room_id: str) -> None:
        """Idempotent."""
        ...


class Quota:
    """The limit, in bytes, of each organization."""

    def __init__(self, rooms: Rooms, clock: Clock, most: int) -> None:
        self._rooms = rooms
        self._clock = clock
        self.most = most

    @asynccontextmanager
    async def upload(self, organization_id: str, size: int) -> AsyncIterator["Taken"]:
        """Room for one upload, free again on leaving. `size`: 0 when it isn't known. Errors: Exhausted."""
        taken = Taken(self._rooms, self._clock, self.most, Room(new_id("room"), organization_id, 0, self._clock.now()))
        try:
            if size:
                await taken.reach(size, ahead=0)
            yield taken
        finally:
            with tried_again("filestore.quota"):  # or it goes with its time
                await whole(taken.leave())


class Taken:
    """The room of one upload."""

    def __init__(self, rooms: Rooms, clock: Clock, most: int, room: Room) -> None:
        self._rooms = rooms
        self._clock = clock
        self._most = most
        self._room = room
        self._there = False

    @property
    def id(self) -> str:
        return self._room.id

    async def reach(self, size: int, ahead: int | None = None) -> None:
        """So many bytes are about to be there. Errors: Exhausted (too_large)."""
        if size > self._room.size:
            more = min(max(size, LEAST_AHEAD), MOST_AHEAD) if ahead is None else ahead
            await self._take(size, size + more)
        elif self._room.size and self._clock.now() >= self._room.expires_at - LEASE + RENEW:
            with suppress(Unavailable):  # there is time to try it again
                await self._take(self._room.size, self._room.size)

    def kept(self) -> None:
        """The file is there; the room went as it was recorded."""
        self._there = False

    async def leave(self) -> None:
        if self._there:
            await self._rooms.leave(self._room.id)

    async def _take(self, need: int, want: int) -> None:
        now = self._clock.now()
        wanted = replace(self._room, size=want, expires_at=now + LEASE)
        self._there = True  # perhaps: also when there is no answer
        self._room = replace(wanted, size=await self._rooms.take(wanted, need, self._most, now))
