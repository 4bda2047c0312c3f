from datetime import UTC, datetime

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from mesh.keys.v1 import keys_pb2

from keys import wire
from keys.model import Key, KeyKind, Principal
from kit.errors import Invalid

NOW = datetime(2026, 1, 1, 12, 30, 15, 250_000, tzinfo=UTC)


@pytest.mark.parametrize("kind", list(KeyKind))
def test_a_principal_survives_the_round_trip(kind: KeyKind) -> None:
    principal = Principal("key_1", "org_a", kind, ("run", "run:x"), first_organization=True)
    assert wire.principal_from_wire(wire.principal_to_wire(principal)) == principal


def test_a_principal_without_organization_or_kind_is_refused() -> None:
    with pytest.raises(Invalid):
        wire.principal_from_wire(keys_pb2.Principal(kind=keys_pb2.KEY_KIND_STANDARD))
    with pytest.raises(Invalid):
        wire.principal_from_wire(keys_pb2.Principal(organization_id="org_a"))


def test_a_key_shows_all_but_itself() -> None:
    key = Key("key_1", "org_a", "n", KeyKind.ONE_TIME, "cwotk-abcd", ("run",), NOW, expires_at=NOW)
    message = wire.key_to_wire(key)
    assert (message.id, message.kind, list(message.scopes)) == ("key_1", keys_pb2.KEY_KIND_ONE_TIME, ["run"])
    assert message.created_at.ToDatetime(tzinfo=UTC) == NOW
    assert message.HasField("expires_at")
    assert not message.HasField("revoked_at")


def test_times_of_no_calendar_are_refused() -> None:
    assert wire.time_from_wire(keys_pb2.IssueKeyRequest()) is None
    good = Timestamp()
    good.FromDatetime(NOW)
    assert wire.time_from_wire(keys_pb2.IssueKeyRequest(expires_at=good)) == NOW
    for seconds, nanos in ((10**15, 0), (-(10**15), 0), (2**63 - 1, 0), (0, -1), (0, 2 * 10**9)):
        with pytest.raises(Invalid):
            wire.time_from_wire(keys_pb2.IssueKeyRequest(expires_at=Timestamp(seconds=seconds, nanos=nanos)))
