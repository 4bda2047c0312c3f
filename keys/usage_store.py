"""The port of usage.py on SQL. Only bills are read that the index names: those of the organization and the days."""

from collections.abc import Sequence
from datetime import date
from typing import Any

from sqlalchemy import ColumnElement, Select, String, case, cast, func, select

from keys.books_store import bill_lines, bills
from keys.money import FILES
from keys.usage import Group, Used
from kit.db import Database

_BY: dict[Group, ColumnElement[Any]] = {
    Group.SERVICE: bills.c.service_id,
    Group.DAY: bills.c.day,
    Group.KEY: bills.c.key_id,
    Group.MODEL: bill_lines.c.model,
}
_ATTEMPT = bills.c.run_id + ":" + cast(bills.c.attempt, String)
_ATTEMPTS = func.count(func.distinct(case((bills.c.service_id != FILES, _ATTEMPT))))


class SqlBills:
    """usage.Bills."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def sums(
        self, organization_id: str, group: Group, since: date, until: date, limit: int, after: str
    ) -> Sequence[Used]:
        by = _BY[group]
        days = (bills.c.day >= since.isoformat()) & (bills.c.day < until.isoformat())
        query = (_of_models if group is Group.MODEL else _of_bills)(by)
        query = query.where(bills.c.organization_id == organization_id, days, by > after)
        async with self._db.read() as tx:
            rows = await tx.execute(query.group_by(by).order_by(by).limit(limit))
            return [Used(row[0], *map(int, row[1:])) for row in rows]


def _of_bills(by: ColumnElement[Any]) -> Select[Any]:
    sums = (bills.c.charge, bills.c.cpu_ms, bills.c.tokens_in, bills.c.tokens_out, bills.c.egress_bytes)
    return select(by, _ATTEMPTS, *map(func.sum, sums))


def _of_models(by: ColumnElement[Any]) -> Select[Any]:
    line = bill_lines.c
    out = line.meter.endswith(":out", autoescape=True)
    tokens_in = func.sum(case((out, 0), else_=line.quantity))
    tokens_out = func.sum(case((out, line.quantity), else_=0))
    columns = (by, _ATTEMPTS, func.sum(line.amount), func.sum(0), tokens_in, tokens_out)
    joined = line.transaction_id == bills.c.transaction_id
    return select(*columns).select_from(bills.join(bill_lines, joined))
