"""What was used, on both engines: sums that grow where bills are booked, and all that a page reads."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from alembic import command
from sqlalchemy import Connection, event, text

from keys import usage_store
from keys.ledger import Ledger
from keys.ledger_store import SqlBooks
from keys.money import MOST, Bill, BillLine
from keys.usage import Attempt, Group, Usage, Used
from keys.usage_store import SqlUsage
from kit.clock import FakeClock
from kit.db import Database, open_db
from kit.errors import Invalid
from tests.databases import alembic_on, with_connection
from tests.ledger_books import NOW, a_bill, a_draw, audit, counted, open_organizations

TOKENS = (BillLine("tokens:v/m:in", 70, 7), BillLine("tokens:v/m:cached", 30, 1), BillLine("tokens:v/m:out", 20, 2))


@pytest.fixture
def url(database: Callable[[str], str]) -> str:
    return database("keys")


@pytest.fixture
async def db(url: str) -> AsyncIterator[Database]:
    async with open_db(url) as opened:
        await open_organizations(opened, "org_a", "org_b")
        yield opened


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(NOW)


@pytest.fixture
async def ledger(db: Database, clock: FakeClock) -> Ledger:
    ledger = Ledger(SqlBooks(db), clock)
    for org in ("org_a", "org_b"):
        await ledger.grant(org, org, 100_000)
        await ledger.draw(a_draw(org, 10_000, org=org, purse=org))
    return ledger


@pytest.fixture
def usage(db: Database, clock: FakeClock) -> Usage:
    return Usage(SqlUsage(db), clock)


def of_a(run: str, charge: int = 10, **changes: Any) -> Bill:
    return replace(a_bill(run, charge, charge, purse="org_a"), **changes)


@pytest.fixture
async def audited(db: Database) -> AsyncIterator[None]:
    yield
    assert await audit(db) == {}


async def runs(usage: Usage, group: Group, until: datetime) -> dict[str, int]:
    return {used.group: used.runs for used in (await usage("org_a", group, None, until)).items}


@pytest.mark.usefixtures("audited")
async def test_an_attempt_with_several_bills_counts_as_one_run_on_its_first_day(ledger: Ledger, usage: Usage) -> None:
    tomorrow = NOW + timedelta(days=1)
    late = of_a("run_1", purse_id="q", lines=TOKENS, at=tomorrow)
    await ledger.settle([of_a("run_1", lines=TOKENS), of_a("run_1", attempt=2, purse_id="q")])
    await ledger.settle([late, of_a("run_2", at=tomorrow), of_a("run_2", purse_id="q")])
    await ledger.settle([late])
    until = NOW + timedelta(days=2)
    assert await runs(usage, Group.SERVICE, until) == {"hello": 3}
    assert await runs(usage, Group.KEY, until) == {"key_1": 3}
    assert sum((await runs(usage, Group.DAY, until)).values()) == 3
    models = (await usage("org_a", Group.MODEL, None, until)).items
    assert models == [Used("v/m", 1, 20, tokens_in=200, tokens_out=40)]
    assert (await usage("org_b", Group.DAY, None, until)).items == []


async def test_the_audit_finds_attempts_that_count_twice(
    ledger: Ledger, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def none(*_: object) -> set[Attempt]:
        return set()

    monkeypatch.setattr(usage_store, "_counted", none)
    await ledger.settle([of_a("run_1")])
    assert await audit(db) == {}
    await ledger.settle([of_a("run_1", purse_id="q")])
    assert set(await audit(db)) == {"attempts that usage doesn't count once each"}


async def test_what_a_page_reads_doesnt_grow_with_the_number_of_bills(
    ledger: Ledger, usage: Usage, db: Database
) -> None:
    said: list[str] = []

    def listen(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        said.append(statement)

    await ledger.settle([of_a("run_0", lines=TOKENS)])
    rows = await counted(db, "usage_sums")
    await ledger.settle([of_a(f"run_{n}", lines=TOKENS) for n in range(1, 100)])
    assert await counted(db, "usage_sums") == rows == 4
    event.listen(db._reader.sync_engine, "before_cursor_execute", listen)
    for group in Group:
        assert [used.runs for used in (await usage("org_a", group)).items] == [100]
    asked = [statement for statement in said if "SELECT" in statement]
    assert len(asked) == 4
    assert not [statement for statement in asked if "bill" in statement]


async def test_a_span_is_a_year_at_most(usage: Usage) -> None:
    assert (await usage("org_a", Group.DAY, NOW - timedelta(days=366), NOW)).items == []
    with pytest.raises(Invalid, match="at most 366 days"):
        await usage("org_a", Group.DAY, NOW - timedelta(days=367), NOW)


async def test_no_bill_says_more_than_a_sum_can_keep(ledger: Ledger, usage: Usage) -> None:
    """A year of the most in each is still a number of 64 bits; nothing holds up the bills that come after."""
    much = (BillLine("egress", MOST, 0), BillLine("cpu", MOST, 0))
    for batch in range(3):
        await ledger.settle([of_a(f"run_{batch}_{n}", lines=much) for n in range(500)])
    (service,) = (await usage("org_a", Group.SERVICE)).items
    assert (service.runs, service.cpu_ms, service.egress_bytes) == (1500, MOST, MOST)


@pytest.mark.usefixtures("audited")
async def test_bills_from_before_are_summed_up_by_the_migration(
    ledger: Ledger, usage: Usage, db: Database, url: str
) -> None:
    tomorrow = NOW + timedelta(days=1)
    await ledger.settle([of_a("run_1", lines=TOKENS), of_a("run_1", purse_id="q", at=tomorrow), of_a("run_2")])
    await ledger.settle([of_a("run_1", lines=TOKENS, purse_id="r", at=tomorrow), of_a("run_1", attempt=2, key_id="")])
    await ledger.settle([a_bill(f"sto_{n}", 5, 5, purse="", org="org_b") for n in range(2)])
    before = await _all(db)
    assert len(before) > 8

    def there_and_back(connection: Connection) -> None:
        config = alembic_on(connection)
        command.downgrade(config, "keys_0007")
        command.upgrade(config, "keys@head")
        connection.commit()

    await asyncio.to_thread(with_connection, url, there_and_back)
    assert await _all(db) == before


async def _all(db: Database) -> list[tuple[Any, ...]]:
    async with db.read() as tx:
        rows = await tx.execute(text("SELECT * FROM usage_sums ORDER BY organization_id, kind, name, day"))
        return [tuple(row) for row in rows]
