"""The cryptography: secrets sealed by AES-256-GCM under a data key of their own, keys hashed by HMAC-SHA256.

A box is: version 1 · nonce (12) · the data key (32), encrypted by the KEK (+16) · nonce (12) · the value, encrypted by
the data key (+16). Both encryptions are bound to organization and name, so a box moved to another row doesn't open.
"""

import hashlib
import hmac
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_VERSION = b"\x01"
_NONCE = 12
_WRAPPED = 32 + 16
_HEAD = 1 + _NONCE + _WRAPPED + _NONCE


class Tampered(Exception):
    """A box that this place and this KEK don't open. A fault of ours or an attack, never the caller's."""


class PepperedHash:
    """HMAC-SHA256 of a key with the pepper: a stolen database alone verifies nothing."""

    def __init__(self, pepper: bytes) -> None:
        self._pepper = pepper

    def __call__(self, key: str) -> bytes:
        return hmac.new(self._pepper, key.encode(), hashlib.sha256).digest()


class Envelope:
    """Seals under a KEK of at least 32 bytes, the first 32 of which are used."""

    def __init__(self, kek: bytes) -> None:
        self._kek = AESGCM(kek[:32])

    def seal(self, organization_id: str, name: str, value: str) -> bytes:
        place = _place(organization_id, name)
        data_key = AESGCM.generate_key(bit_length=256)
        outer, inner = os.urandom(_NONCE), os.urandom(_NONCE)
        wrapped = self._kek.encrypt(outer, data_key, place)
        return _VERSION + outer + wrapped + inner + AESGCM(data_key).encrypt(inner, value.encode(), place)

    def open(self, organization_id: str, name: str, sealed: bytes) -> str:
        """Errors: Tampered."""
        place = _place(organization_id, name)
        outer, wrapped = sealed[1 : 1 + _NONCE], sealed[1 + _NONCE : 1 + _NONCE + _WRAPPED]
        inner, value = sealed[_HEAD - _NONCE : _HEAD], sealed[_HEAD:]
        if sealed[:1] != _VERSION or len(value) < 16:
            raise Tampered(f"the secret {name} of {organization_id} is no box of this version")
        try:
            data_key = self._kek.decrypt(outer, wrapped, place)
            return AESGCM(data_key).decrypt(inner, value, place).decode()
        except InvalidTag:
            raise Tampered(
                f"the secret {name} of {organization_id} does not open: moved, changed, or another KEK"
            ) from None


def _place(organization_id: str, name: str) -> bytes:
    return b"\0".join((b"runmesh.secret.1", organization_id.encode(), name.encode()))
