"""A run's record as bytes, with its answer, wherever that is kept."""

import asyncio
from contextlib import aclosing
from typing import Any

from edge.record import NO_CONTENT, Content, content, render, result, whole
from edge.run_model import INLINE_BYTES, Blobs, RunRecord
from kit.errors import NotFound

# A record with a larger answer is told without it: the text would be held in memory several times over.
MAX_CONTENT_BYTES = 16 * 1024 * 1024


class Telling:
    """Renders records."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs

    async def __call__(self, record: RunRecord, *, sees_logs: bool, result_shape: bool = False) -> bytes:
        """JSON, as /request answers it, or with `result_shape` as /result does. Errors: Unavailable."""
        raw = await self._raw(record)
        if len(raw or b"") <= INLINE_BYTES:
            return _rendered(record, raw, result_shape, sees_logs)
        return await asyncio.to_thread(_rendered, record, raw, result_shape, sees_logs)

    async def _raw(self, record: RunRecord) -> bytes | None:
        """The answer's bytes; None where they weren't kept, or are kept no longer."""
        kept = record.answer
        if kept is None or not kept.whole or kept.size > MAX_CONTENT_BYTES:
            return None
        if not kept.digest:
            return kept.content
        try:
            async with aclosing(self._blobs.get(kept.digest)) as chunks:
                return b"".join([chunk async for chunk in chunks])
        except NotFound:
            return None


def _rendered(record: RunRecord, raw: bytes | None, result_shape: bool, logs: bool) -> bytes:
    shape = result if result_shape else whole
    answered = content(record.answer.head, raw) if record.answer and raw is not None else NO_CONTENT
    fields: dict[str, Any] = shape(record, answered, sees_logs=logs)
    try:
        return render(fields)
    except (ValueError, RecursionError):
        return render(shape(record, Content(answered.text), sees_logs=logs))
