"""Several processes of the keys service at work on one set of books; on SQLite it is one, with many callers."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from datetime import timedelta
from pathlib import Path
from random import Random

import pytest
from sqlalchemy import text

import kit.postgres
from keys.ledger import Balance, Ledger
from keys.ledger_store import SqlBooks, SqlBooksChange
from keys.money import Budget
from keys.sweep import Sweep
from keys.usage import Group, Usage
from keys.usage_store import SqlUsage
from kit.clock import FakeClock
from kit.db import Database, open_db
from kit.errors import Conflict, Exhausted
from tests.databases import database_url, is_postgres
from tests.ledger_books import NOW, a_bill, a_draw, audit, balances, counted, open_organizations

CALLERS = 4  # of each process: no more than it has connections


@pytest.fixture
async def processes(database: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[Database]]:
    # Nobody gives up before the server has looked whether there is a circle (a second): that would be Unavailable.
    monkeypatch.setitem(kit.postgres._SESSION, "lock_timeout", "9s")
    url = database("keys")
    async with AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(open_db(url)) for _ in range(3 if is_postgres(url) else 1)]
        await open_organizations(opened[0], "org_a", "org_b")
        yield opened
        assert await audit(opened[0]) == {}


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(NOW)


@pytest.fixture
def ledgers(processes: list[Database], clock: FakeClock) -> list[Ledger]:
    """One for each caller."""
    return [Ledger(SqlBooks(db), clock) for db in processes for _ in range(CALLERS)]


async def test_of_the_last_credits_exactly_what_there_is_is_drawn(
    processes: list[Database], ledgers: list[Ledger]
) -> None:
    await ledgers[0].grant("1", "org_a", 507)
    drawn: Counter[int] = Counter()

    async def caller(number: int, ledger: Ledger) -> None:
        with suppress(Exhausted):
            for turn in range(200):
                drawn[await ledger.draw(a_draw(f"{number}-{turn}", 10, purse=f"p{number % 3}"))] += 1

    await asyncio.gather(*(caller(*each) for each in enumerate(ledgers)))
    assert drawn == {10: 50}
    assert await ledgers[0].balance("org_a") == Balance(7, 500, 7)


async def test_a_budget_is_exact_whoever_draws(processes: list[Database], ledgers: list[Ledger]) -> None:
    await ledgers[0].grant("1", "org_a", 10_000)
    budgets = (Budget("key:k", 333), Budget("run:r", 1000))
    drawn: Counter[str] = Counter()

    async def caller(number: int, ledger: Ledger) -> None:
        purse = f"p{number}"
        with suppress(Exhausted):
            for turn in range(200):
                drawn[purse] += await ledger.draw(a_draw(f"{number}-{turn}", 10, 30, *budgets, purse=purse))

    await asyncio.gather(*(caller(*each) for each in enumerate(ledgers)))
    assert 324 <= drawn.total() <= 333
    assert (await ledgers[0].balance("org_a", budgets)).room == 333 - drawn.total()


async def test_the_same_at_once_happens_once(processes: list[Database], ledgers: list[Ledger]) -> None:
    await asyncio.gather(*(ledger.grant("1", "org_a", 1000) for ledger in ledgers))
    assert set(await asyncio.gather(*(ledger.draw(a_draw("1", 100, 300)) for ledger in ledgers))) == {300}
    await asyncio.gather(*(ledger.give_back("1", "p", 100) for ledger in ledgers))
    bills = [a_bill(f"run_{n}", 10, 7) for n in range(20)]
    await asyncio.gather(*(ledger.settle(Random(n).sample(bills, 20)) for n, ledger in enumerate(ledgers)))
    assert await ledgers[0].balance("org_a") == Balance(860, 0, 860)
    assert (await balances(processes[0]))["platform:revenue"] == 140


async def test_an_attempt_with_bills_of_several_purses_is_one_run(
    processes: list[Database], ledgers: list[Ledger], clock: FakeClock
) -> None:
    """Whoever books them, at the same moment."""
    await ledgers[0].grant("1", "org_a", 10_000)
    bills = [a_bill(f"run_{n}", 1, 1, purse=f"p{purse}") for n in range(30) for purse in range(4)]
    parts = [Random(n).sample(bills, 60) for n, _ in enumerate(ledgers)]
    await asyncio.gather(*(ledger.settle(part) for ledger, part in zip(ledgers, parts, strict=True)))
    (day,) = (await Usage(SqlUsage(processes[0]), clock)("org_a", Group.DAY)).items
    assert day.runs == len({bill.run_id for part in parts for bill in part})


async def test_a_purse_is_swept_once_or_kept(
    processes: list[Database], ledgers: list[Ledger], clock: FakeClock
) -> None:
    """The executor that is told that it has a purse still has it, whoever sweeps at that moment."""
    await ledgers[0].grant("1", "org_a", 1000)
    for number in range(30):
        await ledgers[0].draw(a_draw(str(number), 10, purse=f"p{number}"))
    await clock.advance(61)
    sweeping = asyncio.gather(*(Sweep(SqlBooks(db), clock).once() for db in processes))
    keeping = (ledgers[-1].keep(f"life-p{number}", [f"p{number}"]) for number in range(0, 30, 2))
    kept = await asyncio.gather(*keeping)
    await sweeping
    gone = {name for answer in kept for name in answer}
    for number in range(30):
        if number % 2 or f"p{number}" in gone:
            with pytest.raises(Conflict):
                await ledgers[0].draw(a_draw(f"again-{number}", 10, purse=f"p{number}"))
        else:
            assert await ledgers[0].draw(a_draw(f"again-{number}", 10, purse=f"p{number}")) == 10
    assert await counted(processes[0], "ledger_transactions") == 1 + 30 + 30


async def test_who_draws_into_an_empty_purse_that_is_swept_is_refused_or_keeps_it(
    processes: list[Database], ledgers: list[Ledger], clock: FakeClock
) -> None:
    await ledgers[0].grant("1", "org_a", 1000)
    for number in range(30):
        await ledgers[0].draw(a_draw(str(number), 10, purse=f"p{number}"))
        await ledgers[0].give_back(str(number), f"p{number}", 10)
    await clock.advance(61)
    sweeping = asyncio.gather(*(Sweep(SqlBooks(db), clock).once() for db in processes for _ in range(2)))
    drawn: set[int] = set()

    async def caller(first: int, ledger: Ledger) -> None:
        for number in range(first, 30, len(ledgers)):
            with suppress(Conflict):
                drawn.add(number * await ledger.draw(a_draw(f"x{number}", 1, purse=f"p{number}")))

    await asyncio.gather(*(caller(*each) for each in enumerate(ledgers)))
    await sweeping
    await Sweep(SqlBooks(processes[0]), clock).once()
    assert await ledgers[0].balance("org_a") == Balance(1000, 0, 1000)
    async with processes[0].read() as tx:
        query = text("SELECT count(*) FROM ledger_transactions WHERE kind = 'sweep'")
        assert (await tx.execute(query)).scalar_one() == len(drawn)


async def test_who_makes_a_budget_holds_no_other(
    request: pytest.FixtureRequest, tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slow one makes the first budget, and wants the second, which was made meanwhile; so does the other one."""
    first, second, made = Budget("key:1", 100), Budget("key:2", 100), asyncio.Event()
    add = SqlBooksChange.add_budgets

    async def slowly(self: SqlBooksChange, new: Sequence[Budget]) -> None:
        slow = len(new) == 2
        if slow:
            await ledger.draw(a_draw("meanwhile", 1, 1, second, purse="m", org="org_a"))
        await add(self, new)
        if slow:
            made.set()
            await asyncio.sleep(0.3)

    monkeypatch.setattr(SqlBooksChange, "add_budgets", slowly)
    async with open_db(database_url(request, "postgres", tmp_path, "keys")) as db:
        ledger = Ledger(SqlBooks(db), clock)
        await open_organizations(db, "org_a", "org_b", "org_c")
        for org in ("org_a", "org_b", "org_c"):
            await ledger.grant(org, org, 1000)
        slow = asyncio.create_task(ledger.draw(a_draw("slow", 1, 1, first, second, purse="s", org="org_b")))
        await made.wait()
        assert await ledger.draw(a_draw("other", 1, 1, first, second, purse="o", org="org_c")) == 1
        assert await slow == 1


async def test_nobody_waits_in_a_circle(processes: list[Database], ledgers: list[Ledger], clock: FakeClock) -> None:
    """Everything at once, on the same few rows, in any order."""
    for org in ("org_a", "org_b"):
        await ledgers[0].grant(org, org, 1_000_000)
    life = clock.now() + timedelta(seconds=61)
    budgets = [Budget(f"key:{n}", 10**6) for n in range(4)]
    done: Counter[str] = Counter()

    async def caller(number: int, ledger: Ledger) -> None:
        random = Random(number)
        for turn in range(25):
            org = random.choice(["org_a", "org_b"])
            purse = f"{org}-{number % 4}-{turn // 12}"
            mine = random.sample(budgets[: 1 + number % 4], 1 + number % 4)
            with suppress(Conflict):
                await ledger.draw(a_draw(f"{number}-{turn}", 50, 50, *mine, purse=purse, org=org))
                done["drawn"] += 1
                await ledger.give_back(f"{number}-{turn}", purse, 10)
                done["given back"] += 1
            names = [budget.id for budget in mine]
            bills = [a_bill(f"run_{n}-{turn}", 5, n, *names, purse=purse, org=org) for n in range(4)]
            await ledger.settle(random.sample(bills, 4))
            await ledger.keep(f"life-{purse}", [purse], [f"{org}-{number % 4}-{turn // 12 - 1}"])
            if turn == 11 and number < len(processes):
                late = FakeClock(life)
                done["swept"] += await Sweep(SqlBooks(processes[number]), late).once()

    await asyncio.gather(*(caller(*each) for each in enumerate(ledgers)))
    assert min(done[name] for name in ("drawn", "given back", "swept")) > 0
