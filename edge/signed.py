"""What inbound events are signed with, by the kind of their sender. Pure.

Standard Webhooks (https://www.standardwebhooks.com): HMAC-SHA256 of id, time and body. Slack
(https://docs.slack.dev/authentication/verifying-requests-from-slack): of "v0", time and body. WhatsApp
(https://developers.facebook.com/docs/graph-api/webhooks/getting-started) and GitHub
(https://docs.github.com/webhooks/using-webhooks/validating-webhook-deliveries): of the body alone, without a time: only
the memory of what came before tells a replay.
"""

import hashlib
import hmac
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from edge.http import Request
from edge.sign import signed
from kit.errors import Unauthenticated

KINDS = ("standard", "slack", "whatsapp", "github")
TOLERANCE = timedelta(minutes=5)
_LATEST = 253_402_300_799


def verify(kind: str, secret: str, request: Request, body: bytes, now: datetime) -> str:
    """What the event is known by: the same one, sent again, has the same. Errors: Unauthenticated."""
    return _BY_KIND[kind](secret, request, body, now)


def _standard(secret: str, request: Request, body: bytes, now: datetime) -> str:
    message_id, text = request.header("webhook-id"), request.header("webhook-timestamp")
    at = _recent(text, now, "webhook-timestamp")
    # Or a body that begins with a number and a dot could lend them to the id and the time: the same signature, as an
    # event of its own. https://github.com/standard-webhooks/standard-webhooks: neither holds one.
    if not message_id or "." in message_id:
        raise Unauthenticated("this event isn't signed: webhook-id must be there, and have no dot")
    expected = signed([secret], message_id, at, body)["webhook-signature"]
    _one_of(request.header("webhook-signature").split(), expected, "webhook-signature")
    return hashlib.sha256(message_id.encode()).hexdigest()


def _slack(secret: str, request: Request, body: bytes, now: datetime) -> str:
    text = request.header("x-slack-request-timestamp")
    _recent(text, now, "x-slack-request-timestamp")
    expected = "v0=" + _hex(secret, b"v0:" + text.encode() + b":" + body)
    _one_of([request.header("x-slack-signature")], expected, "x-slack-signature")
    return hashlib.sha256(body).hexdigest()


def _hub(secret: str, request: Request, body: bytes, _now: datetime) -> str:
    _one_of([request.header("x-hub-signature-256")], "sha256=" + _hex(secret, body), "x-hub-signature-256")
    return hashlib.sha256(body).hexdigest()


_BY_KIND: dict[str, Callable[[str, Request, bytes, datetime], str]] = {
    "standard": _standard,
    "slack": _slack,
    "whatsapp": _hub,
    "github": _hub,
}


def _recent(text: str, now: datetime, name: str) -> datetime:
    """Errors: Unauthenticated."""
    if not (text.isascii() and text.isdigit() and len(text) <= 12 and int(text) <= _LATEST):
        raise Unauthenticated(f"this event isn't signed: {name} must be a time in seconds since 1970")
    at = datetime.fromtimestamp(int(text), UTC)
    if abs(now - at) > TOLERANCE:
        raise Unauthenticated(f"this event is older, or newer, than five minutes by its {name}: it isn't taken")
    return at


def _hex(secret: str, signed_bytes: bytes) -> str:
    return hmac.new(secret.encode(), signed_bytes, hashlib.sha256).hexdigest()


def _one_of(given: list[str], expected: str, name: str) -> None:
    """Errors: Unauthenticated."""
    if not any(hmac.compare_digest(each.encode("utf-8", "replace"), expected.encode()) for each in given):
        raise Unauthenticated(
            f"{name} doesn't fit this event: is the hook's secret the one that its sender signs with?"
        )
