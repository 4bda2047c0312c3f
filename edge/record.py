"""The record of a run as SPEC §3 shapes it: /request, /requests and /result. Pure."""

import codecs
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from edge.run_model import AnswerHead, RunRecord, Usage

# The published npm client knows these; /result never lets a workflow's own fields hide them.
NINE = (
    "id",
    "userId",
    "serviceId",
    "createdAt",
    "startedAt",
    "completedAt",
    "responseStatus",
    "responseContent",
    "responseJson",
)


@dataclass(frozen=True)
class Content:
    """A workflow's answer as a record tells it: its text (None when binary or not kept), its JSON (None when none)."""

    text: str | None = None
    value: Any = None


NO_CONTENT = Content()
_CHARSET = re.compile(r"""charset\s*=\s*["']?([^\s;"']{1,40})""", re.IGNORECASE)
# Those that texts are written in. A workflow may name any of Python's: "punycode" and "idna" take a time that grows
# with the square of what they read, and each name that Python doesn't know it remembers for ever.
_READ = re.compile(
    r"(us-)?ascii|utf-?(8(-sig)?|(16|32)(-?[lb]e)?)|latin-?\d{1,2}|iso-?8859-\d{1,2}|iso-2022-(jp|kr)|"
    r"(windows-|cp-?)\d{3,4}|koi8-[rtu]|macintosh|mac-(roman|cyrillic)|s(hift-)?jis|euc-(jp|kr|cn)|gbk|gb-?2312|"
    r"gb-?18030|big5(-hkscs)?|tis-620"
)


def timestamp(moment: datetime) -> str:
    """`YYYY-MM-DDTHH:MM:SS.mmmZ`."""
    moment = moment.astimezone(UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def content(head: AnswerHead, raw: bytes) -> Content:
    """What an answer's bytes say."""
    text = _text(head, raw)
    if text is None:
        return NO_CONTENT
    kind = head.header("content-type").partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        return Content(text)
    try:
        return Content(text, json.loads(text, parse_constant=_refuse))
    except (ValueError, RecursionError):
        return Content(text)


def charset(kind: str) -> str:
    """The codec for a text of this content type; empty for one that isn't read."""
    found = _CHARSET.search(kind)
    name = found[1].lower().replace("_", "-").removeprefix("x-") if found else "utf-8"
    if not _READ.fullmatch(name):
        return ""
    try:
        return codecs.lookup(name).name
    except LookupError:
        return ""


def summary(record: RunRecord, *, sees_logs: bool) -> dict[str, Any]:
    """The record without the answer's content."""
    return {
        "id": record.id,
        "userId": record.caller_id or None,
        "serviceId": record.service_id or None,
        "createdAt": timestamp(record.created_at),
        "startedAt": _time(record.started_at),
        "completedAt": _time(record.completed_at),
        "responseStatus": record.answer.head.status if record.answer else None,
        "versionId": record.version_id or None,
        "status": record.status.text,
        "code": record.code or None,
        # May quote the workflow's output.
        "detail": record.detail or None if sees_logs else None,
        "correlationId": record.correlation_id or None,
        "parentId": record.parent_id or None,
        "traceId": record.trace_id or None,
        "attempt": record.attempt,
        "trigger": record.trigger.text,
        **_replay(record),
        **_queue(record),
        "usage": usage_of(record.usage) if record.usage and record.status.over else None,
        "cost": _cost(record),
    }


def whole(record: RunRecord, answered: Content, *, sees_logs: bool) -> dict[str, Any]:
    """The record as /request answers it."""
    fields = summary(record, sees_logs=sees_logs)
    fields |= {"responseContent": answered.text, "responseJson": answered.value}
    rest = {name: value for name, value in fields.items() if name not in NINE}
    return {name: fields[name] for name in NINE} | rest


def result(record: RunRecord, answered: Content, *, sees_logs: bool) -> dict[str, Any]:
    """The record as /result answers it: of an answered run the nine names, the fields of the workflow's own JSON
    object, and the record under `run`; of any other the record.
    """
    fields = whole(record, answered, sees_logs=sees_logs)
    if record.answer is None:
        return fields
    own = answered.value if isinstance(answered.value, dict) else {}
    return {"run": summary(record, sees_logs=sees_logs)} | own | {name: fields[name] for name in NINE}


def render(value: dict[str, Any]) -> bytes:
    """JSON. Errors: ValueError, RecursionError for a workflow's value that JSON can't hold after all."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    try:
        return text.encode()
    except UnicodeEncodeError:  # a lone surrogate, which a workflow may well have written as an escape
        return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()


def _text(head: AnswerHead, raw: bytes) -> str | None:
    if head.header("content-encoding").lower() not in {"", "identity"}:
        return None
    codec = charset(head.header("content-type"))
    try:
        text = raw.decode(codec) if codec else "\0"
    except ValueError:
        return None
    return None if "\x00" in text else text


def _replay(record: RunRecord) -> dict[str, Any]:
    """Of a replay, and of a run that was recorded."""
    fields: dict[str, Any] = {"recorded": True} if record.recording_digest else {}
    if record.replay_of:
        fields |= {"replayOf": record.replay_of, "replayMode": "offline" if record.offline else "live"}
    return fields


def _queue(record: RunRecord) -> dict[str, Any]:
    """Of a queued run, where that is known."""
    if not record.position:
        return {}
    wait = None if record.wait is None else round(record.wait.total_seconds(), 1)
    return {"queue": {"position": record.position, "waitSeconds": wait}}


def usage_of(usage: Usage) -> dict[str, float]:
    """As records show it."""
    return {
        "cpuSeconds": round(usage.cpu_seconds, 6),
        "wallSeconds": round(usage.wall_seconds, 6),
        "memoryPeakBytes": usage.memory_peak_bytes,
        "egressBytes": usage.egress_bytes,
        "tokensIn": usage.tokens_in,
        "tokensOut": usage.tokens_out,
    }


def _cost(record: RunRecord) -> dict[str, int]:
    """So far: what it has called may go on."""
    own, nested = record.cost_own, record.cost_nested
    return {"own": own, "nested": nested, "total": own + nested}


def _time(moment: datetime | None) -> str | None:
    return timestamp(moment) if moment else None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")
