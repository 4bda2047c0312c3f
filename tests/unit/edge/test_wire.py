"""edge.wire: what is sent to the mesh means what the model says."""

from dataclasses import replace
from datetime import UTC, datetime

from mesh.keys.v1 import keys_pb2
from mesh.workflows.v1 import workflows_pb2

from edge import wire
from edge.model import LIMITS, Binding, Budget, Principal, Rates


def test_a_principal_there_and_back() -> None:
    principal = Principal("key_1", "org_1", "one_time", frozenset({"run", "files"}), True)
    assert wire.from_principal(wire.to_principal(principal)) == principal
    full = replace(principal, bind=Binding("greet", "/a", "0" * 64), budget=Budget("key:key_0", 0))
    full = replace(full, rates=Rates(1, None, None, 0), lineage_id="key:key_0")
    assert wire.from_principal(wire.to_principal(full)) == full


def test_what_there_is_to_spend_is_told_or_not() -> None:
    reply = keys_pb2.VerifyResponse(principal=keys_pb2.Principal(key_id="key_1"))
    found = wire.from_verified(reply)
    assert (found.key_id, found.credit, found.budget_left) == ("key_1", None, None)
    reply.credit, reply.budget_left = -1, 0
    found = wire.from_verified(reply)
    assert (found.credit, found.budget_left) == (-1, 0)


def test_a_keys_budget_is_there_or_not() -> None:
    message = keys_pb2.Key(id="key_1", budget=0, budget_used=3, bind=keys_pb2.Binding(path="/"))
    key = wire.from_key(message)
    assert (key.bind, key.budget, key.budget_used, key.rates) == (Binding(path="/"), 0, 3, Rates())
    plain = wire.from_key(keys_pb2.Key(id="key_1", rates=keys_pb2.Rates(per_second=4)))
    assert (plain.bind, plain.budget, plain.rates) == (None, None, Rates(4, None))


def test_a_keys_times_are_there_or_not() -> None:
    message = keys_pb2.Key(id="key_1", kind=keys_pb2.KEY_KIND_STANDARD)
    key = wire.from_key(message)
    assert (key.kind, key.expires_at, key.revoked_at) == ("standard", None, None)
    moment = datetime(2030, 1, 1, tzinfo=UTC)
    message.revoked_at.FromDatetime(moment)
    assert wire.from_key(message).revoked_at == moment


def test_a_principals_rates_are_there_or_not() -> None:
    message = keys_pb2.Principal(key_id="key_1", organization_id="org_1", kind=keys_pb2.KEY_KIND_STANDARD)
    assert wire.from_principal(message).rates == Rates()
    message.rates.per_second, message.rates.organization_api_per_minute = 0, 7
    assert wire.from_principal(message).rates == Rates(per_second=0, organization_api_per_minute=7)


def test_limits_and_visibilities_are_those_of_the_proto() -> None:
    assert set(LIMITS) == {field.name for field in workflows_pb2.Limits.DESCRIPTOR.fields}
    message = workflows_pb2.Workflow(
        visibility=workflows_pb2.VISIBILITY_TEMPLATE, limits=workflows_pb2.Limits(concurrency=3)
    )
    workflow = wire.from_workflow(message)
    assert workflow.visibility == "template"
    assert workflow.limits["concurrency"] == 3
    assert wire.to_visibility("template") == workflows_pb2.VISIBILITY_TEMPLATE
    assert wire.to_visibility("") == workflows_pb2.VISIBILITY_UNSPECIFIED
