"""What stays of a run when it is over: its answer for /result, its log for /logs."""

import hashlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Protocol

from executor.answer import Answer
from executor.model import INLINE_BYTES, KeptAnswer
from executor.spool import Spool
from kit.clock import Clock
from kit.errors import Problem
from kit.telemetry import log

PAUSES = (0.1, 1.0)
CHUNK = 64 * 1024
# The digest of no bytes at all. Readers know it too.
NOTHING = hashlib.sha256(b"").hexdigest()


class BlobStore(Protocol):
    """The filestore, by digest."""

    async def put(self, chunks: Iterator[bytes]) -> str:
        """The digest. Errors: Unavailable."""

    def get(self, digest: str) -> AsyncIterator[bytes]:
        """Errors: NotFound, Unavailable."""


async def keep_answer(answer: Answer, blobs: BlobStore, clock: Clock, *, streamed: bool) -> KeptAnswer | None:
    """None unless the answer is whole. Up to 64 KiB it is kept here, more of it in the filestore; a stream over that
    isn't kept, nor what the filestore doesn't take: head and size then stand alone.
    """
    if answer.head is None or not answer.complete:
        return None
    size = answer.body.size
    if size <= INLINE_BYTES:
        return KeptAnswer(answer.head, size, content=answer.body.read(0, INLINE_BYTES))
    if streamed:
        return KeptAnswer(answer.head, size)
    return KeptAnswer(answer.head, size, digest=await _put(answer.body.chunks, size, blobs, clock))


async def keep_log(archive: Spool, blobs: BlobStore, clock: Clock) -> str:
    """The archive's digest; empty when the filestore doesn't take it: the log then lives on the bus for a day.

    An empty archive isn't stored: its digest says all.
    """
    if not archive.size:
        return NOTHING
    return await _put(archive.chunks, archive.size, blobs, clock)


async def keep_egress(lines: bytes, blobs: BlobStore, clock: Clock) -> str:
    """The digest of what a run contacted; empty when it was nothing, or the filestore doesn't take it."""
    return await _put(lambda: iter((lines,)), len(lines), blobs, clock) if lines else ""


async def keep_recording(document: bytes, blobs: BlobStore, clock: Clock) -> str:
    """The digest; empty when the filestore doesn't take it."""
    return await _put(
        lambda: (document[i : i + CHUNK] for i in range(0, len(document), CHUNK)), len(document), blobs, clock
    )


async def _put(chunks: Callable[[], Iterator[bytes]], size: int, blobs: BlobStore, clock: Clock) -> str:
    for pause in (*PAUSES, 0.0):
        try:
            return await blobs.put(chunks())
        except Problem as problem:
            log().warning("keep.waiting", reason=problem.message, size=size)
        except Exception:  # noqa: BLE001  # a bug over there mustn't cost the run its outcome
            log().exception("keep.failed", size=size)
            break
        await clock.sleep(pause)
    return ""
