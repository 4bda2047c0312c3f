"""Protobuf ⇄ model."""

from collections.abc import Mapping
from datetime import UTC, datetime

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from mesh.events.v1 import events_pb2
from mesh.keys.v1 import keys_pb2, secrets_pb2

from keys.issue import Issued
from keys.model import Key, KeyKind, Page, Principal, Resolved, SecretInfo, Verified
from keys.organizations import Created
from kit.errors import Invalid

_KINDS = {KeyKind.STANDARD: keys_pb2.KEY_KIND_STANDARD, KeyKind.ONE_TIME: keys_pb2.KEY_KIND_ONE_TIME}
_KIND_OF = {number: kind for kind, number in _KINDS.items()}


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
    )


def principal_to_wire(principal: Principal) -> keys_pb2.Principal:
    return keys_pb2.Principal(
        key_id=principal.key_id,
        organization_id=principal.organization_id,
        kind=_KINDS[principal.kind],
        scopes=principal.scopes,
        first_organization=principal.first_organization,
    )


def verified_to_wire(verified: Verified) -> keys_pb2.VerifyResponse:
    return keys_pb2.VerifyResponse(principal=principal_to_wire(verified.principal), credit=verified.credit)


def key_to_wire(key: Key) -> keys_pb2.Key:
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
    )


def issued_to_wire(issued: Issued) -> keys_pb2.IssueKeyResponse:
    return keys_pb2.IssueKeyResponse(key=key_to_wire(issued.key), secret=issued.secret)


def rotated_to_wire(issued: Issued) -> keys_pb2.RotateKeyResponse:
    return keys_pb2.RotateKeyResponse(key=key_to_wire(issued.key), secret=issued.secret)


def keys_to_wire(page: Page[Key]) -> keys_pb2.ListKeysResponse:
    return keys_pb2.ListKeysResponse(keys=[key_to_wire(key) for key in page.items], next=page.next)


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
