"""GET /request/{id}/receipt (SPEC §9.8), and the keys that verify what it gives."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from edge.http import Answer, Request, json_answer
from edge.model import Principal, iso
from edge.problems import failure
from edge.reading import Reading, request_id
from edge.record import usage_of
from edge.run_model import RunRecord, VersionOf
from kit.clock import Clock

FORMAT = "runmesh.receipt.v1"
# What a run has called is reported by whichever executor had it, up to so long after the run itself.
WRITTEN_DOWN = timedelta(seconds=2)


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
        """`{"receipt", "jws"}`, to whoever may see the run; 408 while anything that it tells may change. Errors:
        NotFound.
        """
        record = await self._reading.find(request, summary=True)
        if why := _unfinished(record, self._clock.now()):
            detail = f"{why}: ask again later"
            return failure("pending", detail, request_id=request_id(request), retry_after=1)
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


def _unfinished(record: RunRecord, now: datetime) -> str:
    """Why there is no receipt yet; empty when there is."""
    if not record.status.over:
        return "the run has not ended yet, and its receipt tells how it did"
    if record.cost_open:
        return "something that the run has called goes on, or isn't charged yet, and its receipt tells all that it cost"
    if record.completed_at is not None and now - record.completed_at < WRITTEN_DOWN:
        return "the run has just ended, and what it has called is still being written down"
    return ""


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
