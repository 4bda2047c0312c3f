"""The ledger on the books of both engines: what moves, what is refused, and what happens once."""

from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import replace

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from keys.audit import Actor, Entry
from keys.audit_store import SqlAuditLog
from keys.ledger import Balance, Ledger
from keys.ledger_store import SqlBooks, SqlBooksChange
from keys.money import CLOSED_LIFE, MAX_BILLS, MAX_NAMED, MOST, Budget, Purse
from keys.sweep import Due, Sweep
from kit.clock import FakeClock
from kit.db import Database, open_db
from kit.errors import Conflict, Exhausted, Invalid, NotFound
from tests.ledger_books import AUDITS, NOW, a_bill, a_draw, audit, audit_in, balances, counted, open_organizations

KEY, RUN = Budget("key:k", 100), Budget("run:r", 50)


@pytest.fixture
async def db(database: Callable[[str], str]) -> AsyncIterator[Database]:
    async with open_db(database("keys")) as opened:
        await open_organizations(opened, "org_a", "org_b")
        yield opened
        assert await audit(opened) == {}


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(NOW)


@pytest.fixture
def ledger(db: Database, clock: FakeClock) -> Ledger:
    return Ledger(SqlBooks(db), clock)


@pytest.fixture
def sweep(db: Database, clock: FakeClock) -> Sweep:
    return Sweep(SqlBooks(db), clock)


async def used(db: Database) -> dict[str, int]:
    async with db.read() as tx:
        return {row.id: row.used for row in await tx.execute(text("SELECT id, used FROM budgets"))}


async def test_the_audit_log_tells_of_each_grant_once(ledger: Ledger, db: Database) -> None:
    actor = Actor("key_admin", "org_b")
    for _ in range(2):
        await ledger.grant("1", "org_a", 100, reason="paid by invoice 7", actor=actor)
    with pytest.raises(Exhausted):
        await ledger.grant("2", "org_a", -101, reason="too much", actor=actor)
    (entry,) = await SqlAuditLog(db).page("org_a", 10, "")
    told = {"grant_id": "1", "amount": 100, "reason": "paid by invoice 7"}
    assert replace(entry, id="") == Entry(NOW, "credits.granted", "org_a", "org_a", "key_admin", "org_b", told, "")


async def test_grants_are_given_and_taken_back_once(ledger: Ledger, db: Database) -> None:
    assert await ledger.balance("org_a") == Balance(0, 0, 0)
    assert [await ledger.grant("1", "org_a", 100) for _ in range(2)] == [100, 100]
    assert await ledger.grant("2", "org_a", -30) == 70
    assert await ledger.balance("org_a") == Balance(70, 0, 70)
    with pytest.raises(Exhausted, match="there are 70") as caught:
        await ledger.grant("3", "org_a", -71)
    assert caught.value.code == "payment_required"
    for organization, amount in (("org_a", 101), ("org_b", 100)):
        with pytest.raises(Conflict):
            await ledger.grant("1", organization, amount)
    for amount in (0, MOST + 1, -MOST - 1, MOST):
        with pytest.raises(Invalid):
            await ledger.grant("4", "org_a", amount)
    with pytest.raises(NotFound):
        await ledger.grant("5", "org_z", 1)
    with pytest.raises(NotFound):
        await ledger.balance("org_z")
    assert await counted(db, "ledger_transactions") == 2
    assert (await balances(db))["platform:grants"] == -70


async def test_an_organization_of_another_process_gets_its_account_with_the_first_grant(
    ledger: Ledger, db: Database
) -> None:
    async with db.write() as tx:
        await tx.execute(text("DELETE FROM accounts WHERE id = 'org\\:org_b'"))
    with pytest.raises(NotFound):
        await ledger.draw(a_draw("1", 1, org="org_b"))
    assert await ledger.grant("1", "org_b", 5) == 5
    assert await ledger.draw(a_draw("1", 1, org="org_b")) == 1


async def test_a_draw_gives_what_is_wanted_and_a_thousandth_of_plenty(ledger: Ledger) -> None:
    await ledger.grant("1", "org_a", 1_000_000)
    assert await ledger.draw(a_draw("1", 10, 20)) == 1000
    assert await ledger.draw(a_draw("1", 10, 20)) == 1000
    assert await ledger.draw(a_draw("2", 10, 2000)) == 2000
    assert await ledger.draw(a_draw("3", 10, 20, KEY, purse="q")) == 20
    assert await ledger.balance("org_a") == Balance(996_980, 3020, 996_980)


async def test_the_last_credits_go_fee_by_fee(ledger: Ledger) -> None:
    await ledger.grant("1", "org_a", 55)
    assert await ledger.draw(a_draw("1", 10, 40)) == 40
    assert await ledger.draw(a_draw("2", 10, 40)) == 15
    with pytest.raises(Exhausted, match="10 micro-credits must be there to go on, and your organization has 0 left"):
        await ledger.draw(a_draw("3", 10, 40))
    assert await ledger.balance("org_a") == Balance(0, 55, 0)


async def test_all_budgets_of_a_purse_must_have_room(ledger: Ledger, db: Database) -> None:
    await ledger.grant("1", "org_a", 10_000_000)
    assert (await ledger.balance("org_a", [KEY, RUN])).room == 50
    assert await ledger.draw(a_draw("1", 5, 60, KEY, RUN)) == 50
    assert await used(db) == {"key:k": 50, "run:r": 50}
    assert await ledger.draw(a_draw("2", 5, 30, KEY, purse="q")) == 30
    assert (await ledger.balance("org_a", [KEY])).room == 20
    assert (await ledger.balance("org_a", [KEY, RUN])).room == 0
    with pytest.raises(Exhausted, match=r"run's budget doesn't allow more: 5 .* of its 50 there are 0 left"):
        await ledger.draw(a_draw("3", 5, 5, KEY, RUN))
    with pytest.raises(Exhausted, match=r"key's budget doesn't allow more: 21 .* of its 100 there are 20 left"):
        await ledger.draw(a_draw("3", 21, 21, KEY, purse="q"))
    assert await used(db) == {"key:k": 80, "run:r": 50}
    await ledger.give_back("1", "p", 20)
    assert await used(db) == {"key:k": 60, "run:r": 30}
    await ledger.settle([a_bill("run_1", 30, 10, "key:k", "run:r")])
    assert await used(db) == {"key:k": 40, "run:r": 10}


async def test_a_limit_is_that_of_the_first_draw(ledger: Ledger) -> None:
    await ledger.grant("1", "org_a", 1000)
    assert await ledger.draw(a_draw("1", 5, 500, RUN)) == 50
    with pytest.raises(Exhausted):
        await ledger.draw(a_draw("2", 5, 5, Budget(RUN.id, 500)))


async def test_a_refused_draw_leaves_nothing(ledger: Ledger, db: Database) -> None:
    await ledger.grant("1", "org_a", 10)
    before = await balances(db)
    for draw in (a_draw("1", 11), a_draw("1", 5, 5, Budget("run:r", 4))):
        with pytest.raises(Exhausted):
            await ledger.draw(draw)
    assert await balances(db) == before
    assert [await counted(db, table) for table in ("purses", "budgets", "ledger_transactions")] == [0, 0, 1]
    assert await ledger.draw(a_draw("1", 5)) == 5


async def test_a_purse_is_of_one_organization_life_and_set_of_budgets(ledger: Ledger) -> None:
    await ledger.grant("1", "org_a", 1000)
    await ledger.grant("2", "org_b", 1000)
    await ledger.draw(a_draw("1", 1, 1, KEY, RUN))
    assert await ledger.draw(a_draw("2", 1, 1, RUN, KEY)) == 1
    for draw in (a_draw("3", 1, 1, KEY), a_draw("4", 1), a_draw("5", 1, 1, KEY, RUN, org="org_b")):
        with pytest.raises(Invalid):
            await ledger.draw(draw)
    with pytest.raises(Invalid):
        await ledger.draw(a_draw("1", 1, purse="another"))


async def test_what_is_given_back_is_there_again_once(ledger: Ledger) -> None:
    await ledger.grant("1", "org_a", 100)
    await ledger.draw(a_draw("1", 60))
    for _ in range(2):
        await ledger.give_back("1", "p", 25)
    assert await ledger.balance("org_a") == Balance(65, 35, 65)
    for purse, amount in (("p", 36), ("another", 1)):
        with pytest.raises(Conflict):
            await ledger.give_back("2", purse, amount)
    for amount in (0, -1, MOST + 1):
        with pytest.raises(Invalid):
            await ledger.give_back("3", "p", amount)


async def test_a_bill_pays_and_frees_the_rest_once(ledger: Ledger, db: Database) -> None:
    await ledger.grant("1", "org_a", 100)
    await ledger.draw(a_draw("1", 60))
    first, other = a_bill("run_1", 30, 10), a_bill("run_1", 30, 29)
    await ledger.settle([first, other, a_bill("run_2", 20, 0), a_bill("run_3", 0, 0, purse="never drawn")])
    await ledger.settle([other, first])
    found = await balances(db)
    assert (found["platform:revenue"], found["purse:p"], found["org:org_a"]) == (10, 10, 80)
    assert await ledger.balance("org_a") == Balance(80, 10, 80)
    assert await counted(db, "bills") == 3


async def test_a_bill_that_isnt_covered_is_charged_what_was_reserved(ledger: Ledger, db: Database) -> None:
    await ledger.grant("1", "org_a", 100)
    await ledger.draw(a_draw("1", 60))
    await ledger.settle([a_bill("run_1", 30, 31), a_bill("run_2", -1, 0), a_bill("", 1, 1), a_bill("run_3", 10, 10)])
    found = await balances(db)
    assert (found["platform:revenue"], found["purse:p"], found["platform:losses"]) == (40, 20, 0)
    with pytest.raises(Invalid):
        await ledger.settle([a_bill(f"run_{n}", 0, 0) for n in range(MAX_BILLS + 1)])
    await ledger.settle([])


async def test_no_bill_takes_from_anothers_purse(ledger: Ledger, db: Database) -> None:
    await ledger.grant("1", "org_a", 100)
    await ledger.draw(a_draw("1", 60))
    await ledger.settle([a_bill("run_1", 30, 10, org="org_b"), a_bill("run_2", 30, 10, org="org_z")])
    found = await balances(db)
    assert (found["purse:p"], found["platform:revenue"], found["platform:losses"]) == (60, 20, -20)


async def test_a_purse_that_nobody_keeps_is_swept_once(
    ledger: Ledger, sweep: Sweep, clock: FakeClock, db: Database
) -> None:
    await ledger.grant("1", "org_a", 100)
    await ledger.draw(a_draw("1", 40, 40, KEY))
    await ledger.draw(a_draw("2", 30, purse="q"))
    await clock.advance(59)
    assert await sweep.once() == 0
    assert await ledger.keep("life-q", ["q", "p", "unknown"]) == ["unknown"]
    await clock.advance(2)
    assert [await sweep.once() for _ in range(2)] == [1, 0]
    assert await ledger.balance("org_a") == Balance(70, 30, 70)
    assert await used(db) == {"key:k": 0}
    assert await ledger.keep("life-p", ["p", "q"]) == ["p"]
    for draw in (a_draw("1", 40, 40, KEY), a_draw("3", 1, 1, KEY)):
        with pytest.raises(Conflict):
            await ledger.draw(draw)
    with pytest.raises(Conflict):
        await ledger.give_back("1", "p", 1)
    await clock.advance(61)
    assert await sweep.once() == 1
    assert await ledger.balance("org_a") == Balance(100, 0, 100)


async def test_purses_with_money_are_swept_first_and_empty_ones_together(
    ledger: Ledger, sweep: Sweep, clock: FakeClock, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those with the most before all others; an empty one takes no transaction of its own."""
    await ledger.grant("1", "org_a", 1000)
    for number in range(30):
        await ledger.draw(a_draw(str(number), number + 1, purse=f"p{number:02}"))
        if number not in (7, 21):
            await ledger.give_back(str(number), f"p{number:02}", number + 1)
    await clock.advance(61)
    changes: list[str] = []
    hold_left = SqlBooksChange.hold_left

    async def held(self: SqlBooksChange, purse: Purse, due: Due) -> bool:
        changes.append(purse.id)
        return await hold_left(self, purse, due)

    monkeypatch.setattr(SqlBooksChange, "hold_left", held)
    assert await sweep.once() == 30
    assert changes == ["p21", "p07"]
    assert await ledger.balance("org_a") == Balance(1000, 0, 1000)
    for number in (0, 21):
        with pytest.raises(Conflict):
            await ledger.draw(a_draw("again", 1, purse=f"p{number:02}"))


async def test_a_closed_purse_is_swept_when_it_is_empty_or_no_bill_can_come(
    ledger: Ledger, sweep: Sweep, clock: FakeClock
) -> None:
    """Its executor goes on living. What it still has is for bills that are on their way."""
    await ledger.grant("1", "org_a", 100)
    for name in ("empty", "full", "open", "foreign"):
        draw = a_draw(name, 10, purse=name)
        await ledger.draw(replace(draw, incarnation="other" if name == "foreign" else "life"))
    for name in ("empty", "open", "foreign"):
        await ledger.give_back(name, name, 10)
    closed = ["empty", "full", "foreign", "unknown"]
    assert await ledger.keep("life", ["open"], closed) == []
    assert await sweep.once() == 1
    assert await ledger.keep("life", [*closed, "open"]) == ["empty", "unknown"]
    await clock.advance(CLOSED_LIFE.total_seconds())
    await ledger.keep("life", [])
    await ledger.keep("other", [])
    assert await sweep.once() == 0
    await ledger.keep("life", [], closed)  # again: it counts from the first time on
    await clock.advance(1)
    assert await sweep.once() == 1
    assert await ledger.balance("org_a") == Balance(100, 0, 100)
    assert await ledger.keep("life", [*closed, "open"]) == ["empty", "full", "unknown"]
    with pytest.raises(Invalid):
        await ledger.keep("life", [], ["x"] * (MAX_NAMED + 1))


async def test_who_draws_into_a_new_purse_lives(ledger: Ledger, sweep: Sweep, clock: FakeClock) -> None:
    await ledger.grant("1", "org_a", 100)
    await ledger.draw(a_draw("1", 40))
    await clock.advance(61)
    later = a_draw("2", 40, purse="q")
    await ledger.draw(type(later)(**vars(later) | {"incarnation": "life-p"}))
    assert await sweep.once() == 0


async def test_a_late_bill_is_paid_as_far_as_there_is_something(
    ledger: Ledger, sweep: Sweep, clock: FakeClock, db: Database
) -> None:
    await ledger.grant("1", "org_a", 100)
    await ledger.draw(a_draw("1", 60, 60, KEY))
    await clock.advance(61)
    await sweep.once()
    await ledger.draw(a_draw("2", 80, 80, KEY, purse="q"))
    await ledger.settle([a_bill("run_1", 30, 25, "key:k"), a_bill("run_2", 30, 0, "key:k")])
    found = await balances(db)
    assert (found["org:org_a"], found["platform:revenue"], found["platform:losses"]) == (0, 25, -5)
    assert await used(db) == {"key:k": 100}


async def test_stored_files_are_paid_as_far_as_there_is_something(ledger: Ledger, db: Database) -> None:
    """Without a purse, once each; what an executor has drawn isn't touched."""
    await ledger.grant("1", "org_a", 100)
    await ledger.draw(a_draw("1", 40, 40))
    bills = [a_bill(f"sto_{n}", 45, 45, purse="") for n in range(2)]
    for _ in range(2):
        await ledger.settle(bills)
    await ledger.settle([a_bill("sto_0", 9, 9, purse="")])
    found = await balances(db)
    assert (found["org:org_a"], found["purse:p"]) == (0, 40)
    assert (found["platform:revenue"], found["platform:losses"]) == (90, -30)
    async with db.read() as tx:
        kinds = await tx.execute(text("SELECT key, kind FROM ledger_transactions WHERE kind = 'storage' ORDER BY key"))
        assert [tuple(row) for row in kinds] == [("storage:sto_0", "storage"), ("storage:sto_1", "storage")]


SEALED = {"ledger_transactions": "kind", "ledger_entries": "amount", "bills": "charge", "bill_lines": "amount"}


@pytest.mark.parametrize("table", SEALED)
async def test_the_ledger_is_append_only(ledger: Ledger, db: Database, table: str) -> None:
    await ledger.grant("1", "org_a", 100)
    await ledger.draw(a_draw("1", 60))
    await ledger.settle([a_bill("run_1", 30, 10)])
    before = await counted(db, table)
    statements = [f"UPDATE {table} SET {SEALED[table]} = {SEALED[table]}", f"DELETE FROM {table}"]
    if db.shared:
        statements.append(f"TRUNCATE {table} CASCADE")
    else:
        statements.append(f"INSERT OR REPLACE INTO {table} SELECT * FROM {table}")
        statements.append(f"UPDATE OR REPLACE {table} SET rowid = rowid + 1")
        statements.append(_by_row(table, await _columns(db, table)))
    for statement in statements:
        with pytest.raises(DBAPIError, match="append-only"):
            async with db.write() as tx:
                await tx.execute(text(statement))
    assert await counted(db, table) == before > 0


async def _columns(db: Database, table: str) -> list[str]:
    async with db.read() as tx:
        return list((await tx.execute(text(f"SELECT * FROM {table} LIMIT 1"))).keys())


def _by_row(table: str, columns: list[str]) -> str:
    """In the place of a row of another key."""
    others = [f"{name} || 'x'" if name in ("id", "key") else name for name in columns]
    into, values = ", ".join(["rowid", *columns]), ", ".join(["rowid", *others])
    return f"INSERT OR REPLACE INTO {table} ({into}) SELECT {values} FROM {table}"


async def test_a_transaction_isnt_replaced_by_another_of_its_key(ledger: Ledger, db: Database) -> None:
    if db.shared:
        return  # PostgreSQL has no such statement
    await ledger.grant("1", "org_a", 100)
    async with db.write() as tx:
        await tx.execute(
            text("INSERT OR REPLACE INTO ledger_transactions SELECT 'txn_x', key, 'run', at FROM ledger_transactions")
        )
    async with db.read() as tx:
        rows = (await tx.execute(text("SELECT id, kind FROM ledger_transactions"))).all()
    assert [(row.id == "txn_x", row.kind) for row in rows] == [(False, "grant")]


async def test_the_database_itself_refuses_what_is_below_a_limit(ledger: Ledger, db: Database) -> None:
    await ledger.grant("1", "org_a", 100)
    await ledger.draw(a_draw("1", 10, 10, KEY))
    for statement in (
        "UPDATE accounts SET balance = -1 WHERE id = 'org\\:org_a'",
        "UPDATE accounts SET balance = -1 WHERE id = 'purse\\:p'",
        "UPDATE budgets SET used = 101",
        "UPDATE budgets SET used = -1",
    ):
        with pytest.raises(DBAPIError, match=r"(?i)check constraint"):
            async with db.write() as tx:
                await tx.execute(text(statement))


class Undone(Exception):
    """Nothing of it is committed."""


async def test_the_audit_finds_what_is_wrong(ledger: Ledger, db: Database, clock: FakeClock, sweep: Sweep) -> None:
    """Else the other tests would prove nothing."""
    await ledger.grant("1", "org_a", 100)
    await ledger.draw(a_draw("1", 10))
    await ledger.settle([a_bill("run_1", 2, 2)])
    await clock.advance(61)
    assert await sweep.once() == 1
    found = await broken(
        db,
        "UPDATE accounts SET balance = 3 WHERE id = 'purse\\:p'",
        "INSERT INTO bills SELECT (SELECT max(id) FROM ledger_transactions), 'another', attempt, root_id, "
        "organization_id, service_id, key_id, day, reserved, charge, cpu_ms, tokens_in, tokens_out, egress_bytes "
        "FROM bills",
        "INSERT INTO ledger_entries VALUES ((SELECT max(id) FROM ledger_transactions), 'platform\\:losses', 1)",
    )
    assert found == {title for title, _ in AUDITS if "below" not in title and "passed" not in title}


async def broken(db: Database, *statements: str) -> set[str]:
    """What the audit finds after these."""
    found: set[str] = set()
    with suppress(Undone):
        async with db.write() as tx:
            for statement in statements:
                await tx.execute(text(statement))
            found = set(await audit_in(tx))
            raise Undone
    return found
