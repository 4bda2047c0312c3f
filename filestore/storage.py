"""What organizations keep, how much room that takes and what it costs: nouns and their rules (docs/decisions/0020).

Bytes are counted with the time for which they are kept, in whole byte microseconds: nothing is lost, or counted twice.
The whole MB days of a period go on its bill; what is over waits for the next one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from kit.errors import Exhausted

MEGABYTE = 1_000_000
MICROSECOND = timedelta(microseconds=1)
MB_DAY = MEGABYTE * (timedelta(days=1) // MICROSECOND)
PER = 1_000_000


@dataclass(frozen=True)
class Price:
    """Micro-credits for a million MB days, from `since` to before `until` (None: until further notice)."""

    per_million: int
    since: datetime
    until: datetime | None = None


@dataclass(frozen=True)
class StorageBill:
    """What an organization's files cost in one period: `amount` in micro-credits."""

    id: str
    organization_id: str
    mb_days: int
    amount: int
    at: datetime


@dataclass(frozen=True)
class Storage:
    """Of one organization: the bytes of its files, and how long it has kept how much since its period began (`since`):
    `mb_days` and `rest` byte microseconds, counted up to `counted_at`.
    """

    organization_id: str
    kept: int
    mb_days: int
    rest: int
    counted_at: datetime
    since: datetime

    @classmethod
    def empty(cls, organization_id: str, now: datetime) -> "Storage":
        return cls(organization_id, 0, 0, 0, now, now)

    def counted(self, now: datetime) -> "Storage":
        """With the time until now. A clock that is behind counts nothing."""
        elapsed = max(now, self.counted_at) - self.counted_at
        return _plus(replace(self, counted_at=self.counted_at + elapsed), self.kept, elapsed)

    def with_file(self, size: int, now: datetime) -> "Storage":
        """One more. The first one begins the period."""
        counted = self.counted(now)
        idle = not (self.kept or self.mb_days)
        return replace(counted, kept=self.kept + size, since=counted.counted_at if idle else self.since)

    def without_file(self, size: int, expired_at: datetime, now: datetime) -> "Storage":
        """One less. It is paid for until its time was over, however late it goes (within the period)."""
        counted = self.counted(now)
        late = max(counted.counted_at - max(expired_at, self.since), timedelta(0))
        return replace(_plus(counted, -size, late), kept=self.kept - size)

    def billed(self, bill_id: str, price: int, now: datetime) -> tuple["Storage", StorageBill | None]:
        """The period ends, and the next begins. None: it costs nothing."""
        counted = self.counted(now)
        amount = cost(counted.mb_days, price)
        bill = StorageBill(bill_id, self.organization_id, counted.mb_days, amount, counted.counted_at)
        return replace(counted, mb_days=0, since=counted.counted_at), bill if amount else None


def _plus(storage: Storage, size: int, elapsed: timedelta) -> Storage:
    days, rest = divmod(storage.rest + size * (elapsed // MICROSECOND), MB_DAY)
    return replace(storage, mb_days=storage.mb_days + days, rest=rest)


@dataclass(frozen=True)
class Room:
    """Bytes that are set aside for an upload under way, until `expires_at`: it says anew that it is there."""

    id: str
    organization_id: str
    size: int
    expires_at: datetime


def cost(mb_days: int, per_million: int) -> int:
    """Micro-credits, half up."""
    return (mb_days * per_million + PER // 2) // PER


def price_at(prices: Sequence[Price], moment: datetime) -> int:
    """For a million MB days; what has no price costs nothing."""
    holding = (it for it in prices if it.since <= moment and (it.until is None or moment < it.until))
    return next((it.per_million for it in holding), 0)


def check_room(size: int, taken: int, most: int) -> int:
    """What there is, of `most` bytes with `taken` ones gone. Errors: Exhausted (too_large) when that is less than
    `size`.
    """
    left = max(0, most - taken)
    if size > left:
        raise Exhausted(
            f"all files of an organization together have at most {most} bytes; {left} are left (uploads under way "
            f"count), and this one needs {size}: wait until older files have expired",
            code="too_large",
        )
    return left
