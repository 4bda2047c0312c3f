"""GET /request/{id}/diff: how a replay differs from the run that it repeats."""

import asyncio
import difflib
import hashlib
import json
from contextlib import aclosing
from typing import Any

from edge.http import Answer, Request, json_answer
from edge.reading import Reading, sees_logs
from edge.recording import compared, outbound_of
from edge.results import pending
from edge.run_model import Blobs, KeptAnswer, RunRecord
from kit.errors import Conflict, NotFound

# What is compared line by line is bounded: the comparison takes time that grows with its square.
MOST_TEXT_BYTES = 32 * 1024
MOST_LINES = 500
MOST_DIFF_LINES = 200
MOST_RECORDING_BYTES = 32 << 20
# They differ from run to run, and mean nothing.
_IMMATERIAL = frozenset({"date", "server", "content-length", "x-request-id", "x-correlation-id", "traceparent"})


class Diffs:
    """Compares runs."""

    def __init__(self, reading: Reading, blobs: Blobs) -> None:
        self._reading = reading
        self._blobs = blobs

    async def diff(self, request: Request) -> Answer:
        """`{"id", "replayOf", "mode", "versions", "same", "status", "headers", "body", "outbound"}`; 408 while one of
        the two goes on. `outbound` is for the organization whose secrets they use, and null where one wasn't recorded.

        Errors: NotFound; Conflict for a run that is no replay.
        """
        after = await self._reading.find(request)
        if not after.replay_of:
            raise Conflict("this run is no replay: there is nothing to compare it with")
        try:
            before = await self._reading.exactly(request.who, after.replay_of)
        except NotFound:
            raise NotFound("the run that it repeats is kept no longer") from None
        for record in (before, after):
            if not record.status.over:
                return pending(request, record)
        both = (before, after)
        outbound = await self._outbound(*both) if all(sees_logs(request.who, record) for record in both) else None
        parts = {
            "status": _pair(*(_outcome(record) for record in both)),
            "headers": _headers(*both),
            "body": await asyncio.to_thread(_body, before.answer, after.answer),
        }
        same = all(part["same"] for part in parts.values()) and (outbound is None or outbound["same"])
        told = {
            "id": after.id,
            "replayOf": before.id,
            "mode": "offline" if after.offline else "live",
            "versions": _pair(before.version_id, after.version_id),
            "same": same,
            **parts,
            "outbound": outbound,
        }
        return json_answer(told, headers=[("cache-control", "no-store")])

    async def _outbound(self, before: RunRecord, after: RunRecord) -> dict[str, Any] | None:
        recordings = [await self._recording(record.recording_digest) for record in (before, after)]
        if any(recording is None for recording in recordings):
            return None
        return compared(*(outbound_of(recording or b"") for recording in recordings))

    async def _recording(self, digest: str) -> bytes | None:
        """None where there is none, or it is kept no longer."""
        if not digest:
            return None
        parts, size = [], 0
        try:
            async with aclosing(self._blobs.get(digest)) as chunks:
                async for chunk in chunks:
                    parts.append(chunk)
                    size += len(chunk)
                    if size > MOST_RECORDING_BYTES:
                        return None
        except NotFound:
            return None
        return b"".join(parts)


def _pair(before: Any, after: Any) -> dict[str, Any]:
    return {"same": before == after, "before": before, "after": after}


def _outcome(record: RunRecord) -> dict[str, Any]:
    http = record.answer.head.status if record.answer else None
    return {"status": record.status.text, "code": record.code or None, "responseStatus": http}


def _headers(before: RunRecord, after: RunRecord) -> dict[str, Any]:
    """Those that differ, by name: all their values, in order."""
    found = [_by_name(record.answer) for record in (before, after)]
    names = sorted(set(found[0]) | set(found[1]))
    changed = {name: [one.get(name, []) for one in found] for name in names}
    changed = {name: values for name, values in changed.items() if values[0] != values[1]}
    return {
        "same": not changed,
        "changed": {name: {"before": values[0], "after": values[1]} for name, values in changed.items()},
    }


def _by_name(answer: KeptAnswer | None) -> dict[str, list[str]]:
    values: dict[str, list[str]] = {}
    for name, value in answer.head.headers if answer else ():
        if name.lower() not in _IMMATERIAL:
            values.setdefault(name.lower(), []).append(value)
    return values


def _body(before: KeptAnswer | None, after: KeptAnswer | None) -> dict[str, Any]:
    """`same` is null where it can't be told: a long stream isn't kept."""
    digests = [_digest(before), _digest(after)]
    known = None not in digests
    told: dict[str, Any] = {
        "same": digests[0] == digests[1] if known else None,
        "before": {"sha256": digests[0], "bytes": before.size if before else None},
        "after": {"sha256": digests[1], "bytes": after.size if after else None},
    }
    if before is None and after is None:
        told["same"] = True
    if before and after and not told["same"] and not before.digest and not after.digest and known:
        told["diff"] = _lines(before.content, after.content)
    return told


def _digest(answer: KeptAnswer | None) -> str | None:
    if answer is None or not answer.whole:
        return None
    return answer.digest or hashlib.sha256(answer.content).hexdigest()


def _lines(before: bytes, after: bytes) -> list[str] | None:
    """A unified diff; of JSON, of it written out. None for what is no text, or too long."""
    if max(len(before), len(after)) > MOST_TEXT_BYTES:
        return None
    try:
        texts = [_text(raw).splitlines() for raw in (before, after)]
    except UnicodeDecodeError:
        return None
    if max(map(len, texts)) > MOST_LINES:
        return None
    return list(difflib.unified_diff(texts[0], texts[1], "before", "after", lineterm=""))[:MOST_DIFF_LINES]


def _text(raw: bytes) -> str:
    text = raw.decode()
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return text
