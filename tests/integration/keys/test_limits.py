"""Bindings, budgets, rates and the audit log over gRPC, on SQLite and PostgreSQL."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from mesh.keys.v1 import keys_pb2, secrets_pb2, webhooks_pb2
from mesh.ledger.v1 import audit_pb2, ledger_pb2, prices_pb2

from keys.settings import Settings
from kit.errors import Denied, Invalid, NotFound
from kit.rpc_client import unary
from tests.databases import kept
from tests.integration.keys.conftest import Service, running

STANDARD, ONE_TIME = keys_pb2.KEY_KIND_STANDARD, keys_pb2.KEY_KIND_ONE_TIME
BIND = keys_pb2.Binding(service_id="greet", path="/a%2Fb", body_sha256="0" * 64)


@pytest.fixture
async def admin(service: Service) -> keys_pb2.Principal:
    return await service.admin()


async def issue(service: Service, issuer: keys_pb2.Principal, **more: object) -> keys_pb2.IssueKeyResponse:
    request = keys_pb2.IssueKeyRequest(**({"issuer": issuer, "kind": STANDARD} | more))  # type: ignore[arg-type]
    return await unary(service.keys.IssueKey, request)


async def audit(service: Service, organization_id: str, limit: int = 0, after: str = "") -> list[audit_pb2.AuditEntry]:
    request = audit_pb2.ListAuditRequest(organization_id=organization_id, limit=limit, after=after)
    return list((await unary(service.audit.ListAudit, request)).entries)


async def test_what_a_key_is_for_is_told_when_it_is_used(service: Service, admin: keys_pb2.Principal) -> None:
    rates = keys_pb2.Rates(per_second=3)
    made = await issue(service, admin, kind=ONE_TIME, bind=BIND, budget=2**53 - 1, rates=rates)
    reply = await unary(service.keys.Verify, keys_pb2.VerifyRequest(key=made.secret))
    found = reply.principal
    assert (found.bind, found.rates) == (BIND, rates)
    assert found.budget == ledger_pb2.Budget(id=f"key:{made.key.id}", limit=2**53 - 1)
    assert (reply.HasField("budget_left"), reply.budget_left) == (True, 2**53 - 1)
    listed = await unary(service.keys.ListKeys, keys_pb2.ListKeysRequest(organization_id=admin.organization_id))
    shown = next(key for key in listed.keys if key.id == made.key.id)
    assert (shown.bind, shown.budget, shown.budget_used, shown.rates) == (BIND, 2**53 - 1, 0, rates)
    plain = await unary(service.keys.Verify, keys_pb2.VerifyRequest(key=(await issue(service, admin)).secret))
    assert not plain.HasField("budget_left")
    assert not plain.principal.HasField("bind")
    assert not plain.principal.HasField("budget")


async def test_where_runs_cost_nothing_nobody_is_out_of_credit(service: Service, admin: keys_pb2.Principal) -> None:
    poor = await unary(service.keys.CreateOrganization, keys_pb2.CreateOrganizationRequest(name="Poor"))
    spent = (await issue(service, admin, budget=0)).secret

    async def told(key: str) -> tuple[int | None, int | None]:
        reply = await unary(service.keys.Verify, keys_pb2.VerifyRequest(key=key))
        credit, left = (reply.HasField(name) for name in ("credit", "budget_left"))
        return reply.credit if credit else None, reply.budget_left if left else None

    assert await told(poor.secret) == (0, None)
    rich = (await told(spent))[0]
    assert await told(spent) == (rich, 0)
    for meter in ("cpu", "memory", "run"):
        assert await told(poor.secret) == (0, None)
        request = prices_pb2.SetPriceRequest(meter=meter, micro_credits_per_million=0)
        await unary(service.prices.SetPrice, request)
    assert await told(poor.secret) == await told(spent) == (None, None)
    later = prices_pb2.SetPriceRequest(meter="run", micro_credits_per_million=1)
    later.valid_from.FromDatetime(datetime.now(UTC) + timedelta(hours=1))
    await unary(service.prices.SetPrice, later)
    assert await told(poor.secret) == (None, None)


async def test_a_rotated_key_has_the_same_budget(service: Service, admin: keys_pb2.Principal) -> None:
    made = await issue(service, admin, kind=ONE_TIME, bind=BIND, budget=5)
    request = keys_pb2.RotateKeyRequest(issuer=admin, key_id=made.key.id)
    found = await service.verify((await unary(service.keys.RotateKey, request)).secret)
    assert (found.budget, found.bind) == (ledger_pb2.Budget(id=f"key:{made.key.id}", limit=5), BIND)


async def test_what_is_refused_leaves_nothing(service: Service, admin: keys_pb2.Principal) -> None:
    before = await audit(service, admin.organization_id)
    for bad in (
        {"bind": BIND},
        {"kind": ONE_TIME, "bind": keys_pb2.Binding()},
        {"kind": ONE_TIME, "bind": keys_pb2.Binding(path="a")},
        {"budget": -1},
        {"budget": 2**53},
        {"rates": keys_pb2.Rates(api_per_minute=0)},
    ):
        with pytest.raises(Invalid):
            await issue(service, admin, **bad)
    limited = keys_pb2.Principal()
    limited.CopyFrom(admin)
    limited.budget.CopyFrom(ledger_pb2.Budget(id="key:key_0", limit=5))
    with pytest.raises(Denied):
        await issue(service, limited)
    listed = await unary(service.keys.ListKeys, keys_pb2.ListKeysRequest(organization_id=admin.organization_id))
    assert len(listed.keys) == 1
    assert await audit(service, admin.organization_id) == before


async def test_rates_of_an_organization(service: Service, admin: keys_pb2.Principal) -> None:
    made = await unary(service.keys.CreateOrganization, keys_pb2.CreateOrganizationRequest(name="b"))
    request = keys_pb2.SetRatesRequest(organization_id=made.organization_id, api_per_minute=9)
    await unary(service.keys.SetRates, request)
    assert (await service.verify(made.secret)).rates == keys_pb2.Rates(organization_api_per_minute=9)
    assert (await service.admin()).rates == keys_pb2.Rates()
    await unary(service.keys.SetRates, keys_pb2.SetRatesRequest(organization_id=made.organization_id))
    assert (await service.verify(made.secret)).rates == keys_pb2.Rates()
    with pytest.raises(NotFound):
        await unary(service.keys.SetRates, keys_pb2.SetRatesRequest(organization_id="org_z"))


async def test_every_administrative_act_is_in_the_log(
    service: Service, settings: Settings, admin: keys_pb2.Principal
) -> None:
    first, actor = admin.organization_id, {"actor_key_id": admin.key_id}
    by_first = actor | {"actor_organization_id": first}
    made = await unary(service.keys.CreateOrganization, keys_pb2.CreateOrganizationRequest(name="b", **by_first))
    other = made.organization_id
    rates = keys_pb2.SetRatesRequest(
        organization_id=other, per_second=9, actor_key_id=admin.key_id, actor_organization_id=first
    )
    await unary(service.keys.SetRates, rates)
    key = await issue(service, admin, name="n", budget=5)
    rotate = keys_pb2.RotateKeyRequest(issuer=admin, key_id=key.key.id, overlap_seconds=60)
    successor = await unary(service.keys.RotateKey, rotate)
    revoke = keys_pb2.RevokeKeyRequest(organization_id=first, key_id=successor.key.id, **actor)
    await unary(service.keys.RevokeKey, revoke)
    put = secrets_pb2.PutSecretRequest(organization_id=first, name="TOKEN", value="s3cret", hosts=["a.b"], **actor)
    await unary(service.secrets.PutSecret, put)
    delete = secrets_pb2.DeleteSecretRequest(organization_id=first, name="TOKEN", **actor)
    await unary(service.secrets.DeleteSecret, delete)
    turn = webhooks_pb2.RotateWebhookSecretRequest(organization_id=first, **actor)
    signing = (await unary(service.webhooks.RotateWebhookSecret, turn)).secret.secret
    log = await audit(service, first)
    assert [(entry.act, entry.subject) for entry in log] == [
        ("webhook_secret.rotated", "webhook-secret"),
        ("secret.deleted", "TOKEN"),
        ("secret.put", "TOKEN"),
        ("key.revoked", successor.key.id),
        ("key.rotated", key.key.id),
        ("key.issued", key.key.id),
        ("rates.changed", other),
        ("organization.created", other),
        ("organization.created", first),
    ]
    assert {(entry.actor_key_id, entry.actor_organization_id) for entry in log[:-1]} == {(admin.key_id, first)}
    assert (log[-1].actor_key_id, log[-1].actor_organization_id) == ("", "")
    assert json.loads(log[2].data) == {"hosts": ["a.b"]}
    assert json.loads(log[5].data)["budget"] == 5
    assert [entry.act for entry in await audit(service, other)] == ["rates.changed", "organization.created"]
    assert await audit(service, first, 4, log[3].id) == log[4:8]
    assert all(abs(entry.at.ToDatetime() - log[0].at.ToDatetime()) < timedelta(minutes=1) for entry in log)
    for secret in ("s3cret", signing, key.secret, successor.secret, made.secret):
        assert secret.encode() not in b"".join(entry.SerializeToString() for entry in log)
        assert secret.encode() not in kept(settings)


async def test_the_log_survives_a_restart(settings: Settings) -> None:
    async with running(settings) as service:
        admin = await service.admin()
        await issue(service, admin)
        before = await audit(service, admin.organization_id)
    async with running(settings) as service:
        assert await audit(service, admin.organization_id) == before
        assert len(before) == 2
