"""What one attempt owes: taken from a purse before it is used, step by step; what wasn't used goes back with the bill.

It is never charged more than was taken: a budget is exact (docs/decisions/0020).
"""

from collections import Counter
from contextlib import suppress

from executor.bill import Bill, Line, cut
from executor.model import Limits, Spec, Usage
from executor.prices import CPU, EGRESS, MEMORY, RUN, PriceList, Prices
from executor.purse import Purse, away
from executor.purses import Purses
from kit.clock import Clock
from kit.errors import Exhausted, Unavailable
from kit.lifecycle import failpoint
from kit.telemetry import log

# A step is what a run can use in so many seconds; the next one is taken when what is left may not last for AHEAD.
STEP_SECONDS = 5.0
AHEAD_SECONDS = 2.0
MEGABYTE = 1_000_000
NOTHING = Prices({})


class Tab:
    """`open` first, `close` or `abandon` last. Amounts are micro-credits."""

    def __init__(self, purses: Purses, prices: PriceList, clock: Clock, spec: Spec) -> None:
        self._purses = purses
        self._list = prices
        self._clock = clock
        self._spec = spec
        self._limits = Limits()
        self._prices = NOTHING
        self._fee = RUN
        self._purse: Purse | None = None
        self._opened = self._closed = False
        self._taken = self._used = self._promised = 0
        self._booked: Counter[str] = Counter()

    async def open(self, limits: Limits) -> None:
        """Takes the fee and the first step; idempotent. Errors: Exhausted (payment_required); Unavailable."""
        if self._opened:
            return
        self._prices, self._limits = self._list.at(self._clock.now()), limits
        own = f"call:{self._spec.library}"  # the library's services may have prices of their own
        if self._spec.library and self._prices.get(own) is not None:
            self._fee = own
        self._used = self._prices.cost(self._fee, 1)
        if first := self._used + self._ahead(STEP_SECONDS):
            await self._take(first)
            failpoint("opened")
        self._opened = True

    def price(self, meter: str) -> int | None:
        """Micro-credits for a million; None: it has none."""
        return self._prices.get(meter)

    async def promise(self, amount: int) -> None:
        """Takes the most that something may cost, before it begins. `book` what it did cost, then `release`.

        Errors: Exhausted (payment_required); Unavailable.
        """
        if amount:
            await self._take(amount)
            self._promised += amount

    def book(self, meter: str, quantity: int) -> None:
        """So much was used of what isn't seen from outside."""
        self._booked[meter] += quantity
        self._used += self._prices.cost(meter, quantity)

    def release(self, amount: int) -> None:
        """What was promised is over, and booked: the rest of it may go back."""
        self._promised -= amount
        self._trim()

    async def cover(self) -> None:
        """Takes what was used above all that is taken, as where more was booked than was promised; or the last there
        is. What credit and budgets don't pay for is ours, and so is all of it while the ledger is away.
        """
        if (missing := self._short(0)) <= 0 or not self._opened or self._closed:
            return
        try:
            try:
                await self._take(missing, self._short(STEP_SECONDS))
            except Exhausted:
                await self._take(1, missing)
        except (Exhausted, Unavailable) as refused:
            log().warning("tab.not_covered", run_id=self._spec.run_id, missing=missing, reason=refused.message)

    async def room(self) -> int:
        """The most that could be promised now. Errors: Unavailable."""
        return await self._its_purse().room()

    @property
    def overdrawn(self) -> bool:
        """All that was taken is used, as far as that was seen."""
        return self._used + self._promised >= self._taken

    def look(self, usage: Usage) -> bool:
        """Whether another step is needed, after this use."""
        if self._closed:
            return False
        self._used = sum(line.amount for line in self._lines(usage))
        self._trim()
        return self._short(AHEAD_SECONDS) > 0

    async def step(self) -> None:
        """Takes the next one, or the last. Errors: Exhausted (payment_required) when all is used; Unavailable."""
        least = self._short(AHEAD_SECONDS)
        if least <= 0 or self._closed:
            return
        try:
            await self._take(least, self._short(STEP_SECONDS))
            failpoint("stepped")
        except Exhausted as refused:
            await self._take_the_last(least, refused)

    async def _take_the_last(self, most: int, refused: Exhausted) -> None:
        with suppress(Exhausted):
            await self._take(1, most)
        if self.overdrawn:  # by more than there was, perhaps
            raise refused from None

    @property
    def tokens(self) -> tuple[int, int]:
        """(in, out) of what was booked."""
        tokens = [(meter, quantity) for meter, quantity in self._booked.items() if meter.startswith("tokens:")]
        out = sum(quantity for meter, quantity in tokens if meter.endswith(":out"))
        return sum(quantity for _, quantity in tokens) - out, out

    def close(self, usage: Usage) -> Bill | None:
        """What it cost; the rest goes back. None where nothing was taken."""
        if self._closed or self._purse is None or not self._taken:
            self._closed = True
            return None
        spec, lines = self._spec, cut(self._lines(usage), self._taken)
        amount = sum(line.amount for line in lines)
        self._closed = True
        self._purse.spend(amount)
        self._purse.put_back(self._taken - amount)
        return Bill(
            run_id=spec.run_id,
            attempt=spec.attempt,
            root_id=spec.root_id or spec.run_id,
            organization_id=spec.caller_id,
            service_id=spec.service_id,
            key_id=spec.paying_key_id,
            purse_id=self._purse.id,
            budgets=self._purse.budgets,
            amount=amount,
            lines=lines,
            at=self._clock.now(),
        )

    def abandon(self) -> None:
        """Nothing came of it: everything goes back. Nothing happens after `close`."""
        if not self._closed and self._purse is not None:
            self._purse.put_back(self._taken)
            self._taken = 0
        self._closed = True

    async def _take(self, least: int, most: int = 0) -> None:
        purse = self._its_purse()
        amount = await purse.take(least, most)
        if self._closed:  # meanwhile
            purse.put_back(amount)
            raise away()
        self._taken += amount

    def _its_purse(self) -> Purse:
        """The same one to the end: a bill has one purse."""
        if self._purse is None:
            self._purse = self._purses.of(self._spec.caller_id, self._spec.budgets)
        return self._purse

    def _trim(self) -> None:
        surplus = -self._short(STEP_SECONDS)
        if self._purse is not None and surplus > 0 and not self._closed:
            self._taken -= surplus
            self._purse.put_back(surplus)

    def _short(self, seconds: float) -> int:
        """What is missing of what it may owe after so many seconds."""
        return self._used + self._promised + self._ahead(seconds) - self._taken

    def _ahead(self, seconds: float) -> int:
        """The most that can be used in so many seconds."""
        processor = self._prices.cost(CPU, round(self._limits.cpu * seconds * 1000))
        return processor + self._prices.cost(MEMORY, round(self._limits.memory_bytes / MEGABYTE * seconds))

    def _lines(self, usage: Usage) -> list[Line]:
        """Never less than nothing, whatever was measured."""
        used = {
            self._fee: 1,
            CPU: round(usage.cpu_seconds * 1000),
            MEMORY: round(usage.memory_peak / MEGABYTE * usage.wall_seconds),
            EGRESS: usage.egress_bytes,
            **self._booked,
        }
        return [Line(meter, many, self._prices.cost(meter, many)) for meter, many in used.items() if many > 0]
