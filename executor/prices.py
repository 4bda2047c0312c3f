"""What things cost: the list of keys, fetched now and then. While keys is away the last one holds."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

from executor.bill import cost
from kit.clock import Clock
from kit.errors import Unavailable
from kit.telemetry import tried_again

FETCH_SECONDS = 10.0
# While there is none.
AGAIN_SECONDS = 0.5
ALWAYS, NEVER = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
# What may follow a model's name without making it another model: -20241022, -001, @latest, -preview-05-20.
_CUT = re.compile(r"[-@]")
_EDITION = re.compile(r"[-@](?:latest|preview|exp|[0-9]{3,})(?:[-@](?:latest|preview|exp|[0-9]{2,}))*")
RUN, CPU, MEMORY, EGRESS = "run", "cpu", "memory", "egress"


@dataclass(frozen=True)
class Price:
    """Micro-credits for a million units of a meter, from `since` to before `until` (None: until further notice)."""

    meter: str
    per_million: int
    since: datetime
    until: datetime | None = None

    def holds(self, at: datetime) -> bool:
        return self.since <= at and (self.until is None or at < self.until)


def known_as(model: str, known: Callable[[str], bool]) -> str | None:
    """By which name a model has its price (docs/prices.md): its own, or the longest beginning of it that differs from
    it by an edition only. None: by none.
    """
    name = model.lower().removeprefix("models/")
    if known(name):
        return name
    cuts = [each.start() for each in _CUT.finditer(name) if _EDITION.fullmatch(name, each.start())]
    return next((name[:cut] for cut in reversed(cuts) if known(name[:cut])), None)


class PriceSource(Protocol):
    """Who knows prices."""

    async def prices(self) -> Sequence[Price]:
        """All that are or will be valid. Errors: Unavailable."""


class Prices:
    """Those of one moment."""

    def __init__(self, per_million: Mapping[str, int]) -> None:
        self._per_million = per_million

    def get(self, meter: str) -> int | None:
        """None: it has none."""
        return self._per_million.get(meter)

    def cost(self, meter: str, quantity: int) -> int:
        """Micro-credits; what has no price costs nothing."""
        return cost(quantity, self._per_million.get(meter, 0))


class PriceList:
    """`run` is its loop."""

    def __init__(self, source: PriceSource, clock: Clock) -> None:
        self._source = source
        self._clock = clock
        self._prices: Sequence[Price] | None = None
        # Those that hold from `since` to before `until`: they are asked for by every run.
        self._now = Prices({})
        self._since = self._until = NEVER

    @property
    def known(self) -> bool:
        """Whether it was ever fetched."""
        return self._prices is not None

    def at(self, moment: datetime) -> Prices:
        """Errors: Unavailable before it was ever fetched."""
        if self._prices is None:
            raise Unavailable("prices aren't known yet; try again in a moment", retry_after=timedelta(seconds=1))
        if not self._since <= moment < self._until:
            times = {each for price in self._prices for each in (price.since, price.until) if each is not None}
            self._since = max((each for each in times if each <= moment), default=ALWAYS)
            self._until = min((each for each in times if each > moment), default=NEVER)
            self._now = Prices({price.meter: price.per_million for price in self._prices if price.holds(moment)})
        return self._now

    async def run(self) -> None:
        """For ever."""
        while True:
            await self.fetch()
            await self._clock.sleep(FETCH_SECONDS if self.known else AGAIN_SECONDS)

    async def fetch(self) -> None:
        """Now; a failure is logged."""
        with tried_again("prices"):
            self._prices = await self._source.prices()
            self._since = self._until = NEVER
