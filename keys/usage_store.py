"""The port of usage.py on SQL. Sums grow where bills are booked, in that transaction: what a page costs doesn't grow
with the number of bills.
"""

from collections.abc import Iterable, Sequence
from datetime import date

from sqlalchemy import BigInteger, Column, Integer, String, Table, func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from keys.books_store import bill_lines, bills, metadata
from keys.money import FILES, MOST, Bill
from keys.usage import SUMS, Attempt, Group, Used, summed_up
from kit.db import Database

# A row for each name that a group has (a service, day, key, model) and each day that it was used.
usage_sums = Table(
    "usage_sums",
    metadata,
    Column("organization_id", String(100), primary_key=True),
    # A Group.
    Column("kind", Integer, primary_key=True),
    Column("name", String(200), primary_key=True),
    # YYYY-MM-DD in UTC.
    Column("day", String(10), primary_key=True),
    *(Column(name, BigInteger, nullable=False) for name in SUMS),
    sqlite_with_rowid=False,
)
_KEY = ("organization_id", "kind", "name", "day")
# Never above MOST, however much bills say: a year of that can be summed up.
_MORE = [
    f"{name} = CASE WHEN usage_sums.{name} > {MOST} - excluded.{name} THEN {MOST} "
    f"ELSE usage_sums.{name} + excluded.{name} END"
    for name in SUMS
]
_ADD = text(
    f"""
    INSERT INTO usage_sums ({", ".join(_KEY + SUMS)}) VALUES ({", ".join(f":{name}" for name in _KEY + SUMS)})
    ON CONFLICT ({", ".join(_KEY)}) DO UPDATE SET {", ".join(_MORE)}
    """  # noqa: S608  # names of columns
)


async def add_usage(tx: AsyncConnection, new: Sequence[Bill], transaction_ids: Iterable[str]) -> None:
    """What these have come to. They are in `bills` by now, as `transaction_ids`; the accounts of who pays are held, so
    that nobody else adds bills of the same attempts.
    """
    sums = summed_up(new, await _counted(tx, new, set(transaction_ids)))
    rows = [(*key, *(min(each, MOST) for each in found)) for key, found in sums]
    await tx.execute(_ADD, [dict(zip(_KEY + SUMS, row, strict=True)) for row in rows])


async def _counted(tx: AsyncConnection, new: Sequence[Bill], transaction_ids: set[str]) -> set[Attempt]:
    """Attempts of these that have bills from before; with them and without the models that they used."""
    ids = {bill.run_id for bill in new if bill.service_id != FILES}
    attempt = (bills.c.organization_id, bills.c.run_id, bills.c.attempt)
    several = select(bills.c.run_id).where(bills.c.run_id.in_(sorted(ids))).group_by(*attempt).having(func.count() > 1)
    if not ids or not (repeated := set((await tx.execute(several)).scalars())):
        return set()
    lines = bills.outerjoin(bill_lines, bill_lines.c.transaction_id == bills.c.transaction_id)
    query = select(bills.c.transaction_id, *attempt, bill_lines.c.model).select_from(lines)
    rows = await tx.execute(query.where(bills.c.run_id.in_(sorted(repeated)), bills.c.service_id != FILES))
    before = [tuple(row)[1:] for row in rows if row.transaction_id not in transaction_ids]
    return {(*row[:3], model) for row in before for model in ("", row[3] or "")}


class SqlUsage:
    """usage.Sums."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def sums(
        self, organization_id: str, group: Group, since: date, until: date, limit: int, after: str
    ) -> Sequence[Used]:
        its = usage_sums.c
        query = select(its.name, *(func.sum(its[each]) for each in SUMS))
        query = query.where(its.organization_id == organization_id, its.kind == int(group), its.name > after)
        query = query.where(its.day >= since.isoformat(), its.day < until.isoformat())
        async with self._db.read() as tx:
            rows = await tx.execute(query.group_by(its.name).order_by(its.name).limit(limit))
            return [Used(row[0], *map(int, row[1:])) for row in rows]
