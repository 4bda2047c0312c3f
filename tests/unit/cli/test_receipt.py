"""`runmesh verify-receipt`: genuine ones, and every way to change one."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from cli.main import app
from cli.receipt import NotGenuine, verified

PRIVATE = Ed25519PrivateKey.generate()
TOLD = {"runId": "run_1", "cost": {"own": 12}}


def encoded(value: Any) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signed(told: Any = TOLD, private: Ed25519PrivateKey = PRIVATE, **header: Any) -> str:
    head = {"alg": "EdDSA", "kid": "rck_1", "typ": "runmesh-receipt"} | header
    text = f"{encoded(head)}.{encoded(told)}"
    return f"{text}.{encoded(private.sign(text.encode()))}"


def key(kid: str = "rck_1", private: Ed25519PrivateKey = PRIVATE) -> dict[str, str]:
    return {"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": encoded(private.public_key().public_bytes_raw())}


KEYS = {"keys": [key("rck_2", Ed25519PrivateKey.generate()), key()]}


def test_a_genuine_one_tells_what_was_signed() -> None:
    assert verified({"receipt": TOLD, "jws": signed()}, KEYS) == TOLD
    assert verified(signed(), KEYS) == TOLD


@pytest.mark.parametrize(
    ("document", "keys"),
    [
        ({"receipt": TOLD | {"cost": {"own": 11}}, "jws": signed()}, KEYS),
        (".".join((signed().split(".")[0], encoded({"runId": "run_2"}), signed().split(".")[2])), KEYS),
        (signed(private=Ed25519PrivateKey.generate()), KEYS),
        (signed(kid="rck_2"), KEYS),
        (signed(kid="rck_3"), KEYS),
        (signed(alg="none"), KEYS),
        (signed(alg="HS256"), KEYS),
        (signed(typ="JWT"), KEYS),
        (signed(crit=["exp"]), KEYS),
        (signed().rpartition(".")[0] + ".", KEYS),
        (signed(told=["no object"]), KEYS),
        ("a.b", KEYS),
        ("%.%.%", KEYS),
        ({}, KEYS),
        (None, KEYS),
        (signed(), {}),
        (signed(), []),
        (signed(), {"keys": ["x", {"kid": "rck_1", "crv": "Ed25519", "x": 3}]}),
        (signed(), {"keys": [{"kid": "rck_1", "crv": "Ed25519", "x": "AAAA"}]}),
    ],
)
def test_anything_else_is_not_genuine(document: Any, keys: Any) -> None:
    with pytest.raises(NotGenuine):
        verified(document, keys)


def test_the_command(tmp_path: Path) -> None:
    receipt, keys = tmp_path / "receipt.json", tmp_path / "jwks.json"
    receipt.write_text(json.dumps({"receipt": TOLD, "jws": signed()}))
    keys.write_text(json.dumps(KEYS))
    told = CliRunner().invoke(app, ["verify-receipt", str(receipt), "--keys", str(keys)])
    assert (told.exit_code, json.loads(told.stdout)) == (0, TOLD)
    told = CliRunner().invoke(app, ["verify-receipt", "-", "--keys", str(keys)], input=receipt.read_text())
    assert told.exit_code == 0
    receipt.write_text(json.dumps({"receipt": {}, "jws": signed()}))
    told = CliRunner().invoke(app, ["verify-receipt", str(receipt), "--keys", str(keys)])
    assert (told.exit_code, told.stdout) == (1, "")
    assert "NOT GENUINE" in told.stderr
    told = CliRunner().invoke(app, ["verify-receipt", str(tmp_path / "none"), "--keys", str(keys)])
    assert told.exit_code == 2
