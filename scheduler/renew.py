"""Executors' leases: renewed while they live; one that has run out is given up, and its runs go to others."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Protocol, TypeVar

from kit.clock import Clock
from kit.errors import Conflict, Invalid
from scheduler.fleet import Fleet, Lease

# An executor renews it every fifth of that, and ends its runs itself when it couldn't.
LEASE = timedelta(seconds=20)
MOST_ADDRESS = 200
T = TypeVar("T")


class Leasing(Protocol):
    """The part of a write transaction that is about leases."""

    async def lease(self, address: str) -> Lease | None: ...

    async def save_lease(self, lease: Lease, *, new: bool) -> None: ...


class Journal(Protocol):
    """`work` runs inside a write transaction; it checks before it writes."""

    async def write(self, work: Callable[[Leasing], Awaitable[T]]) -> T: ...


class Renew:
    """Takes an executor's word that it lives."""

    def __init__(self, journal: Journal, fleet: Fleet, clock: Clock) -> None:
        self._journal = journal
        self._fleet = fleet
        self._clock = clock

    async def __call__(self, said: Lease, *, first: bool = False) -> timedelta:
        """How long the lease holds from now on; `said.expires_at` isn't looked at. The `first` word of a life of an
        executor ends the one before. Errors: Invalid; Conflict when this life's runs were given away.
        """
        if not (said.address and said.incarnation) or len(said.address) > MOST_ADDRESS:
            raise Invalid("an executor has an address and an incarnation")
        lease = replace(said, expires_at=self._clock.now() + LEASE, given_up=False)

        async def work(tx: Leasing) -> None:
            before = await tx.lease(lease.address)
            if before is not None and before.incarnation == lease.incarnation and before.given_up:
                raise Conflict("the lease has run out, and its runs were given away")
            if not first and (before is None or before.incarnation != lease.incarnation):
                raise Conflict("the lease was forgotten, or a later life of this executor has come")
            await tx.save_lease(lease, new=before is None)

        await self._journal.write(work)
        self._fleet.heard(lease)
        return LEASE
