"""Whether an answer is a result under /api/v1. What the edge tells its caller as a failure (edge/published.py,
edge/deltas.py), nobody is charged for; the report of a run doesn't pass the edge, so its answer is judged twice.
"""

import re
from email.message import Message

from executor.model import AnswerHead
from executor.spool import Spool

MAX_RESULT_BYTES = 10 * 1024 * 1024
MAX_LINE_BYTES = 1024 * 1024
_ERROR = re.compile(rb"(?:\A|[\r\n])event: ?error[\r\n]")


def refused(head: AnswerHead, body: Spool) -> bool:
    """Of a whole answer. Reads all of it."""
    if head.status >= 400 or body.size > MAX_RESULT_BYTES:
        return True
    kind = _header(head, "content-type").partition(";")[0].strip().lower()
    if kind == "text/event-stream":
        raw = b"".join(body.chunks())
        return _ERROR.search(raw) is not None or _has_long_line(raw)
    return kind != "text/plain" and not _is_text(head, b"".join(body.chunks()))


def _has_long_line(raw: bytes) -> bool:
    """Looks from the farthest place where a line has to have ended backwards."""
    start = 0
    while len(raw) - start > MAX_LINE_BYTES:
        farthest = start + MAX_LINE_BYTES + 1
        end = max(raw.rfind(b"\n", start, farthest), raw.rfind(b"\r", start, farthest))
        if end < 0:
            return True
        start = end + 1
    return False


def _is_text(head: AnswerHead, raw: bytes) -> bool:
    if _header(head, "content-encoding").lower() not in {"", "identity"}:
        return False
    kind = Message()
    kind["content-type"] = _header(head, "content-type") or "text/plain"
    try:
        return "\0" not in raw.decode(kind.get_content_charset("utf-8"))
    except (LookupError, ValueError):
        return False


def _header(head: AnswerHead, name: str) -> str:
    return next((value.decode("latin-1").strip() for key, value in head.headers if key == name), "")
