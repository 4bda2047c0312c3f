"""The door: mesh.keys.v1.Receipts."""

from datetime import datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from mesh.keys.v1 import receipts_pb2, receipts_pb2_grpc

from keys.audit import Actor
from keys.receipts import ReceiptKey, Receipts


class ReceiptsServicer(receipts_pb2_grpc.ReceiptsServicer):
    """Signatures, and the keys that verify them."""

    def __init__(self, receipts: Receipts) -> None:
        self._receipts = receipts

    async def SignReceipt(
        self, request: receipts_pb2.SignReceiptRequest, _context: Any
    ) -> receipts_pb2.SignReceiptResponse:
        return receipts_pb2.SignReceiptResponse(jws=await self._receipts.sign(request.payload))

    async def ListReceiptKeys(
        self, _request: receipts_pb2.ListReceiptKeysRequest, _context: Any
    ) -> receipts_pb2.ListReceiptKeysResponse:
        return receipts_pb2.ListReceiptKeysResponse(keys=[_to_wire(key) for key in await self._receipts.keys()])

    async def RotateReceiptKey(
        self, request: receipts_pb2.RotateReceiptKeyRequest, _context: Any
    ) -> receipts_pb2.RotateReceiptKeyResponse:
        actor = Actor(request.actor_key_id, request.actor_organization_id)
        return receipts_pb2.RotateReceiptKeyResponse(key=_to_wire(await self._receipts.rotate(actor)))


def _to_wire(key: ReceiptKey) -> receipts_pb2.ReceiptKey:
    return receipts_pb2.ReceiptKey(
        id=key.id,
        public_key=key.public,
        created_at=_timestamp(key.created_at),
        retired_at=_timestamp(key.retired_at) if key.retired_at else None,
    )


def _timestamp(moment: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp
