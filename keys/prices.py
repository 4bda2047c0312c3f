"""What things cost, and since when.

A price of a meter holds from its `valid_from` to that of the next one: two can't hold at the same time, and from the
first on there is always one. What has been valid stays as it was. Amounts are micro-credits for a million of the
meter's unit.
"""

import asyncio
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import groupby, pairwise
from typing import Protocol

from keys.audit import PLATFORM, Actor, Entry, done
from kit.clock import Clock
from kit.errors import Invalid
from kit.telemetry import log

EVER = datetime(1970, 1, 1, tzinfo=UTC)
MOST_PRICE = 1 << 53
MOST_METER = 200
# What an executor takes before a run starts (executor/tab.py).
_OF_EVERY_RUN = ("run", "cpu", "memory")
_NEVER = datetime.max.replace(tzinfo=UTC)
_METER = re.compile(
    r"run|cpu|memory|egress|storage|call:[A-Za-z0-9][A-Za-z0-9_-]{0,99}"
    r"|tokens:[a-z0-9_-]{1,40}/[A-Za-z0-9][A-Za-z0-9._:@/+-]*:(in|out|cached)"
)


@dataclass(frozen=True)
class Price:
    """`by_operator`: set by hand; what we bring along never takes its place."""

    meter: str
    amount: int
    valid_from: datetime
    valid_until: datetime | None = None
    by_operator: bool = False


class PriceChange(Protocol):
    """One transaction on prices; nobody else has one meanwhile."""

    async def prices(self, meters: Sequence[str] | None = None) -> list[Price]:
        """Of these meters, or all, by meter and time, past ones too; without `valid_until`."""
        ...

    async def put(self, prices: Sequence[Price]) -> None:
        """Makes them, or changes those of the same meter and time."""
        ...

    async def drop(self, prices: Sequence[Price]) -> None: ...

    async def fingerprint(self) -> str:
        """Of what was brought along last; empty at first."""
        ...

    async def remember(self, fingerprint: str) -> None: ...

    async def note(self, entry: Entry) -> None:
        """In the audit log."""
        ...


class PriceStore(Protocol):
    """The table of prices."""

    def change(self) -> AbstractAsyncContextManager[PriceChange]:
        """Commits on leaving, undoes everything on an error. One at a time."""
        ...

    async def prices(self, meters: Sequence[str] | None = None) -> list[Price]:
        """As PriceChange.prices."""
        ...

    async def fingerprint(self) -> str: ...


class Prices:
    """The table of prices."""

    def __init__(self, store: PriceStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def current(self, since: datetime | None = None) -> list[Price]:
        """All that are or will be valid, by meter and time; with `since` those that were then or later, too."""
        now = self._clock.now()
        then = now if since is None else min(since, now)
        found = until_the_next(await self._store.prices())
        return [it for it in found if it.valid_until is None or it.valid_until > then]

    async def free(self) -> bool:
        """Whether a run can begin without credit: neither its fee nor what every run uses costs anything now."""
        now = self._clock.now()
        prices = until_the_next(await self._store.prices(_OF_EVERY_RUN))
        return not any(it.amount for it in prices if it.valid_from <= now < (it.valid_until or _NEVER))

    async def set(self, meter: str, amount: int, valid_from: datetime | None, actor: Actor = PLATFORM) -> Price:
        """A price from `valid_from`, or now, until the next that an operator has planned; the one before it ends there.
        Errors: Invalid, also for a time that has passed.
        """
        check_meter(meter)
        if not 0 <= amount <= MOST_PRICE:
            raise Invalid(f"a price is 0 to {MOST_PRICE} micro-credits for a million")
        async with self._store.change() as change:
            now = self._clock.now()
            made = Price(meter, amount, valid_from or now, by_operator=True)
            if made.valid_from < now:
                raise Invalid("valid_from lies in the past: what has been used was charged at the price of then")
            planned = [it for it in await change.prices([meter]) if it.valid_from > made.valid_from]
            await change.drop([it for it in planned if not it.by_operator])
            await change.put([made])
            told = {"micro_credits_per_million": amount, "valid_from": made.valid_from.isoformat()}
            await change.note(done(now, actor, "price.set", meter, actor.organization_id, told))
            found = until_the_next(await change.prices([meter]))
        return next(it for it in found if it.valid_from == made.valid_from)

    async def bring_along(self, fingerprint: str, ours: Callable[[], Iterable[Price]]) -> None:
        """Makes the prices that the platform comes with, which `ours` tells, unless they were by this `fingerprint`.
        A meter for which an operator ever set a price is left alone; else what has changed holds from now on.
        """
        if await self._store.fingerprint() == fingerprint:
            return
        wanted = _by_meter(await asyncio.to_thread(ours))
        async with self._store.change() as change:
            if await change.fingerprint() == fingerprint:
                return
            known = _by_meter(await change.prices())
            now = self._clock.now()
            made: list[Price] = []
            for meter, prices in wanted.items():
                before = known.get(meter, [])
                if any(it.by_operator for it in before):
                    continue
                await change.drop([it for it in before if it.valid_from > now])
                made += _news(prices, [it for it in before if it.valid_from <= now], now)
            await change.put(made)
            await change.remember(fingerprint)
        log().info("prices.brought_along", prices=len(made))


def check_meter(meter: str) -> None:
    """Errors: Invalid."""
    if len(meter) > MOST_METER or not _METER.fullmatch(meter):
        raise Invalid(
            f"{meter[:100]!r} is no meter: run, cpu, memory, egress, storage, call:SERVICE, "
            "tokens:VENDOR/MODEL:in, :out or :cached"
        )


def until_the_next(prices: Iterable[Price]) -> list[Price]:
    """With `valid_until`; `prices` are by meter and time."""
    found: list[Price] = []
    for _, group in groupby(prices, lambda price: price.meter):
        these = list(group)
        found += [replace(price, valid_until=after.valid_from) for price, after in pairwise(these)]
        found.append(replace(these[-1], valid_until=None))
    return found


def _by_meter(prices: Iterable[Price]) -> dict[str, list[Price]]:
    ordered = sorted(prices, key=lambda price: (price.meter, price.valid_from))
    return {meter: list(group) for meter, group in groupby(ordered, lambda price: price.meter)}


def _news(wanted: Sequence[Price], before: Sequence[Price], now: datetime) -> list[Price]:
    """What has to be made where there is `before`; the past stays as it was."""
    if not before:
        return list(wanted)
    news = [price for price in wanted if price.valid_from > now]
    current = next((price for price in reversed(wanted) if price.valid_from <= now), None)
    if current is not None and current.amount != before[-1].amount:
        news.insert(0, replace(current, valid_from=now))
    return news
