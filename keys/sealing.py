"""The cryptography: secrets sealed by AES-256-GCM under a data key of their own, keys hashed by HMAC-SHA256.

A box is: format 2 · id of the KEK (8) · version (8) · nonce (12) · the data key (32), encrypted by that KEK (+16) ·
nonce (12) · the value, encrypted by the data key (+16). The value is bound to organization, name and version, and to
whatever else must not be changed apart from it, so a box that was moved, or an older one that was put back, doesn't
open. The data key is bound to the KEK alone: another KEK takes over by encrypting it again, not the value.

Format 1 has neither id nor version (it is version 0), and both encryptions are bound to organization and name. It is
read, no longer written.
"""

import hashlib
import hmac
import os
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEK_BYTES = 32
ID_BYTES = 8
_TAG = 16
_NONCE = 12
_WRAPPED = 32 + _TAG
OLD_FORMAT, FORMAT = b"\x01", b"\x02"
_KEY_AT = 1 + ID_BYTES + 8
_VALUE_AT = _KEY_AT + _NONCE + _WRAPPED
_OLD_VALUE_AT = 1 + _NONCE + _WRAPPED


class Tampered(Exception):
    """A box that this place and these KEKs don't open. A fault of ours or an attack, never the caller's."""


class UnknownKek(Tampered):
    """It is sealed under a KEK that isn't among ours."""


class PepperedHash:
    """HMAC-SHA256 of a key with the pepper: a stolen database alone verifies nothing."""

    def __init__(self, pepper: bytes) -> None:
        self._pepper = pepper

    def __call__(self, key: str) -> bytes:
        return hmac.new(self._pepper, key.encode(), hashlib.sha256).digest()


def kek_id(kek: bytes) -> bytes:
    """8 bytes that tell a KEK from others, and nothing about it."""
    return hmac.new(kek, b"runmesh.kek.id", hashlib.sha256).digest()[:ID_BYTES]


def shown(id_: bytes) -> str:
    """The id of a KEK as people read it, `kek_0123456789abcdef`."""
    return f"kek_{id_.hex()}"


class Envelope:
    """Seals under the first of its KEKs, 32 bytes each, opens under any. `look_again`: all that there are by now, asked
    when a box names another; empty when nobody can tell.
    """

    def __init__(self, *keks: bytes, look_again: Callable[[], Sequence[bytes]] | None = None) -> None:
        self._look_again = look_again
        self.use(keks)

    def use(self, keks: Sequence[bytes]) -> None:
        """From now on these. Errors: ValueError for one that isn't 32 bytes."""
        if not keks or any(len(kek) != KEK_BYTES for kek in keks):
            raise ValueError("a KEK has 32 bytes")
        self._keks = {kek_id(kek): AESGCM(kek) for kek in keks}
        self.ids = tuple(self._keks)

    def seal(self, organization_id: str, name: str, value: str, *, version: int = 0, bound: str = "") -> bytes:
        """A box for this place. `version`: of what is replaced by others of the same name; `bound`: what else the value
        is only good with.
        """
        data_key = AESGCM.generate_key(bit_length=256)
        nonce = os.urandom(_NONCE)
        value_box = AESGCM(data_key).encrypt(nonce, value.encode(), _place(organization_id, name, version, bound))
        return self._head(version, data_key) + nonce + value_box

    def open(self, organization_id: str, name: str, sealed: bytes, *, version: int = 0, bound: str = "") -> str:
        """Errors: Tampered when `sealed` was made for another place or version, or was changed; UnknownKek."""
        told = f"what is sealed as {name} of {organization_id}"
        if sealed[:1] == OLD_FORMAT:
            if version:
                raise Tampered(f"{told} is an older one that was put back: version {version} is the newest")
            return self._open_old(organization_id, name, sealed, told)
        if sealed[:1] != FORMAT or len(sealed) < _VALUE_AT + _NONCE + _TAG:
            raise Tampered(f"{told} is no box: it was cut off or changed")
        (found,) = struct.unpack(">Q", sealed[1 + ID_BYTES : _KEY_AT])
        if found != version:
            raise Tampered(f"{told} is version {found}, and version {version} is the newest: another one was put there")
        data_key = self._data_key(sealed, told)
        nonce, value = sealed[_VALUE_AT : _VALUE_AT + _NONCE], sealed[_VALUE_AT + _NONCE :]
        try:
            return AESGCM(data_key).decrypt(nonce, value, _place(organization_id, name, version, bound)).decode()
        except InvalidTag:
            raise Tampered(f"{told} does not open: it was moved or changed") from None

    def rewrap(self, organization_id: str, name: str, sealed: bytes, *, bound: str = "") -> bytes:
        """The same under the first KEK; the place matters for format 1 only. Errors: Tampered, UnknownKek."""
        if sealed[:1] == OLD_FORMAT:
            return self.seal(organization_id, name, self.open(organization_id, name, sealed), bound=bound)
        told = f"what is sealed as {name} of {organization_id}"
        if sealed[:1] != FORMAT or len(sealed) < _VALUE_AT + _NONCE + _TAG:
            raise Tampered(f"{told} is no box: it was cut off or changed")
        (version,) = struct.unpack(">Q", sealed[1 + ID_BYTES : _KEY_AT])
        return self._head(version, self._data_key(sealed, told)) + sealed[_VALUE_AT:]

    def _head(self, version: int, data_key: bytes) -> bytes:
        """All that stands before the value's nonce."""
        head, nonce = FORMAT + self.ids[0], os.urandom(_NONCE)
        wrapped = self._keks[self.ids[0]].encrypt(nonce, data_key, head)
        return head + struct.pack(">Q", version) + nonce + wrapped

    def _data_key(self, sealed: bytes, told: str) -> bytes:
        head = sealed[: 1 + ID_BYTES]
        kek = self._kek(head[1:])
        if kek is None:
            raise UnknownKek(f"{told} needs the KEK {shown(head[1:])}, which isn't among ours")
        try:
            return kek.decrypt(sealed[_KEY_AT : _KEY_AT + _NONCE], sealed[_KEY_AT + _NONCE : _VALUE_AT], head)
        except InvalidTag:
            raise Tampered(f"{told} does not open: it was changed") from None

    def _kek(self, id_: bytes) -> AESGCM | None:
        if id_ not in self._keks and self._look_again is not None and (found := self._look_again()):
            self.use(found)
        return self._keks.get(id_)

    def _open_old(self, organization_id: str, name: str, sealed: bytes, told: str) -> str:
        place = b"\0".join((b"runmesh.secret.1", organization_id.encode(), name.encode()))
        nonce, wrapped = sealed[1 : 1 + _NONCE], sealed[1 + _NONCE : _OLD_VALUE_AT]
        inner, value = sealed[_OLD_VALUE_AT : _OLD_VALUE_AT + _NONCE], sealed[_OLD_VALUE_AT + _NONCE :]
        if len(value) < _TAG:
            raise Tampered(f"{told} is no box: it was cut off")
        for kek in self._keks.values():
            with suppress(InvalidTag):
                return AESGCM(kek.decrypt(nonce, wrapped, place)).decrypt(inner, value, place).decode()
        raise Tampered(f"{told} does not open: moved, changed, or under a KEK that isn't among ours")


def _place(organization_id: str, name: str, version: int, bound: str) -> bytes:
    """Each part with its length before it: no two places look the same."""
    parts = (b"runmesh.secret.2", organization_id.encode(), name.encode(), b"%d" % version, bound.encode())
    return b"".join(struct.pack(">I", len(part)) + part for part in parts)
