"""`runmesh verify-receipt`: whether a receipt is genuine, without any mesh."""

import base64
import binascii
import json
import sys
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

TYPE = "runmesh-receipt"


class NotGenuine(Exception):
    """Says why."""


def verify(receipt: Path, keys: Path) -> int:
    """Prints the receipt that was signed. Exit status 0: it is genuine; 1: it isn't; 2: a file can't be read."""
    try:
        document, jwks = _read(receipt), _read(keys)
    except (OSError, ValueError) as error:
        print(f"can't be read: {error}", file=sys.stderr)
        return 2
    try:
        told = verified(document, jwks)
    except NotGenuine as reason:
        print(f"NOT GENUINE: {reason}", file=sys.stderr)
        return 1
    print(json.dumps(told, indent=2, ensure_ascii=False))
    return 0


def verified(document: Any, jwks: Any) -> dict[str, Any]:
    """What a receipt says, by its signature (RFC 7515, RFC 8037): the answer of /request/{id}/receipt, and the key set
    of /.well-known/jwks.json. Errors: NotGenuine.
    """
    text = document.get("jws") if isinstance(document, dict) else document
    parts = text.split(".") if isinstance(text, str) else []
    if len(parts) != 3:
        raise NotGenuine("it has no signature: it must be what /request/{id}/receipt answered, or its `jws`")
    header, payload, signature = _json(parts[0]), _json(parts[1]), _bytes(parts[2])
    if header.get("alg") != "EdDSA" or header.get("typ") != TYPE or "crit" in header:
        raise NotGenuine("it is signed in another way than receipts are")
    key = _key(jwks, header.get("kid"))
    try:
        key.verify(signature, f"{parts[0]}.{parts[1]}".encode())
    except InvalidSignature:
        raise NotGenuine("the signature doesn't fit: it was changed, or somebody else made it") from None
    if isinstance(document, dict) and document.get("receipt", payload) != payload:
        raise NotGenuine("`receipt` isn't what was signed: it was changed")
    return payload


def _key(jwks: Any, kid: Any) -> Ed25519PublicKey:
    keys = jwks.get("keys") if isinstance(jwks, dict) else None
    for key in keys if isinstance(keys, list) else []:
        if isinstance(key, dict) and key.get("kid") == kid and key.get("crv") == "Ed25519":
            try:
                return Ed25519PublicKey.from_public_bytes(_bytes(key.get("x")))
            except ValueError:
                break
    raise NotGenuine(
        f"the key {str(kid)[:60]!r}, which is said to have signed it, isn't in the key set: fetch that again, "
        "as each new key is added to it"
    )


def _json(part: str) -> dict[str, Any]:
    try:
        value = json.loads(_bytes(part))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise NotGenuine("it isn't well-formed")
    return value


def _bytes(text: Any) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError, TypeError):
        raise NotGenuine("it isn't well-formed") from None


def _read(path: Path) -> Any:
    return json.loads(sys.stdin.read() if str(path) == "-" else path.read_text())
