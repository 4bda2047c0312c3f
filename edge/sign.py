"""Signatures by Standard Webhooks (https://www.standardwebhooks.com): HMAC-SHA256 of id, time and body. Pure."""

import base64
import hashlib
import hmac
from collections.abc import Iterable
from datetime import datetime

_PREFIX = "whsec_"


def signed(secrets: Iterable[str], message_id: str, at: datetime, body: bytes) -> dict[str, str]:
    """The three headers. Each secret (`whsec_` and base64) makes a signature: receivers take any that they know."""
    seconds = str(int(at.timestamp()))
    signatures = [_signature(secret, f"{message_id}.{seconds}.".encode(), body) for secret in secrets]
    return {"webhook-id": message_id, "webhook-timestamp": seconds, "webhook-signature": " ".join(signatures)}


def _signature(secret: str, before: bytes, body: bytes) -> str:
    key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    code = hmac.new(key, before, hashlib.sha256)
    code.update(body)
    return "v1," + base64.b64encode(code.digest()).decode()
