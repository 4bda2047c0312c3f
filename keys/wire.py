"""Protobuf ⇄ model."""

from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from mesh.events.v1 import events_pb2
from mesh.keys.v1 import keys_pb2, secrets_pb2
from mesh.ledger.v1 import ledger_pb2

from keys.audit import Actor
from keys.issue import Issued
from keys.limits import Binding, Budget, Rates
from keys.model import Key, KeyKind, Page, Principal, Resolved, SecretInfo, Verified
from keys.organizations import Created
from kit.errors import Invalid

_KINDS = {KeyKind.STANDARD: keys_pb2.KEY_KIND_STANDARD, KeyKind.ONE_TIME: keys_pb2.KEY_KIND_ONE_TIME}
_KIND_OF = {number: kind for kind, number in _KINDS.items()}
_NO_RATES = Rates()
_NOTHING: Mapping[str, int] = MappingProxyType({})


def kind_from_wire(kind: keys_pb2.KeyKind.ValueType) -> KeyKind:
    """Errors: Invalid for UNSPECIFIED and unknown ones."""
    if kind not in _KIND_OF:
        raise Invalid("kind must be standard or one_time")
    return _KIND_OF[kind]


def time_from_wire(request: keys_pb2.IssueKeyRequest) -> datetime | None:
    """`expires_at`, if there is one. Errors: Invalid for a time that no calendar has."""
    if not request.HasField("expires_at"):
        return None
    try:
        return request.expires_at.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise Invalid("expires_at is no time between the years 1 and 9999") from error


def principal_from_wire(message: keys_pb2.Principal) -> Principal:
    """Errors: Invalid for one without organization or kind."""
    if not message.organization_id:
        raise Invalid("the issuer has no organization")
    return Principal(
        message.key_id,
        message.organization_id,
        kind_from_wire(message.kind),
        tuple(message.scopes),
        message.first_organization,
        bind_from_wire(message),
        Budget(message.budget.id, message.budget.limit) if message.HasField("budget") else None,
        rates_from_wire(message.rates),
        _organization_rates(message.rates),
        message.lineage_id,
    )


def bind_from_wire(message: keys_pb2.Principal | keys_pb2.IssueKeyRequest) -> Binding | None:
    if not message.HasField("bind"):
        return None
    bind = message.bind
    return Binding(bind.service_id, bind.path, bind.body_sha256)


def budget_from_wire(request: keys_pb2.IssueKeyRequest) -> int | None:
    return request.budget if request.HasField("budget") else None


def rates_from_wire(message: keys_pb2.Rates | keys_pb2.SetRatesRequest) -> Rates:
    return Rates(
        message.per_second if message.HasField("per_second") else None,
        message.api_per_minute if message.HasField("api_per_minute") else None,
    )


def _organization_rates(message: keys_pb2.Rates) -> Rates:
    return Rates(
        message.organization_per_second if message.HasField("organization_per_second") else None,
        message.organization_api_per_minute if message.HasField("organization_api_per_minute") else None,
    )


def actor_from_wire(message: keys_pb2.CreateOrganizationRequest | keys_pb2.SetRatesRequest) -> Actor:
    return Actor(message.actor_key_id, message.actor_organization_id)


def principal_to_wire(principal: Principal) -> keys_pb2.Principal:
    return keys_pb2.Principal(
        key_id=principal.key_id,
        organization_id=principal.organization_id,
        kind=_KINDS[principal.kind],
        scopes=principal.scopes,
        first_organization=principal.first_organization,
        bind=_bind(principal.bind),
        budget=ledger_pb2.Budget(**vars(principal.budget)) if principal.budget else None,
        rates=_rates(principal.rates, principal.organization_rates),
        lineage_id=principal.lineage_id,
    )


def verified_to_wire(verified: Verified, credit: int | None, budget_left: int | None) -> keys_pb2.VerifyResponse:
    return keys_pb2.VerifyResponse(
        principal=principal_to_wire(verified.principal), credit=credit, budget_left=budget_left
    )


def _bind(bind: Binding | None) -> keys_pb2.Binding | None:
    return keys_pb2.Binding(**vars(bind)) if bind else None


def _rates(rates: Rates, organization: Rates = _NO_RATES) -> keys_pb2.Rates:
    return keys_pb2.Rates(
        per_second=rates.per_second,
        api_per_minute=rates.api_per_minute,
        organization_per_second=organization.per_second,
        organization_api_per_minute=organization.api_per_minute,
    )


def key_to_wire(key: Key, used: Mapping[str, int] = _NOTHING) -> keys_pb2.Key:
    """`used`: of budgets, by their ids."""
    return keys_pb2.Key(
        id=key.id,
        organization_id=key.organization_id,
        name=key.name,
        kind=_KINDS[key.kind],
        prefix=key.prefix,
        scopes=key.scopes,
        created_at=_time(key.created_at),
        expires_at=_time(key.expires_at) if key.expires_at else None,
        revoked_at=_time(key.revoked_at) if key.revoked_at else None,
        bind=_bind(key.bind),
        budget=key.budget.limit if key.budget else None,
        budget_used=used.get(key.budget.id, 0) if key.budget else 0,
        rates=_rates(key.rates),
    )


def issued_to_wire(issued: Issued) -> keys_pb2.IssueKeyResponse:
    return keys_pb2.IssueKeyResponse(key=key_to_wire(issued.key), secret=issued.secret)


def rotated_to_wire(issued: Issued) -> keys_pb2.RotateKeyResponse:
    return keys_pb2.RotateKeyResponse(key=key_to_wire(issued.key), secret=issued.secret)


def keys_to_wire(page: Page[Key], used: Mapping[str, int]) -> keys_pb2.ListKeysResponse:
    return keys_pb2.ListKeysResponse(keys=[key_to_wire(key, used) for key in page.items], next=page.next)


def created_to_wire(created: Created) -> keys_pb2.CreateOrganizationResponse:
    return keys_pb2.CreateOrganizationResponse(
        organization_id=created.organization.id,
        name=created.organization.name,
        key=key_to_wire(created.first_key.key),
        secret=created.first_key.secret,
    )


def secrets_to_wire(page: Page[SecretInfo]) -> secrets_pb2.ListSecretsResponse:
    items = [
        secrets_pb2.SecretInfo(name=secret.name, hosts=secret.hosts, updated_at=_time(secret.updated_at))
        for secret in page.items
    ]
    return secrets_pb2.ListSecretsResponse(secrets=items, next=page.next)


def resolved_to_wire(resolved: Mapping[str, Resolved]) -> secrets_pb2.ResolveSecretsResponse:
    """What has hosts isn't among the values."""
    return secrets_pb2.ResolveSecretsResponse(
        values={name: secret.value for name, secret in resolved.items() if not secret.hosts},
        fill_ins={
            name: secrets_pb2.FillIn(value=secret.value, hosts=secret.hosts)
            for name, secret in resolved.items()
            if secret.hosts
        },
    )


def key_revoked(key_id: str) -> tuple[str, Message]:
    """(subject, event)"""
    return "event.key.revoked", events_pb2.KeyRevoked(key_id=key_id)


def secret_changed(organization_id: str, name: str) -> tuple[str, Message]:
    """(subject, event)"""
    return "event.secret.changed", events_pb2.SecretChanged(organization_id=organization_id, name=name)


def _time(value: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(value)
    return stamp
