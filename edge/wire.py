"""Between protobuf and model.py; pure. What runs need is in run_wire.py."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime

from google.api.httpbody_pb2 import HttpBody
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp
from mesh.filestore.v1 import files_pb2
from mesh.keys.v1 import keys_pb2, secrets_pb2
from mesh.ledger.v1 import ledger_pb2
from mesh.runs.v1 import identity_pb2
from mesh.workflows.v1 import workflows_pb2

from edge.model import (
    LIMITS,
    ApiKey,
    Binding,
    Budget,
    Check,
    Principal,
    Prompt,
    Rates,
    RunIdentity,
    SecretInfo,
    Upload,
    Version,
    Workflow,
)

_KINDS = {keys_pb2.KEY_KIND_STANDARD: "standard", keys_pb2.KEY_KIND_ONE_TIME: "one_time"}
_KIND_NUMBERS = {name: number for number, name in _KINDS.items()}
_VISIBILITIES = {
    workflows_pb2.VISIBILITY_PRIVATE: "private",
    workflows_pb2.VISIBILITY_PUBLIC: "public",
    workflows_pb2.VISIBILITY_TEMPLATE: "template",
    workflows_pb2.VISIBILITY_OPEN: "open",
}
_VISIBILITY_NUMBERS = {name: number for number, name in _VISIBILITIES.items()}


def moment(stamp: Timestamp) -> datetime:
    return stamp.ToDatetime(UTC)


def to_timestamp(time: datetime | None) -> Timestamp | None:
    if time is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(time)
    return stamp


def from_principal(message: keys_pb2.Principal) -> Principal:
    return Principal(
        key_id=message.key_id,
        organization_id=message.organization_id,
        kind=_KINDS.get(message.kind, ""),
        scopes=frozenset(message.scopes),
        first_organization=message.first_organization,
        bind=_bind(message),
        budget=Budget(message.budget.id, message.budget.limit) if message.HasField("budget") else None,
        rates=from_rates(message.rates),
        lineage_id=message.lineage_id,
    )


def from_verified(reply: keys_pb2.VerifyResponse) -> Principal:
    """With what there is to spend."""
    return replace(
        from_principal(reply.principal),
        credit=reply.credit if reply.HasField("credit") else None,
        budget_left=reply.budget_left if reply.HasField("budget_left") else None,
    )


def _bind(message: keys_pb2.Principal | keys_pb2.Key) -> Binding | None:
    if not message.HasField("bind"):
        return None
    return Binding(message.bind.service_id, message.bind.path, message.bind.body_sha256)


def to_bind(bind: Binding | None) -> keys_pb2.Binding | None:
    return keys_pb2.Binding(**vars(bind)) if bind else None


def from_rates(message: keys_pb2.Rates) -> Rates:
    return Rates(**{name.name: number for name, number in message.ListFields()})


def to_budgets(budgets: Iterable[Budget]) -> list[ledger_pb2.Budget]:
    return [ledger_pb2.Budget(id=one.id, limit=one.limit) for one in budgets]


def to_principal(principal: Principal) -> keys_pb2.Principal:
    return keys_pb2.Principal(
        key_id=principal.key_id,
        organization_id=principal.organization_id,
        kind=_KIND_NUMBERS.get(principal.kind, keys_pb2.KEY_KIND_UNSPECIFIED),
        scopes=sorted(principal.scopes),
        first_organization=principal.first_organization,
        bind=to_bind(principal.bind),
        budget=ledger_pb2.Budget(**vars(principal.budget)) if principal.budget else None,
        rates=keys_pb2.Rates(**vars(principal.rates)),
        lineage_id=principal.lineage_id,
    )


def to_key_kind(kind: str) -> keys_pb2.KeyKind.ValueType:
    return _KIND_NUMBERS[kind]


def from_key(message: keys_pb2.Key) -> ApiKey:
    return ApiKey(
        id=message.id,
        name=message.name,
        kind=_KINDS.get(message.kind, ""),
        prefix=message.prefix,
        scopes=tuple(message.scopes),
        created_at=moment(message.created_at),
        expires_at=moment(message.expires_at) if message.HasField("expires_at") else None,
        revoked_at=moment(message.revoked_at) if message.HasField("revoked_at") else None,
        bind=_bind(message),
        budget=message.budget if message.HasField("budget") else None,
        budget_used=message.budget_used,
        rates=from_rates(message.rates),
    )


def from_secret(message: secrets_pb2.SecretInfo) -> SecretInfo:
    return SecretInfo(message.name, moment(message.updated_at), tuple(message.hosts))


def from_workflow(message: workflows_pb2.Workflow) -> Workflow:
    return Workflow(
        organization_id=message.organization_id,
        service_id=message.service_id,
        name=message.name,
        kind=message.kind,
        version=message.version,
        visibility=_VISIBILITIES.get(message.visibility, ""),
        limits={name: getattr(message.limits, name) for name in LIMITS},
        openapi=message.openapi,
        created_at=moment(message.created_at),
        updated_at=moment(message.updated_at),
        published=message.published,
        traffic=tuple(sorted(message.traffic.items())),
    )


def from_version(message: workflows_pb2.Version) -> Version:
    return Version(message.id, message.number, message.source_digest, message.python, moment(message.created_at))


def from_prompt(message: workflows_pb2.Prompt) -> Prompt:
    return Prompt(message.template, message.model, message.parameters, message.web_search, tuple(message.variables))


def to_prompt(prompt: Prompt) -> workflows_pb2.Prompt:
    return workflows_pb2.Prompt(
        template=prompt.template, model=prompt.model, parameters=prompt.parameters, web_search=prompt.web_search
    )


def to_visibility(name: str) -> workflows_pb2.Visibility.ValueType:
    return _VISIBILITY_NUMBERS.get(name, workflows_pb2.VISIBILITY_UNSPECIFIED)


def from_check(message: workflows_pb2.Check) -> Check:
    return Check(message.check, message.passed, message.detail, message.line)


def from_upload(message: files_pb2.CreateFileResponse) -> Upload:
    return Upload(message.upload_uri, message.download_uri, dict(message.upload_headers))


def from_identity(payload: bytes) -> RunIdentity | None:
    """A serialized mesh.runs.v1.RunIdentity; None for garbage."""
    try:
        message = identity_pb2.RunIdentity.FromString(payload)
    except DecodeError:
        return None
    return RunIdentity(
        run_id=message.run_id,
        root_id=message.root_id,
        acting_id=message.acting_id,
        caller_id=message.caller_id,
        depth=message.depth,
        correlation_id=message.correlation_id,
        traceparent=message.traceparent,
        deadline=moment(message.deadline),
        owner_id=message.owner_id,
        service_id=message.service_id,
        requester_id=message.requester_id,
        may_deploy=message.may_deploy,
        budgets=tuple(Budget(one.id, one.limit) for one in message.budgets),
        paying_key_id=message.paying_key_id,
        charged_on_success=message.charged_on_success,
        above=tuple(message.above_ids),
    )


def to_frame(data: bytes, head: str = "") -> bytes:
    """A serialized HttpBody. The first one bears the head (edge.head.answer_head): its content type is all of a message
    that Lua gets to see.
    """
    return bytes(HttpBody(content_type=head, data=data).SerializeToString())


NOTHING = b""
"""An HttpBody without data."""

BROKEN = b"\xff\xff"
"""No HttpBody: Envoy's transcoder, which can't read it, resets the caller's stream. Ending the rpc with an error would
end the answer cleanly, as if it were whole (docs/decisions/0002).
"""
