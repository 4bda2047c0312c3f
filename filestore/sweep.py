"""What has had its time. Files: bytes first, then the row, so that nothing is forgotten when it is interrupted."""

from collections.abc import Awaitable, Callable
from datetime import timedelta

from filestore.backend import Backend
from filestore.files import FileStore
from filestore.model import INCOMING, PASSING
from kit.clock import Clock
from kit.telemetry import tried_again

PAUSE_SECONDS = 60.0
BLOB_PAUSE_SECONDS = 3600.0
BATCH = 100
# No blob takes so long to come in: what is still there was left by a process that was killed.
INCOMING_LIFETIME = timedelta(days=1)


async def sweep_once(files: FileStore, backend: Backend, clock: Clock) -> int:
    """Removes all files that have expired; their number."""
    removed = 0
    while expired := await files.expired(clock.now(), BATCH):
        for file in expired:
            await backend.delete(file.storage_key)
            await backend.delete_all(file.folder)  # what an upload left that was killed between its two steps
            await files.remove(file, clock.now())
            removed += 1
    await files.forget_rooms(clock.now())
    return removed


async def sweep(files: FileStore, backend: Backend, clock: Clock, then: Callable[[], Awaitable[None]]) -> None:
    """Every minute, for ever; `then` finds no file whose time was over before."""
    while True:
        with tried_again("filestore.sweep"):
            await sweep_once(files, backend, clock)
            await then()
        await clock.sleep(PAUSE_SECONDS)


async def sweep_blobs(backend: Backend, lifetime: timedelta, clock: Clock) -> None:
    """Every hour, for ever: blobs that don't last go `lifetime` after they were last put."""
    while True:
        with tried_again("filestore.sweep"):
            await backend.delete_old(PASSING, clock.now() - lifetime)
            await backend.delete_old(INCOMING, clock.now() - INCOMING_LIFETIME)
        await clock.sleep(BLOB_PAUSE_SECONDS)
