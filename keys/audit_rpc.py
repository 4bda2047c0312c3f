"""The door: mesh.ledger.v1.Audit."""

import json
from datetime import datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from mesh.ledger.v1 import audit_pb2, audit_pb2_grpc

from keys.audit import Audit, Entry


class AuditServicer(audit_pb2_grpc.AuditServicer):
    """The audit log, to be read."""

    def __init__(self, audit: Audit) -> None:
        self._audit = audit

    async def ListAudit(self, request: audit_pb2.ListAuditRequest, _context: Any) -> audit_pb2.ListAuditResponse:
        page = await self._audit.page(request.organization_id, request.limit, request.after)
        return audit_pb2.ListAuditResponse(entries=[_to_wire(entry) for entry in page.items], next=page.next)


def _to_wire(entry: Entry) -> audit_pb2.AuditEntry:
    return audit_pb2.AuditEntry(
        id=entry.id,
        at=_timestamp(entry.at),
        actor_key_id=entry.actor_key_id,
        actor_organization_id=entry.actor_organization_id,
        act=entry.act,
        subject=entry.subject,
        data=json.dumps(dict(entry.data)),
    )


def _timestamp(moment: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp
