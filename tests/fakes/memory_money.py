"""The stores of prices and of buckets, in memory."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime

from keys.audit import Entry
from keys.prices import Price
from keys.rates import Level, Rule


class MemoryBucketStore:
    """rates.BucketStore."""

    def __init__(self) -> None:
        self.levels: dict[str, Level] = {}

    async def change(self, full: Mapping[str, Level], rule: Rule) -> None:
        self.levels = {**full, **self.levels}
        self.levels |= rule({name: self.levels[name] for name in sorted(full)})

    async def sweep(self, before: datetime) -> int:
        kept = {name: level for name, level in self.levels.items() if level.at >= before}
        swept, self.levels = len(self.levels) - len(kept), kept
        return swept


class MemoryPriceStore:
    """prices.PriceStore."""

    def __init__(self) -> None:
        self.noted: list[Entry] = []
        self._change = MemoryPriceChange({}, "")

    @asynccontextmanager
    async def change(self) -> AsyncIterator["MemoryPriceChange"]:
        change = MemoryPriceChange(dict(self._change.rows), self._change.brought)
        yield change
        self._change = change
        self.noted += change.noted

    async def prices(self, meters: Sequence[str] | None = None) -> list[Price]:
        return await self._change.prices(meters)

    async def fingerprint(self) -> str:
        return self._change.brought


class MemoryPriceChange:
    """One transaction."""

    def __init__(self, rows: dict[tuple[str, datetime], Price], brought: str) -> None:
        self.rows = rows
        self.brought = brought
        self.noted: list[Entry] = []

    async def note(self, entry: Entry) -> None:
        self.noted.append(entry)

    async def prices(self, meters: Sequence[str] | None = None) -> list[Price]:
        return [self.rows[key] for key in sorted(self.rows) if meters is None or key[0] in meters]

    async def put(self, prices: Sequence[Price]) -> None:
        self.rows |= {(price.meter, price.valid_from): replace(price, valid_until=None) for price in prices}

    async def drop(self, prices: Sequence[Price]) -> None:
        for price in prices:
            del self.rows[price.meter, price.valid_from]

    async def fingerprint(self) -> str:
        return self.brought

    async def remember(self, fingerprint: str) -> None:
        self.brought = fingerprint
