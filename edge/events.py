"""What the edge hears on the bus: its caches forget. A lost event costs less than a second, by their own age."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from mesh.events.v1 import events_pb2

from edge.auth import Auth
from edge.targets import Targets
from kit.bus import Bus


@asynccontextmanager
async def due_heard(bus: Bus, wake: Callable[[], None]) -> AsyncIterator[None]:
    """While it lasts, `wake` is called when a record is to be delivered."""

    async def due(_subject: str, _payload: bytes) -> None:
        wake()

    async with bus.subscribed("event.delivery.due", due):
        yield


@asynccontextmanager
async def heard(bus: Bus, auth: Auth, targets: Targets) -> AsyncIterator[None]:
    """Listens while it lasts."""

    async def key_revoked(_subject: str, payload: bytes) -> None:
        await auth.revoked(events_pb2.KeyRevoked.FromString(payload).key_id)

    async def workflow_changed(_subject: str, _payload: bytes) -> None:
        targets.forget()

    async with AsyncExitStack() as stack:
        await stack.enter_async_context(bus.subscribed("event.key.revoked", key_revoked))
        await stack.enter_async_context(bus.subscribed("event.workflow.changed", workflow_changed))
        yield
