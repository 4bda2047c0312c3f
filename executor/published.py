"""Whether an answer is a result under /api/v1. What the edge tells its caller as a failure (edge/published.py,
edge/deltas.py), nobody is charged for; the report of a run doesn't pass the edge, so its answer is judged twice.
"""

import codecs
import re

from executor.model import AnswerHead
from executor.spool import Spool

MAX_RESULT_BYTES = 10 * 1024 * 1024
MAX_LINE_BYTES = 1024 * 1024
# As edge/record.py reads them: others of Python's take a time that grows with the square of what they read.
_CHARSET = re.compile(r"""charset\s*=\s*["']?([^\s;"']{1,40})""", re.IGNORECASE)
_READ = re.compile(
    r"(us-)?ascii|utf-?(8(-sig)?|(16|32)(-?[lb]e)?)|latin-?\d{1,2}|iso-?8859-\d{1,2}|iso-2022-(jp|kr)|"
    r"(windows-|cp-?)\d{3,4}|koi8-[rtu]|macintosh|mac-(roman|cyrillic)|s(hift-)?jis|euc-(jp|kr|cn)|gbk|gb-?2312|"
    r"gb-?18030|big5(-hkscs)?|tis-620"
)
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
    try:
        return "\0" not in raw.decode(_charset(_header(head, "content-type")))
    except (LookupError, ValueError):
        return False


def _charset(kind: str) -> str:
    """Errors: LookupError for one that isn't read."""
    found = _CHARSET.search(kind)
    name = found[1].lower().replace("_", "-").removeprefix("x-") if found else "utf-8"
    if not _READ.fullmatch(name):
        raise LookupError(name)
    return codecs.lookup(name).name


def _header(head: AnswerHead, name: str) -> str:
    return next((value.decode("latin-1").strip() for key, value in head.headers if key == name), "")
