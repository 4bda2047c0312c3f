"""Who sends which record when. Senders are edges: they claim what is due, and say how it went."""

from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import datetime
from typing import Protocol, TypeVar

from kit.clock import Clock
from scheduler.delivery import Delivery, Settlement
from scheduler.model import Asker, Provision, Run

T = TypeVar("T")


class Delivering(Protocol):
    """The part of a write transaction that is about deliveries."""

    async def deliveries(self, ids: Collection[str]) -> list[Delivery]:
        """Those that exist, for this transaction alone until it ends."""
        ...

    async def save_deliveries(self, these: Sequence[Delivery]) -> None: ...


class Store(Protocol):
    """What the store tells of deliveries, and its transactions."""

    async def due_deliveries(
        self, now: datetime, *, without_hosts: Collection[str], without_organizations: Collection[str], limit: int
    ) -> list[str]:
        """Ids: of the organization that waits longest before others', its longest due first."""
        ...

    async def deliveries_of(self, run_id: str) -> list[Delivery]: ...

    async def write(self, work: Callable[[Delivering], Awaitable[T]]) -> T: ...


class Find(Protocol):
    """watch.Watch.get."""

    async def __call__(self, asker: Asker, request_id: str, *, content: bool = True) -> Run | Provision:
        """Errors: NotFound."""


class Deliver:
    """`retries`: seconds between attempts."""

    def __init__(self, store: Store, find: Find, retries: Sequence[float], clock: Clock) -> None:
        self._store = store
        self._find = find
        self._retries = retries
        self._clock = clock

    async def claim(
        self, *, limit: int, without_hosts: Collection[str], without_organizations: Collection[str]
    ) -> list[Delivery]:
        """What is due and nobody else's, each with one more attempt counted."""
        now = self._clock.now()
        ids = await self._store.due_deliveries(
            now, without_hosts=without_hosts, without_organizations=without_organizations, limit=limit
        )
        if not ids:  # nobody waits for a writer's turn in vain
            return []

        async def work(tx: Delivering) -> list[Delivery]:
            due = [each for each in await tx.deliveries(ids) if each.is_due(now)]
            taken = [each.claimed(now, self._retries) for each in due]
            await tx.save_deliveries(taken)
            return [each for each in taken if each.next_attempt_at is not None]

        return await self._store.write(work)

    async def settle(self, said: Settlement) -> bool:
        """Whether it was news. A delivery that went with its run is none."""

        async def work(tx: Delivering) -> bool:
            for before in await tx.deliveries([said.delivery_id]):
                after = before.settled(said, self._clock.now(), self._retries)
                if after is not before:
                    await tx.save_deliveries([after])
                    return True
            return False

        return await self._store.write(work)

    async def of(self, asker: Asker, request_id: str) -> list[Delivery]:
        """A run's, to whoever may see the run. Errors: NotFound."""
        run = await self._find(asker, request_id, content=False)
        if isinstance(run, Provision):
            return []
        return [each.shown_to(asker.organization_id) for each in await self._store.deliveries_of(run.id)]
