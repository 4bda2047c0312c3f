"""Credit that this executor has drawn, so that a run needn't ask for it: a purse for each organization and set of
budgets. What isn't needed goes back (docs/decisions/0020).
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from executor.bill import Budget
from kit.clock import Clock
from kit.errors import Exhausted, Problem, Unavailable
from kit.lifecycle import failpoint
from kit.names import new_id
from kit.telemetry import log

# Who waits longer for a draw is told that the ledger is away.
PATIENCE_SECONDS = 2.0
# What nobody has needed for so long goes back.
IDLE_SECONDS = 2.0
# The ledger sweeps a purse that it hasn't heard of for 60 s: for so long after it did we spend from it.
TRUSTED_SECONDS = 30.0
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.05, 0.5


def away() -> Unavailable:
    """Nothing has begun that needs money."""
    return Unavailable("the ledger doesn't answer; try again in a moment", retry_after=timedelta(seconds=1))


@dataclass(frozen=True)
class Draw:
    """Credit that is asked for: from `need` to `want`. It may be sent any number of times, and is drawn once."""

    id: str
    purse_id: str
    organization_id: str
    budgets: tuple[Budget, ...]
    incarnation: str
    need: int
    want: int


class Ledger(Protocol):
    """Who has the money."""

    async def draw(self, draw: Draw) -> int:
        """How much it is. Errors: Exhausted (payment_required); Conflict for a purse that is no more; Unavailable."""

    async def give_back(self, give_id: str, purse_id: str, amount: int) -> None:
        """Errors: Conflict for a purse that is no more; Unavailable."""

    async def keep(self, incarnation: str, purse_ids: list[str], closed: list[str]) -> list[str]:
        """Those that are no more. `closed`: nothing is taken from them any more. Errors: Unavailable."""

    async def room(self, organization_id: str, budgets: tuple[Budget, ...]) -> int:
        """The most that a purse could draw now. Errors: Unavailable."""


@dataclass(eq=False)
class Waiter:
    """Somebody who needs from `least` to `most`, since then (seconds of `now`)."""

    least: int
    most: int
    since: float
    given: "asyncio.Future[int]"


class Purse:
    """`free` may be taken, `held` was. All waiting is for the ledger: what is free is taken at once."""

    def __init__(
        self,
        ledger: Ledger,
        clock: Clock,
        now: Callable[[], float],
        incarnation: str,
        organization_id: str,
        budgets: tuple[Budget, ...],
    ) -> None:
        self.id = new_id("prs")
        self.organization_id, self.budgets = organization_id, budgets
        self.free = self.held = 0
        # No more: what was in it has gone back, or goes.
        self.gone = False
        # When the ledger was last asked about it, of what it has answered; None: it doesn't know it yet.
        self.heard_at: float | None = None
        self.touched_at = now()
        self._ledger, self._clock, self._now, self._incarnation = ledger, clock, now, incarnation
        self._waiting: list[Waiter] = []
        self._drawing: asyncio.Task[None] | None = None
        self._giving: set[asyncio.Task[None]] = set()

    async def take(self, least: int, most: int = 0) -> int:
        """From `least` to `most`, if that is more. Errors: Exhausted (payment_required); Unavailable."""
        most = max(least, most)
        self._check()
        if self.free >= least and not self._waiting:
            return self._hand_out(least, most)
        waiter = Waiter(least, most, self._now(), asyncio.get_running_loop().create_future())
        self._waiting.append(waiter)
        if self._drawing is None or self._drawing.done():
            self._drawing = asyncio.create_task(self._draw())
        try:
            return await waiter.given
        except asyncio.CancelledError:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            elif waiter.given.done() and not waiter.given.cancelled() and waiter.given.exception() is None:
                self.put_back(waiter.given.result())  # given and cancelled in the same moment
            raise

    def put_back(self, amount: int) -> None:
        """What was taken, and isn't needed."""
        self.held -= amount
        if not self.gone:
            self.free += amount
            self._serve()
        self.touched_at = self._now()

    def spend(self, amount: int) -> None:
        """What was taken is on a bill."""
        self.held -= amount
        self.touched_at = self._now()

    async def room(self) -> int:
        """The most that could be taken now. Errors: Unavailable."""
        return await self._ledger.room(self.organization_id, self.budgets) + self.free

    @property
    def idle(self) -> float:
        """Seconds since anybody has had to do with it; 0 while somebody waits."""
        busy = bool(self._waiting or self._giving or (self._drawing and not self._drawing.done()))
        return 0.0 if busy else self._now() - self.touched_at

    def give_back(self) -> None:
        """All that is free, in the background."""
        if self.free and not self.gone:
            amount, self.free = self.free, 0
            self._giving.add(task := asyncio.create_task(self._give_back(amount)))
            task.add_done_callback(self._giving.discard)

    async def given_back(self) -> None:
        """When all that is on its way back is there."""
        await asyncio.gather(*self._giving)

    def heard(self, asked_at: float) -> None:
        """The ledger has answered what it was asked then."""
        self.heard_at = max(asked_at, asked_at if self.heard_at is None else self.heard_at)

    def forget(self) -> None:
        """It is no more: nothing can be taken from it."""
        self.gone, self.free = True, 0
        self._fail(self._waiting, away())

    async def close(self) -> None:
        """Nothing goes on any more."""
        tasks: list[asyncio.Task[None]] = [*self._giving, *([self._drawing] if self._drawing else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.forget()

    def _check(self) -> None:
        stale = self.heard_at is not None and self._now() - self.heard_at >= TRUSTED_SECONDS
        if self.gone or stale:
            raise away()

    def _hand_out(self, least: int, most: int) -> int:
        amount = max(least, min(most, self.free))
        self.free -= amount
        self.held += amount
        self.touched_at = self._now()
        return amount

    def _serve(self) -> None:
        """Whoever can be, in their order."""
        try:
            self._check()
        except Unavailable as stale:
            self._fail(self._waiting, stale)
            return
        self._waiting = [waiter for waiter in self._waiting if not waiter.given.done()]  # some have left
        for waiter in list(self._waiting):
            if waiter.least <= self.free:
                self._waiting.remove(waiter)
                waiter.given.set_result(self._hand_out(waiter.least, waiter.most))

    def _fail(self, these: list[Waiter], problem: Problem) -> None:
        for waiter in list(these):
            self._waiting.remove(waiter)
            if not waiter.given.done():
                waiter.given.set_exception(problem)

    async def _draw(self) -> None:
        """One draw after another, each for all that wait when it begins."""
        while self._waiting and not self.gone:
            smallest = min(waiter.least for waiter in self._waiting)
            need = max(1, smallest - self.free)
            want = max(need, sum(waiter.most for waiter in self._waiting) - self.free)
            ids = (new_id("drw"), self.id, self.organization_id, self.budgets, self._incarnation)
            asked_at = self._now()
            try:
                amount = await self._answered(Draw(*ids, need, want))
            except Exhausted as refused:
                # Something may have been put back, and who needs less may have come meanwhile.
                self._fail([one for one in self._waiting if one.least >= max(smallest, self.free + 1)], refused)
                self._serve()
            except Problem as swept:
                log().warning("purse.lost", purse_id=self.id, reason=swept.message)
                self.forget()
            except Exception:  # noqa: BLE001  # a bug over there: who waits is told, others may try again
                log().exception("purse.not_drawn", purse_id=self.id)
                self._fail(self._waiting, away())
            else:
                self.heard(asked_at)
                self.free += amount
                self.touched_at = self._now()
                failpoint("drawn")
                self._serve()

    async def _answered(self, draw: Draw) -> int:
        """It may have been drawn although no answer came: it is sent until one does. Who waits needn't wait as long."""
        pause = FIRST_PAUSE_SECONDS
        while not self.gone:
            try:
                return await self._ledger.draw(draw)
            except Unavailable:
                horizon = self._now() - PATIENCE_SECONDS
                self._fail([one for one in self._waiting if one.since <= horizon], away())
                await self._clock.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
        raise away()

    async def _give_back(self, amount: int) -> None:
        give_id, pause = new_id("giv"), FIRST_PAUSE_SECONDS
        while not self.gone:
            try:
                await self._ledger.give_back(give_id, self.id, amount)
                failpoint("given back")
                return
            except Unavailable:
                await self._clock.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            except Problem as swept:
                log().warning("purse.lost", purse_id=self.id, reason=swept.message)
                self.forget()
