"""GET /request/{id}/receipt (SPEC §9.8), and the keys that verify what it gives."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from edge.http import Answer, Request, json_answer
from edge.model import Principal, iso
from edge.reading import Reading
from edge.record import usage_of
from edge.run_model import RunRecord, VersionOf
from kit.clock import Clock
from kit.errors import Precondition

FORMAT = "runmesh.receipt.v1"


@dataclass(frozen=True)
class ReceiptKey:
    """A public key. `x`: base64url of its 32 bytes."""

    id: str
    x: str
    created_at: datetime
    retired_at: datetime | None = None


class Signer(Protocol):
    """The keys service. Errors: Unavailable."""

    async def sign(self, payload: bytes) -> str:
        """A JWS (RFC 7515, compact)."""
        ...

    async def keys(self) -> Sequence[ReceiptKey]:
        """All that there ever were, newest first."""
        ...

    async def rotate(self, who: Principal) -> ReceiptKey:
        """The one that signs from now on. Errors: Conflict."""
        ...


class Versions(Protocol):
    """The scheduler's."""

    async def version(self, version_id: str) -> VersionOf:
        """Errors: NotFound."""
        ...


class ReceiptHandlers:
    """Handlers of Runs.ReadReceipt and of mesh.edge.v1.Receipts."""

    def __init__(self, reading: Reading, versions: Versions, signer: Signer, clock: Clock) -> None:
        self._reading = reading
        self._versions = versions
        self._signer = signer
        self._clock = clock

    async def receipt(self, request: Request) -> Answer:
        """`{"receipt", "jws"}`, to whoever may see the run. Errors: NotFound; Precondition (pending) before its end."""
        record = await self._reading.find(request, summary=True)
        if not record.status.over:
            raise Precondition("the run has not ended yet, and its receipt tells how it did: ask again later")
        told = receipt_of(record, await self._version(record), self._clock.now())
        payload = json.dumps(told, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        return json_answer({"receipt": told, "jws": await self._signer.sign(payload)})

    async def jwks(self, _request: Request) -> Answer:
        """The JWK set (RFC 7517, RFC 8037)."""
        keys = [_jwk(key) for key in await self._signer.keys()]
        return json_answer({"keys": keys}, headers=[("cache-control", "public, max-age=300")])

    async def rotate(self, request: Request) -> Answer:
        """`{"kid"}`"""
        return json_answer({"kid": (await self._signer.rotate(request.who)).id})

    async def _version(self, record: RunRecord) -> VersionOf | None:
        return await self._versions.version(record.version_id) if record.version_id else None


def receipt_of(record: RunRecord, version: VersionOf | None, now: datetime) -> dict[str, Any]:
    """What is signed. Digests are SHA-256, in hex; null where there is nothing that they could be of."""
    return {
        "format": FORMAT,
        "runId": record.id,
        "organizationId": record.caller_id,
        "ownerId": record.owner_id,
        "serviceId": record.service_id,
        "versionId": record.version_id,
        "version": version.number if version else None,
        "parentId": record.parent_id or None,
        "traceId": record.trace_id or None,
        "trigger": record.trigger.text,
        "attempt": record.attempt,
        "status": record.status.text,
        "code": record.code or None,
        "responseStatus": record.answer.head.status if record.answer else None,
        "createdAt": iso(record.created_at),
        "startedAt": iso(record.started_at),
        "completedAt": iso(record.completed_at),
        "digests": {
            "code": version.source_digest if version else None,
            "lock": version.lock_digest if version else None,
            "input": record.input_sha256 or None,
            "output": record.output_sha256 or None,
            "egress": record.egress_digest or None,
        },
        "usage": usage_of(record.usage) if record.usage else None,
        "cost": {
            "own": record.cost_own,
            "nested": record.cost_nested,
            "total": record.cost_own + record.cost_nested,
            "currency": "micro_credits",
        },
        "issuedAt": iso(now),
    }


def _jwk(key: ReceiptKey) -> dict[str, Any]:
    return {
        "kty": "OKP",
        "crv": "Ed25519",
        "alg": "EdDSA",
        "use": "sig",
        "kid": key.id,
        "x": key.x,
        "created_at": iso(key.created_at),
        "retired_at": iso(key.retired_at),
    }
