"""The signed identity of a run, as the executor makes it for the internal listener (mesh.runs.v1.RunIdentity).

base64url(message) "." base64url(HMAC-SHA256(mesh key, message)), both without padding.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable

from edge.model import RunIdentity
from edge.wire import from_identity
from kit.clock import Clock

MAX_TOKEN_LENGTH = 4096


def identifier(mesh_key: bytes, clock: Clock) -> Callable[[str], RunIdentity | None]:
    """A function from a token to its run: None for one that is garbled, forged or past its deadline."""

    def identify(token: str) -> RunIdentity | None:
        payload = _signed(mesh_key, token)
        if payload is None:
            return None
        run = from_identity(payload)
        return run if run is not None and run.deadline > clock.now() else None

    return identify


def _signed(key: bytes, token: str) -> bytes | None:
    if len(token) > MAX_TOKEN_LENGTH or not token.isascii():
        return None
    text, _, signature = token.partition(".")
    try:
        payload, given = _unpadded(text), _unpadded(signature)
    except (binascii.Error, ValueError):
        return None
    expected = hmac.digest(key, payload, hashlib.sha256)
    return payload if hmac.compare_digest(expected, given) else None


def _unpadded(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
