"""What an organization has paid for: its bills, by service, day, key or model."""

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Protocol

from keys.model import Page, page_size
from kit.clock import Clock
from kit.errors import Invalid

DAYS = timedelta(days=30)


class Group(enum.IntEnum):
    """The numbers are those of mesh.ledger.v1.UsageGroup."""

    SERVICE = 1
    DAY = 2
    KEY = 3
    MODEL = 4


@dataclass(frozen=True)
class Used:
    """Of one group. `runs`: attempts. By model there are only tokens, and what these cost; files are no key's."""

    group: str
    runs: int
    amount: int
    cpu_ms: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    egress_bytes: int = 0


class Bills(Protocol):
    """All that were booked."""

    async def sums(
        self, organization_id: str, group: Group, since: date, until: date, limit: int, after: str
    ) -> Sequence[Used]:
        """By group, in its order, behind `after`; days from the first to before the last."""
        ...


class Usage:
    """Reads only."""

    def __init__(self, bills: Bills, clock: Clock) -> None:
        self._bills = bills
        self._clock = clock

    async def __call__(
        self,
        organization_id: str,
        group: Group,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = 0,
        after: str = "",
    ) -> Page[Used]:
        """Whole days in UTC, from `since` to before `until`; without them the last 30, today included. Errors: Invalid
        for times that are the wrong way round, or a limit out of range.
        """
        size = page_size(limit)
        try:
            end = _day(until) if until else _day(self._clock.now()) + timedelta(days=1)
            begin = _day(since) if since else end - DAYS
        except OverflowError as error:
            raise Invalid("until must be a time of some use") from error
        if begin > end:
            raise Invalid("since must not be later than until")
        found = await self._bills.sums(organization_id, group, begin, end, size + 1, after)
        return Page(found[:size], found[size - 1].group if len(found) > size else "")


def _day(moment: datetime) -> date:
    return moment.astimezone(UTC).date()
