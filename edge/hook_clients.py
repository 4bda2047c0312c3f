"""hooks.HookRegister over rpc."""

import grpc
from mesh.keys.v1 import hooks_pb2, hooks_pb2_grpc
from mesh.ledger.v1 import ledger_pb2

from edge.hooks import Hook, Proof
from edge.model import Budget, Principal
from edge.wire import moment
from kit.rpc_client import unary


class HooksClient:
    """hooks.HookRegister."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = hooks_pb2_grpc.HooksStub(channel)

    async def create(self, who: Principal, service_id: str, kind: str, proof: Proof) -> tuple[Hook, str]:
        # A run's own budget is for what is below it, and what events start isn't.
        budget = next((one for one in who.budgets if one.id.startswith("key:")), None)
        request = hooks_pb2.CreateHookRequest(
            organization_id=who.organization_id,
            reference=service_id,
            kind=kind,
            secret=proof.secret,
            verify_token=proof.verify_token,
            key_id=who.paying_key_id,
            budget=ledger_pb2.Budget(id=budget.id, limit=budget.limit) if budget else None,
        )
        reply = await unary(self._stub.CreateHook, request)
        return _hook(reply.hook), reply.token

    async def list_hooks(self, organization_id: str, limit: int, after: str) -> tuple[list[Hook], str]:
        request = hooks_pb2.ListHooksRequest(organization_id=organization_id, limit=limit, after=after)
        reply = await unary(self._stub.ListHooks, request, retry=True)
        return [_hook(each) for each in reply.hooks], reply.next

    async def delete(self, who: Principal, hook_id: str) -> None:
        request = hooks_pb2.DeleteHookRequest(
            organization_id=who.organization_id, hook_id=hook_id, actor_key_id=who.paying_key_id
        )
        await unary(self._stub.DeleteHook, request)

    async def open(self, token: str) -> tuple[Hook, Proof]:
        reply = await unary(self._stub.OpenHook, hooks_pb2.OpenHookRequest(token=token), timeout=5.0, retry=True)
        return _hook(reply.hook), Proof(reply.secret, reply.verify_token)


def _hook(message: hooks_pb2.Hook) -> Hook:
    return Hook(
        id=message.id,
        organization_id=message.organization_id,
        service_id=message.reference,
        kind=message.kind,
        created_at=moment(message.created_at),
        key_id=message.key_id,
        budget=Budget(message.budget.id, message.budget.limit) if message.HasField("budget") else None,
    )
