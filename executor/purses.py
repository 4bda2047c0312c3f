"""All purses of this executor: found by who pays, kept alive, emptied when they are idle."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from itertools import islice
from typing import TypeVar

from executor.bill import Budget
from executor.purse import IDLE_SECONDS, TRUSTED_SECONDS, Draw, Ledger, Purse
from kit.clock import Clock
from kit.errors import Problem, Unavailable
from kit.names import new_id
from kit.telemetry import log, tried_again

TICK_SECONDS = 1.0
KEEP_SECONDS = 10.0
# An empty purse is kept for as long: bills that name it may still be on their way to the ledger.
EMPTY_SECONDS = 120.0
MOST_PURSES = 10_000
# That the ledger is told of at once; of more than MOST_PURSES that wait for it, it hears with the executor's end.
MOST_CLOSED = 1000
# What giving everything back may take when the executor stops; after it the ledger's sweep does it.
CLOSE_SECONDS = 3.0

T = TypeVar("T")
Owner = tuple[str, tuple[Budget, ...]]


class _Heard(Ledger):
    """The ledger, and whether the last that was heard of it is that it is away."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.away = False

    async def draw(self, draw: Draw) -> int:
        return await self._told(self._ledger.draw(draw))

    async def give_back(self, give_id: str, purse_id: str, amount: int) -> None:
        await self._told(self._ledger.give_back(give_id, purse_id, amount))

    async def keep(self, incarnation: str, purse_ids: list[str], closed: list[str]) -> list[str]:
        return await self._told(self._ledger.keep(incarnation, purse_ids, closed))

    async def room(self, organization_id: str, budgets: tuple[Budget, ...]) -> int:
        return await self._told(self._ledger.room(organization_id, budgets))

    async def _told(self, answer: Awaitable[T]) -> T:
        try:
            told = await answer
        except Problem as problem:
            self.away = isinstance(problem, Unavailable)
            raise
        self.away = False
        return told


class Purses:
    """`run` is their loop. `now` gives seconds that only ever rise."""

    def __init__(self, ledger: Ledger, clock: Clock, now: Callable[[], float] = time.monotonic) -> None:
        self._ledger = _Heard(ledger)
        self._clock = clock
        self._now = now
        self._incarnation = new_id("inc")
        self._purses: dict[Owner, Purse] = {}
        # They are no more, and another has their place: runs that took from them go on.
        self._lost: list[Purse] = []
        # Forgotten; since when nobody has had to do with them.
        self._closing: dict[str, float] = {}
        self._kept_at = now()

    def of(self, organization_id: str, budgets: Iterable[Budget]) -> Purse:
        """Errors: Unavailable when there are too many that something is in."""
        owner = (organization_id, tuple(sorted(set(budgets))))
        found = self._purses.get(owner)
        if found is None or found.gone:
            if found is not None:
                self._lost.append(self._purses.pop(owner))
            if len(self._purses) >= MOST_PURSES:
                self._forget(0.0)
            if len(self._purses) >= MOST_PURSES:
                raise Unavailable("this executor has too many purses; try again in a moment")
            found = self._purses[owner] = Purse(self._ledger, self._clock, self._now, self._incarnation, *owner)
        return found

    @property
    def away(self) -> bool:
        """The ledger didn't answer when it was last asked. It is asked again until it does."""
        return self._ledger.away

    def __iter__(self) -> Iterator[Purse]:
        return iter(self._purses.values())

    def __len__(self) -> int:
        return len(self._purses)

    async def run(self) -> None:
        """For ever."""
        while True:
            await self._clock.sleep(TICK_SECONDS)
            with tried_again("purses"):
                await self.once()

    async def once(self) -> None:
        """What is due. Errors: Unavailable."""
        for purse in self._purses.values():
            if purse.free and purse.idle >= IDLE_SECONDS:
                purse.give_back()
        self._forget(EMPTY_SECONDS)
        if self.away or self._now() - self._kept_at >= KEEP_SECONDS:
            await self.keep()

    async def keep(self) -> None:
        """Says which there are, and which no more; those that were swept are forgotten. Errors: Unavailable."""
        asked_at = self._now()
        due = (purse_id for purse_id, since in self._closing.items() if asked_at - since >= EMPTY_SECONDS)
        closed = list(islice(due, MOST_CLOSED))
        known = {purse.id: purse for purse in self._purses.values() if purse.heard_at is not None}
        asking = known or closed or self.away
        swept = await self._ledger.keep(self._incarnation, list(known), closed) if asking else ()
        self._kept_at = asked_at
        for purse_id in closed:
            self._closing.pop(purse_id, None)
        for purse_id in swept:
            if purse := known.get(purse_id):
                log().warning("purse.swept", purse_id=purse_id, organization_id=purse.organization_id)
                purse.forget()
        for purse in known.values():
            purse.heard(asked_at)

    async def close(self) -> None:
        """Gives everything back that is free, as far as the ledger answers soon."""
        for purse in self._purses.values():
            purse.give_back()
        given = [asyncio.ensure_future(purse.given_back()) for purse in self._purses.values()]
        if given:
            await asyncio.wait(given, timeout=CLOSE_SECONDS)
        await asyncio.gather(*(purse.close() for purse in self._purses.values()))
        await asyncio.gather(*given, return_exceptions=True)

    def _forget(self, idle: float) -> None:
        """Those with nothing in them that nobody has had to do with for so many seconds; and those that are no more."""
        for owner, purse in list(self._purses.items()):
            empty = not (purse.free or purse.held) and purse.idle >= max(idle, 0.001)
            if empty or (purse.gone and not purse.held):
                del self._purses[owner]
                self._close(purse)
        for purse in [purse for purse in self._lost if not purse.held]:
            self._lost.remove(purse)
            self._close(purse)

    def _close(self, purse: Purse) -> None:
        """The ledger is told when no bill is on its way: what it has of it goes back then."""
        if purse.heard_at is not None and len(self._closing) < MOST_PURSES:
            self._closing[purse.id] = purse.touched_at


assert TRUSTED_SECONDS > 2 * KEEP_SECONDS
