"""What a request means: who acts, what the workflow is given, which way in it takes."""

from dataclasses import replace
from datetime import timedelta

import pytest

from edge.calls import Call, Calls
from edge.http import Request
from edge.model import SYSTEM, Principal
from edge.run_model import Limits, Target, Trigger
from kit.clock import FakeClock
from kit.errors import Denied, Exhausted, Invalid, NotFound
from kit.names import new_id
from tests.fakes.edge_runs import CALLER, KEY, NOW, ONE_TIME, OWN_KEY, OWNER, TARGET, FakeWorkflows, a_request, nested
from tests.fakes.permits import UNLIMITED

TEMPLATE = Target(OWNER, "greet", "ver_1", "template")


async def read(request: Request, target: Target = TARGET, *, synchronous: bool = True) -> Call:
    return await Calls(FakeWorkflows(greet=target), UNLIMITED, FakeClock(NOW)).read(request, synchronous=synchronous)


async def test_a_call_says_who_what_and_where() -> None:
    call = await read(a_request("/a%2Fb/", query="x=1&x=2", method="PUT", headers={"x-correlation-id": "abc"}))
    spec = call.spec
    assert (spec.owner_id, spec.caller_id, spec.acting_id, spec.requester_id) == (OWNER, CALLER, OWNER, CALLER)
    assert (spec.request.method, spec.request.path, spec.request.query) == ("PUT", "/a%2Fb/", "x=1&x=2")
    assert (spec.service_id, spec.version_id, spec.key_id, spec.correlation_id) == ("greet", "ver_1", "key_1", "abc")
    assert (spec.trigger, spec.depth, spec.parent_id, spec.root_id) == (Trigger.API, 0, "", "")


@pytest.mark.parametrize(
    "name",
    [
        "authorization", "x-api-key", "x-goog-api-key", "x-envoy-original-path", "grpc-timeout", "trace-bin",
        "x-runmesh-run", "x-provisioned-request-id", "idempotency-key", "x-callback-url", "x-budget", "te",
        "transfer-encoding", "connection", "x-request-id", "codewords-caller-id", "x-deadline", "traceparent",
        "x-attempt", "x-scheduled-request-id", "x-http-code",
    ],
)  # fmt: skip
async def test_headers_of_the_platform_never_reach_a_workflow(name: str) -> None:
    valid = {"x-provisioned-request-id": new_id("run"), "x-callback-url": "https://a.example/", "x-budget": "1"}
    value = valid.get(name, "forged")
    call = await read(a_request(headers={name: value, "x-mine": "kept"}))
    assert call.spec.request.headers == (("host", "mesh.test"), ("x-mine", "kept"))


async def test_other_headers_reach_it_as_sent() -> None:
    request = a_request(headers={"content-type": "text/plain; charset=latin-1", "accept": "a"})
    request.headers.extend([("accept", "b"), ("x-latin", "caf\xe9")])
    assert (await read(request)).spec.request.headers == tuple(request.headers)


DEPLOYER = type(KEY)("key_1", OWNER, "standard", frozenset({"run", "deploy"}))
LIBRARY = Target(SYSTEM, "greet", "ver_1", "public")


@pytest.mark.parametrize(
    ("who", "target", "kept"),
    [
        (DEPLOYER, TARGET, True),
        (DEPLOYER, LIBRARY, True),
        (OWN_KEY, TARGET, False),
        (OWN_KEY, LIBRARY, False),
        (type(KEY)("key_1", CALLER, "standard", DEPLOYER.scopes), TARGET, False),
        (type(KEY)("key_1", CALLER, "standard", DEPLOYER.scopes), TEMPLATE, False),
        (type(KEY)("key_1", OWNER, "one_time", DEPLOYER.scopes), TARGET, False),
        (nested(may_deploy=True), TARGET, True),
        (nested(may_deploy=True), LIBRARY, True),
        (nested(may_deploy=False), TARGET, False),
        (nested(may_deploy=False), LIBRARY, False),
        (nested(may_deploy=True), Target("org_third", "greet", "ver_1", "public"), False),
        (nested(may_deploy=True), Target("org_third", "greet", "ver_1", "template"), False),
    ],
)
async def test_what_the_key_may_do_goes_down_through_its_own_organizations_code_only(
    who: Principal, target: Target, kept: bool
) -> None:
    """A template of somebody else's too, though it acts as the caller."""
    for template in ("yes", "no"):
        call = await read(a_request(who=who, headers={"run-as-template": template}), target)
        assert call.spec.may_deploy is kept


@pytest.mark.parametrize("reference", ["a/b", "a\x00b", "../x", "x" * 301, "a b", "", "\ufffd"])
async def test_a_name_that_cannot_be_is_not_found(reference: str) -> None:
    with pytest.raises(NotFound):
        await read(a_request(service=reference))


async def test_a_key_of_another_service_is_refused() -> None:
    who = type(KEY)("key_1", CALLER, "standard", frozenset({"run:other"}))
    with pytest.raises(Denied):
        await read(a_request(who=who))


@pytest.mark.parametrize(
    ("kind", "scopes", "admitted"),
    [
        ("standard", {"run"}, True),
        ("standard", {"run:greet", "files", "deploy"}, False),
        ("one_time", {"run"}, False),
        ("hook", {"run"}, False),
    ],
)
async def test_a_service_that_does_all_that_its_caller_may(
    kind: str, scopes: set[str], admitted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key for it alone, or for one run, would do more by it than its holder was given."""
    monkeypatch.setattr("edge.calls.FOR_KEYS", frozenset({"greet"}))
    who = type(KEY)("key_1", CALLER, kind, frozenset(scopes))
    if admitted:
        assert (await read(a_request(who=who), LIBRARY)).spec.service_id == "greet"
    else:
        with pytest.raises(Denied, match="standard key with the scope run"):
            await read(a_request(who=who), LIBRARY)
    assert (await read(a_request(who=who))).spec.owner_id == OWNER  # anybody's own of that name
    assert (await read(a_request(who=nested()), LIBRARY)).spec.depth == 2


async def test_a_template_runs_as_its_caller_when_asked() -> None:
    assert (await read(a_request(headers={"run-as-template": "yes"}), TEMPLATE)).spec.acting_id == CALLER
    assert (await read(a_request(), TEMPLATE)).spec.acting_id == OWNER


@pytest.mark.parametrize("service_id", ["slack_trigger", "whatsapp_trigger"])
async def test_a_library_service_that_uses_its_callers_secrets(service_id: str) -> None:
    target = Target(SYSTEM, service_id, "ver_1", "public")
    assert (await read(a_request(headers={"run-as-template": "yes"}), target)).spec.acting_id == CALLER
    assert (await read(a_request(), target)).spec.acting_id == SYSTEM
    for other in (replace(target, owner_id=OWNER), replace(target, service_id="openai")):  # it has the operator's own
        assert (await read(a_request(headers={"run-as-template": "yes"}), other)).spec.acting_id == other.owner_id


async def test_only_a_template_runs_as_its_caller() -> None:
    assert (await read(a_request(headers={"run-as-template": "yes"}))).spec.acting_id == OWNER


async def test_a_nested_call_joins_its_tree_and_its_payer_pays() -> None:
    who = nested()
    assert who.identity is not None
    spec = (await read(a_request(who=who))).spec
    assert (spec.caller_id, spec.requester_id) == (CALLER, OWNER)
    assert (spec.parent_id, spec.root_id, spec.depth) == (who.identity.run_id, who.identity.root_id, 2)
    assert (spec.trigger, spec.correlation_id) == (Trigger.NESTED, "corr-root")


async def test_a_nested_template_gets_the_secrets_of_who_asks_never_of_who_pays() -> None:
    target = Target("org_third", "greet", "ver_1", "template")
    assert (await read(a_request(who=nested(), headers={"run-as-template": "yes"}), target)).spec.acting_id == OWNER


async def test_nesting_ends_at_sixteen() -> None:
    assert (await read(a_request(who=nested(depth=15)))).spec.depth == 16
    with pytest.raises(Exhausted) as refused:
        await read(a_request(who=nested(depth=16)))
    assert refused.value.code == "too_many_runs"


@pytest.mark.parametrize(
    ("headers", "durable", "continues"),
    [
        ({}, False, False),
        ({"x-on-timeout": "kill"}, False, False),
        ({"x-on-timeout": "continue"}, True, True),
        ({"x-provisioned-request-id": new_id("run")}, True, True),
        ({"x-provisioned-request-id": new_id("run"), "x-on-timeout": "KILL"}, True, False),
        ({"idempotency-key": "mine"}, True, False),
    ],
)
async def test_the_way_in(headers: dict[str, str], durable: bool, continues: bool) -> None:
    call = await read(a_request(headers=headers))
    assert (call.durable, call.continues) == (durable, continues)


async def test_a_one_time_key_takes_the_durable_way() -> None:
    call = await read(a_request(who=ONE_TIME))
    assert call.durable
    assert call.asker.one_time_key_id == "key_3"
    assert not call.continues


async def test_how_long_it_may_take() -> None:
    target = Target(OWNER, "greet", "ver_1", "public", Limits(timedelta(seconds=5), timedelta(seconds=50), 10))
    assert (await read(a_request(), target)).timeout == timedelta(seconds=5)
    assert (await read(a_request(headers={"x-on-timeout": "continue"}), target)).timeout == timedelta(seconds=50)
    assert (await read(a_request(), target, synchronous=False)).timeout == timedelta(seconds=50)


async def test_a_call_that_a_run_waits_for_has_no_more_time_than_that_run_has_left() -> None:
    target = Target(OWNER, "greet", "ver_1", "public", Limits(timedelta(seconds=50), timedelta(hours=1)))
    for left, time in ((7, 7), (70, 50), (-1, 0)):
        call = await read(a_request(who=nested(deadline=NOW + timedelta(seconds=left))), target)
        assert call.timeout == call.limits.sync_timeout == timedelta(seconds=time)
    on_its_own = await read(a_request(who=nested(deadline=NOW)), target, synchronous=False)
    assert on_its_own.timeout == timedelta(hours=1)


async def test_retries_and_priority() -> None:
    target = Target(OWNER, "greet", "ver_1", "public", Limits(retries=3))
    plain = (await read(a_request(), target)).spec
    assert (plain.retries, plain.priority) == (3, 0)
    asked = (await read(a_request(headers={"x-retries": "0", "x-priority": "High"}), target)).spec
    assert (asked.retries, asked.priority) == (0, -1)
    assert not {"x-retries", "x-priority"} & {name for name, _ in asked.request.headers}
    assert (await read(a_request(headers={"x-priority": "low"}))).spec.priority == 1


@pytest.mark.parametrize(
    "headers",
    [
        {"idempotency-key": "x" * 256},
        {"idempotency-key": ""},
        {"idempotency-key": "  "},
        {"idempotency-key": "caf\xe9"},
        {"x-retries": "101"},
        {"x-retries": "-1"},
        {"x-retries": "\u0663"},
        {"x-priority": "urgent"},
        {"x-on-timeout": "maybe"},
        {"run-as-template": "perhaps"},
        {"x-correlation-id": "x" * 201},
        {"x-correlation-id": "caf\xe9"},
    ],
)
async def test_a_malformed_header_is_a_bad_request(headers: dict[str, str]) -> None:
    with pytest.raises(Invalid):
        await read(a_request(headers=headers))


@pytest.mark.parametrize(
    "name",
    [
        "x-retries", "x-priority", "x-callback-url", "x-record", "x-on-timeout", "x-correlation-id", "run-as-template",
        "x-provisioned-request-id",
    ],
)  # fmt: skip
async def test_other_empty_headers_mean_the_same_as_none(name: str) -> None:
    told, untold = await read(a_request(headers={name: " "})), await read(a_request())
    assert (told.spec, told.continues, told.durable) == (untold.spec, untold.continues, untold.durable)


@pytest.mark.parametrize("text", ["log.>", "run_", "run_" + "U" * 26, "*"])
async def test_a_provisioned_id_of_another_shape_is_not_found(text: str) -> None:
    with pytest.raises(NotFound):
        await read(a_request(headers={"x-provisioned-request-id": text}))


async def test_a_body_over_the_limit_is_refused_as_early_as_possible() -> None:
    target = Target(OWNER, "greet", "ver_1", "public", Limits(request_bytes=4))
    with pytest.raises(Invalid) as announced:
        await read(a_request("/", b"12345", headers={"content-length": "5"}), target)
    call = await read(a_request("/", b"123", b"45"), target)
    with pytest.raises(Invalid) as streamed:
        [chunk async for chunk in call.body]
    assert announced.value.code == streamed.value.code == "too_large"
    assert "4 bytes" in streamed.value.message
    assert "/file" in streamed.value.message


async def test_a_body_at_the_limit_passes() -> None:
    target = Target(OWNER, "greet", "ver_1", "public", Limits(request_bytes=5))
    call = await read(a_request("/", b"123", b"45", headers={"content-length": "5"}), target)
    assert [chunk async for chunk in call.body] == [b"123", b"45"]


async def test_who_wants_the_record_sent_takes_the_durable_way() -> None:
    call = await read(a_request(headers={"x-callback-url": " https://a.example/x?y=1 "}))
    assert (call.callback_url, call.durable) == ("https://a.example/x?y=1", True)
    assert not (await read(a_request(headers={"x-callback-url": ""}))).durable
    with pytest.raises(Invalid, match="X-Callback-Url"):
        await read(a_request(headers={"x-callback-url": "a.example"}))
