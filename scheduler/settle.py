"""The end of runs that somebody else than their executor decides: state and event in one transaction."""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Protocol

from scheduler.model import Event, Outcome, Run, RunEnded, Runs


class Settling(Protocol):
    """The part of a write transaction that ends runs."""

    async def runs(self, ids: Collection[str]) -> Runs: ...

    async def save(self, these: Sequence[Run]) -> None: ...

    async def tell(self, events: Iterable[Event]) -> None: ...


async def settle(tx: Settling, ids: Collection[str], outcome: Outcome, now: datetime) -> list[Run]:
    """Ends those of the runs that aren't over; returns these, as they are then."""
    before = await tx.runs(ids)
    ended = [after for run in before.values() if (after := run.ended(outcome, at=now)) is not run]
    await tx.save(ended)
    await tx.tell(RunEnded(run) for run in ended)
    return ended
