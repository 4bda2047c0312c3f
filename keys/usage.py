"""What an organization has paid for: sums over its bills, by service, day, key or model."""

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from operator import add as add_up
from typing import Protocol

from keys.model import Page, page_size
from keys.money import FILES, Bill
from kit.clock import Clock
from kit.errors import Invalid

DAYS = timedelta(days=30)
LONGEST = timedelta(days=366)
SUMS = ("runs", "amount", "cpu_ms", "tokens_in", "tokens_out", "egress_bytes")
# Organization, run, number of the attempt; the model that it used, or empty: of the attempt itself.
Attempt = tuple[str, str, int, str]


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


class Sums(Protocol):
    """Over all bills that were booked."""

    async def sums(
        self, organization_id: str, group: Group, since: date, until: date, limit: int, after: str
    ) -> Sequence[Used]:
        """By group, in its order, behind `after`; days from the first to before the last."""
        ...


class Usage:
    """Reads only."""

    def __init__(self, sums: Sums, clock: Clock) -> None:
        self._sums = sums
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
        for times that are the wrong way round or more than 366 days apart, or a limit out of range.
        """
        size = page_size(limit)
        try:
            end = _day(until) if until else _day(self._clock.now()) + timedelta(days=1)
            begin = _day(since) if since else end - DAYS
        except OverflowError as error:
            raise Invalid("until must be a time of some use") from error
        if begin > end:
            raise Invalid("since must not be later than until")
        if end - begin > LONGEST:
            raise Invalid(f"from since to until there are at most {LONGEST.days} days")
        found = await self._sums.sums(organization_id, group, begin, end, size + 1, after)
        return Page(found[:size], found[size - 1].group if len(found) > size else "")


def summed_up(
    bills: Iterable[Bill], counted: Iterable[Attempt]
) -> list[tuple[tuple[str, int, str, str], Sequence[int]]]:
    """What bills come to: (organization, group, its name, day), in that order, and SUMS of it. An attempt that has
    several bills counts with the first; `counted`: those that have.
    """
    known = set(counted)
    by_service, by_day, by_key, by_model = map(int, Group)  # an enum is slow to sort by
    rows: dict[tuple[str, int, str, str], list[int]] = {}

    def add(organization_id: str, group: int, name: str, day: str, sums: Sequence[int]) -> None:
        row = rows.setdefault((organization_id, group, name, day), [0] * len(SUMS))
        row[:] = map(add_up, row, sums)

    def attempts(bill: Bill, model: str) -> int:
        attempt = (bill.organization_id, bill.run_id, bill.attempt, model)
        if bill.service_id == FILES or attempt in known:
            return 0
        known.add(attempt)
        return 1

    for bill in bills:
        org, day, used = bill.organization_id, _day(bill.at).isoformat(), bill.quantities
        tokens = (used["in"] + used["cached"], used["out"])
        whole = (attempts(bill, ""), bill.charge, used["cpu"], *tokens, used["egress"])
        for group, name in ((by_service, bill.service_id), (by_day, day), (by_key, bill.key_id)):
            if name:
                add(org, group, name, day, whole)
        for line in bill.lines:
            if model := line.model:
                tokens = (0, line.quantity) if line.meter.endswith(":out") else (line.quantity, 0)
                add(org, by_model, model, day, (attempts(bill, model), line.amount, 0, *tokens, 0))
    return sorted(rows.items())


def _day(moment: datetime) -> date:
    return moment.astimezone(UTC).date()
