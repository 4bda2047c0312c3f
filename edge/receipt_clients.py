"""What receipts use of the mesh: the adapter of the port that receipts.py declares."""

import base64

import grpc
from mesh.keys.v1 import receipts_pb2, receipts_pb2_grpc

from edge.model import Principal
from edge.receipts import ReceiptKey
from edge.run_wire import from_time
from kit.rpc_client import unary


class SignerClient:
    """receipts.Signer."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = receipts_pb2_grpc.ReceiptsStub(channel)

    async def sign(self, payload: bytes) -> str:
        request = receipts_pb2.SignReceiptRequest(payload=payload)
        return (await unary(self._stub.SignReceipt, request, retry=True)).jws

    async def keys(self) -> list[ReceiptKey]:
        reply = await unary(self._stub.ListReceiptKeys, receipts_pb2.ListReceiptKeysRequest(), retry=True)
        return [_key(key) for key in reply.keys]

    async def rotate(self, who: Principal) -> ReceiptKey:
        request = receipts_pb2.RotateReceiptKeyRequest(
            actor_key_id=who.key_id, actor_organization_id=who.organization_id
        )
        return _key((await unary(self._stub.RotateReceiptKey, request)).key)


def _key(key: receipts_pb2.ReceiptKey) -> ReceiptKey:
    x = base64.urlsafe_b64encode(key.public_key).rstrip(b"=").decode()
    retired_at = from_time(key.retired_at) if key.HasField("retired_at") else None
    return ReceiptKey(key.id, x, from_time(key.created_at), retired_at)
