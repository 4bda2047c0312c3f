"""edge.identity: tokens that the executor signs."""

import base64
import hashlib
import hmac
from datetime import UTC, datetime, timedelta

import pytest
from mesh.ledger.v1 import ledger_pb2
from mesh.runs.v1 import identity_pb2

from edge.identity import identifier
from edge.model import Budget
from kit.clock import FakeClock

KEY = b"k" * 32
NOW = datetime(2030, 1, 1, tzinfo=UTC)


def encoded(*parts: bytes) -> str:
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


def token(payload: bytes, key: bytes = KEY) -> str:
    return encoded(payload, hmac.digest(key, payload, hashlib.sha256))


def payload(seconds: float = 10) -> bytes:
    run = identity_pb2.RunIdentity(
        run_id="run_1",
        root_id="run_0",
        acting_id="org_a",
        caller_id="org_c",
        depth=3,
        correlation_id="c",
        owner_id="org_o",
        service_id="greet",
        requester_id="org_r",
        may_deploy=True,
        budgets=[ledger_pb2.Budget(id="key:key_0", limit=5), ledger_pb2.Budget(id="run:run_0", limit=0)],
        paying_key_id="key_0",
        charged_on_success=True,
        above_ids=["run_0", "run_1"],
    )
    run.deadline.FromDatetime(NOW + timedelta(seconds=seconds))
    return run.SerializeToString()


async def test_a_valid_one_until_its_deadline() -> None:
    clock = FakeClock(NOW)
    identify = identifier(KEY, clock)
    run = identify(token(payload()))
    assert run is not None
    assert (run.run_id, run.root_id, run.acting_id, run.caller_id, run.depth) == ("run_1", "run_0", "org_a", "org_c", 3)
    assert (run.owner_id, run.service_id, run.requester_id, run.may_deploy) == ("org_o", "greet", "org_r", True)
    assert run.budgets == (Budget("key:key_0", 5), Budget("run:run_0", 0))
    assert (run.paying_key_id, run.charged_on_success, run.above) == ("key_0", True, ("run_0", "run_1"))
    await clock.advance(10)
    assert identify(token(payload())) is None


@pytest.mark.parametrize(
    "bad",
    [
        "",
        ".",
        "none",
        "a.b",
        "!.!",
        "é.é",
        token(payload(), key=b"x" * 32),
        encoded(payload(), b""),
        token(payload()) + "A",
        "A" + token(payload()),
        token(b"\xff\xff"),
        token(b""),
        token(payload(-1)),
        "x" * 10_000,
    ],
)
def test_others_are_nobody(bad: str) -> None:
    assert identifier(KEY, FakeClock(NOW))(bad) is None
