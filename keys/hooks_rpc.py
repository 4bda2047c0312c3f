"""The door: mesh.keys.v1.Hooks."""

from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from mesh.keys.v1 import hooks_pb2, hooks_pb2_grpc
from mesh.ledger.v1 import ledger_pb2

from keys.hooks import Hook, Hooks, Proof
from keys.limits import Budget


class HooksServicer(hooks_pb2_grpc.HooksServicer):
    """Inbound webhooks of organizations."""

    def __init__(self, hooks: Hooks) -> None:
        self._hooks = hooks

    async def CreateHook(self, request: hooks_pb2.CreateHookRequest, _context: Any) -> hooks_pb2.CreateHookResponse:
        budget = Budget(request.budget.id, request.budget.limit) if request.HasField("budget") else None
        proof = Proof(request.secret, request.verify_token)
        made, token = await self._hooks.create(
            request.organization_id, request.reference, request.kind, proof, request.key_id, budget
        )
        return hooks_pb2.CreateHookResponse(hook=_to_wire(made), token=token)

    async def ListHooks(self, request: hooks_pb2.ListHooksRequest, _context: Any) -> hooks_pb2.ListHooksResponse:
        page = await self._hooks.page(request.organization_id, request.limit, request.after)
        return hooks_pb2.ListHooksResponse(hooks=[_to_wire(each) for each in page.items], next=page.next)

    async def DeleteHook(self, request: hooks_pb2.DeleteHookRequest, _context: Any) -> hooks_pb2.DeleteHookResponse:
        await self._hooks.delete(request.organization_id, request.hook_id, request.actor_key_id)
        return hooks_pb2.DeleteHookResponse()

    async def OpenHook(self, request: hooks_pb2.OpenHookRequest, _context: Any) -> hooks_pb2.OpenHookResponse:
        found, proof = await self._hooks.open(request.token)
        return hooks_pb2.OpenHookResponse(hook=_to_wire(found), secret=proof.secret, verify_token=proof.verify_token)


def _to_wire(hook: Hook) -> hooks_pb2.Hook:
    stamp = Timestamp()
    stamp.FromDatetime(hook.created_at)
    return hooks_pb2.Hook(
        id=hook.id,
        organization_id=hook.organization_id,
        reference=hook.reference,
        kind=hook.kind,
        created_at=stamp,
        key_id=hook.key_id,
        budget=ledger_pb2.Budget(id=hook.budget.id, limit=hook.budget.limit) if hook.budget else None,
    )
