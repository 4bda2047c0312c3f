"""Looks at what the runs of this host use, every second, so that each has taken it before; and stops what can't pay."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from executor.model import Outcome, Spec, Usage
from executor.prices import PriceList, PriceSource
from executor.purse import Ledger
from executor.purses import Purses
from executor.tab import Tab
from kit.clock import Clock
from kit.errors import Exhausted, Unavailable
from kit.lifecycle import background
from kit.telemetry import log

LOOK_SECONDS = 1.0
# A run that has used all that it had taken goes on for so long while the ledger is away; what it uses is ours.
FORBEARANCE = timedelta(seconds=30)


@dataclass(eq=False)
class Customer:
    """A run that is looked at. `usage` tells what it has used so far; None: nothing yet."""

    tab: Tab
    usage: Callable[[], Usage | None]
    stop: Callable[[Outcome], None]
    unpaid_since: datetime | None = None
    stepping: "asyncio.Task[None] | None" = None


class Metering:
    """`run` is its loop: one for all."""

    def __init__(self, purses: Purses, prices: PriceList, clock: Clock) -> None:
        self._purses = purses
        self._prices = prices
        self._clock = clock
        self._customers: set[Customer] = set()

    @property
    def ready(self) -> bool:
        """Whether it is known what runs cost."""
        return self._prices.known

    @property
    def away(self) -> bool:
        """Nothing can be paid at present: the ledger doesn't answer."""
        return self._purses.away

    def tab(self, spec: Spec) -> Tab:
        """For an attempt."""
        return Tab(self._purses, self._prices, self._clock, spec)

    @contextmanager
    def watching(self, tab: Tab, usage: Callable[[], Usage | None], stop: Callable[[Outcome], None]) -> Iterator[None]:
        """As long as it goes on."""
        customer = Customer(tab, usage, stop)
        self._customers.add(customer)
        try:
            yield
        finally:
            self._customers.discard(customer)
            if customer.stepping is not None:
                customer.stepping.cancel()

    async def run(self) -> None:
        """For ever."""
        while True:
            await self._clock.sleep(LOOK_SECONDS)
            self.once()

    def once(self) -> None:
        """Doesn't wait for the ledger: one whose step takes long holds up nobody else."""
        for customer in self._customers:
            usage = customer.usage()
            if usage is None or (customer.stepping is not None and not customer.stepping.done()):
                continue
            if customer.tab.look(usage):
                customer.stepping = asyncio.create_task(self._step(customer))

    async def _step(self, customer: Customer) -> None:
        try:
            await customer.tab.step()
        except Exhausted as refused:
            text = f"the run was stopped, since it can't pay for more: {refused.message}"
            customer.stop(Outcome.failed("payment_required", text))
        except Unavailable as away:
            now = self._clock.now()
            customer.unpaid_since = customer.unpaid_since or now
            if customer.tab.overdrawn and now - customer.unpaid_since >= FORBEARANCE:
                customer.stop(Outcome.failed("unavailable", away.message))
        except Exception:  # noqa: BLE001  # nobody awaits this task
            log().exception("metering.broke")
        else:
            customer.unpaid_since = None


class Bank(Ledger, PriceSource, Protocol):
    """The ledger, and what things cost."""


@asynccontextmanager
async def open_metering(bank: Bank, clock: Clock) -> AsyncIterator[Metering]:
    """With its loops; in the end what is free goes back."""
    purses, prices = Purses(bank, clock), PriceList(bank, clock)
    await prices.fetch()
    metering = Metering(purses, prices, clock)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(purses.close)
        for loop in (purses.run(), prices.run(), metering.run()):
            await stack.enter_async_context(background(loop))
        yield metering
