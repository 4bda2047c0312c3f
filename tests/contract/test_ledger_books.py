"""The books under any order of grants, draws, bills, sweeps, repeats and crashes, on both engines: they are always
right, and as a model in plain numbers says.
"""

import asyncio
import shutil
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import text

from keys import sweep, usage, usage_store
from keys.ledger import Ledger
from keys.ledger_store import SqlBooks, SqlBooksChange
from keys.money import CLOSED_LIFE, PURSE_LIFE, Bill, BillLine, Budget, Draw, Transaction
from keys.money import Purse as SweptPurse
from keys.sweep import RECENT, Due, Sweep
from keys.usage import Attempt
from kit.clock import FakeClock
from kit.db import Database, open_db
from kit.errors import Conflict, Exhausted, Problem
from kit.names import new_id
from migrations.__main__ import upgrade
from tests.databases import is_postgres
from tests.ledger_books import NOW, Crash, CrashingBooks, a_bill, audit, balances, open_organizations

AMOUNTS = st.integers(1, 60)
LIMITS = {"key:k": 100, "run:r": 40}
LINES = [BillLine("cpu", 900, 0), BillLine("tokens:v/m:in", 50, 0), BillLine("tokens:v/m:out", 7, 0)]
SETS = st.sampled_from([(), ("key:k",), ("key:k", "run:r")])


@dataclass
class Purse:
    """As its executor knows it, who hears of a sweep only when it is refused something."""

    id: str
    org: str
    life: str
    budgets: tuple[str, ...]
    # Neither given back nor in a bill.
    left: int = 0
    swept: bool = False
    closed: datetime | None = None


@dataclass
class Model:
    """What should be."""

    orgs: Counter[str] = field(default_factory=Counter)
    purses: Counter[str] = field(default_factory=Counter)
    used: Counter[str] = field(default_factory=Counter)
    granted: int = 0
    revenue: int = 0
    lost: int = 0
    # By the key of the bill.
    charged: dict[str, int] = field(default_factory=dict)

    def room(self, org: str, budgets: tuple[str, ...]) -> int:
        return min(self.orgs[org], *(LIMITS[name.partition("@")[0]] - self.used[name] for name in budgets), 10**9)

    def use(self, budgets: tuple[str, ...], amount: int) -> None:
        for name in budgets:
            self.used[name] = min(self.used[name] + amount, LIMITS[name.partition("@")[0]])

    def settle(self, bill: Bill) -> None:
        if bill.key in self.charged:
            return
        self.charged[bill.key] = bill.charge
        swept = not self.purses[bill.purse_id] and bill.reserved > 0
        leaves = 0 if swept else bill.reserved
        back = leaves - min(leaves, bill.charge)
        late = bill.charge - min(leaves, bill.charge)
        owed = min(late, self.orgs[bill.organization_id])
        self.purses[bill.purse_id] -= leaves
        self.orgs[bill.organization_id] += back - owed
        self.use(bill.budgets, late - back)
        self.revenue += bill.charge
        self.lost += late - owed


class Machine(RuleBasedStateMachine):
    """Executors, callers and a sweeper; `url` makes a database."""

    url: Callable[[], str]

    @initialize()
    def begin(self) -> None:
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        self.model, self.clock = Model(), FakeClock(NOW)
        # Others have the same database on PostgreSQL: every name is of this example.
        self.mark = new_id("x")[-10:]
        self.all: list[Purse] = []
        # When each life of an executor was last heard of.
        self.heard: dict[str, datetime] = {}
        self.bills: list[Bill] = []
        self.done: list[tuple[Callable[[], Coroutine[Any, Any, object]], object]] = []
        self.run(self._open())

    async def _open(self) -> None:
        self.db: Database = await self.stack.enter_async_context(open_db(self.url()))
        self.orgs = [f"org_{self.mark}{letter}" for letter in "ab"]
        await open_organizations(self.db, *self.orgs)
        self.books = CrashingBooks(self.db)
        self.ledger, self.sweeper = Ledger(self.books, self.clock), Sweep(self.books, self.clock)
        for org in self.orgs:
            await self.ledger.grant(new_id("grant"), org, 150)
            self.model.orgs[org] = 150
        self.model.granted = 300

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(work)

    def twice(self, call: Callable[[], Coroutine[Any, Any, object]], *, crash: bool) -> Any:
        """With `crash` first once in vain; kept, so that it may be sent again."""
        if crash:
            self.books.crash = True
            with suppress(Crash, Conflict, Exhausted):
                self.run(call())
            self.books.crash = False
        answer = self.run(call())
        self.done.append((call, answer))
        return answer

    @rule(which=st.integers(0, 1), amount=st.integers(-30, 200), crash=st.booleans())
    def grant(self, which: int, amount: int, crash: bool) -> None:
        org, name = self.orgs[which], new_id("grant")
        if not amount:
            return
        if self.model.orgs[org] + amount < 0:
            with pytest.raises(Exhausted):
                self.twice(lambda: self.ledger.grant(name, org, amount), crash=crash)
            return
        self.model.orgs[org] += amount
        self.model.granted += amount
        assert self.twice(lambda: self.ledger.grant(name, org, amount), crash=crash) == self.model.orgs[org]
        self.done[-1] = (self.done[-1][0], ...)  # it is asked what there is, which changes

    @rule(which=st.integers(0, 1), life=st.integers(0, 1), budgets=SETS)
    def draw_into_a_new_purse(self, which: int, life: int, budgets: tuple[str, ...]) -> None:
        org = self.orgs[which]
        mine = tuple(f"{name}@{org}" for name in budgets)
        self.all.append(Purse(new_id("purse"), org, f"life{life}-{self.mark}", mine))
        self._draw(self.all[-1], 20, 5, crash=False)

    @precondition(lambda self: self.all)
    @rule(data=st.data(), need=AMOUNTS, more=st.integers(0, 50), crash=st.booleans())
    def draw(self, data: st.DataObject, need: int, more: int, crash: bool) -> None:
        self._draw(data.draw(st.sampled_from(self.all)), need, more, crash=crash)

    def _draw(self, purse: Purse, need: int, more: int, *, crash: bool) -> None:
        budgets = tuple(Budget(name, LIMITS[name.partition("@")[0]]) for name in purse.budgets)
        asked = Draw(new_id("draw"), purse.id, purse.org, purse.life, budgets, need, need + more)
        room = self.model.room(purse.org, purse.budgets)
        if purse.swept or room < need:
            with pytest.raises(Conflict if purse.swept and room >= need else (Conflict, Exhausted)):
                self.twice(lambda: self.ledger.draw(asked), crash=crash)
            return
        amount = self.twice(lambda: self.ledger.draw(asked), crash=crash)
        assert amount == min(room, asked.want)
        self.model.orgs[purse.org] -= amount
        if purse.id not in self.model.purses:
            self.hears(purse.life, PURSE_LIFE / 3)
        self.model.purses[purse.id] += amount
        self.model.use(purse.budgets, amount)
        purse.left += amount

    def hears(self, life: str, unless: timedelta = timedelta(0)) -> None:
        """Of this life; what was heard so lately counts as well."""
        now = self.clock.now()
        if now - self.heard.get(life, NOW - PURSE_LIFE) > unless:
            self.heard[life] = now

    @precondition(lambda self: any(purse.left for purse in self.all))
    @rule(data=st.data(), crash=st.booleans())
    def give_back(self, data: st.DataObject, crash: bool) -> None:
        purse = data.draw(st.sampled_from([purse for purse in self.all if purse.left]))
        self._give_back(purse, data.draw(st.integers(1, purse.left)), crash=crash)

    def _give_back(self, purse: Purse, amount: int, *, crash: bool) -> None:
        name = new_id("give")
        purse.left -= amount
        if purse.swept:
            with pytest.raises(Conflict):
                self.twice(lambda: self.ledger.give_back(name, purse.id, amount), crash=crash)
            return
        self.twice(lambda: self.ledger.give_back(name, purse.id, amount), crash=crash)
        self.model.orgs[purse.org] += amount
        self.model.purses[purse.id] -= amount
        self.model.use(purse.budgets, -amount)

    @precondition(lambda self: any(purse.left for purse in self.all))
    @rule(data=st.data())
    def end_run(self, data: st.DataObject) -> None:
        """Its bill waits to be sent; it may have one of another purse."""
        purse = data.draw(st.sampled_from([purse for purse in self.all if purse.left]))
        reserved = data.draw(st.integers(1, purse.left))
        purse.left -= reserved
        charge = data.draw(st.integers(0, reserved))
        others = [
            one.run_id for one in self.bills if one.purse_id not in ("", purse.id) and one.organization_id == purse.org
        ]
        again = data.draw(st.booleans())
        run = others[-1] if others and again else new_id("run")
        bill = a_bill(run, reserved, charge, *purse.budgets, purse=purse.id, org=purse.org)
        if bill.key in {one.key for one in self.bills}:
            return
        lines = data.draw(st.lists(st.sampled_from(LINES), unique=True))
        day = timedelta(days=data.draw(st.integers(0, 1)))
        self.bills.append(replace(bill, lines=(*bill.lines, *lines), at=NOW + day))

    @rule(which=st.integers(0, 1), charge=st.integers(1, 120))
    def keep_files(self, which: int, charge: int) -> None:
        """Without a purse."""
        self.bills.append(a_bill(new_id("sto"), charge, charge, purse="", org=self.orgs[which]))

    @precondition(lambda self: self.bills)
    @rule(data=st.data(), crash=st.booleans())
    def settle(self, data: st.DataObject, crash: bool) -> None:
        """Some that wait, or were sent before, or are another word about the same attempt."""
        sent = data.draw(st.lists(st.sampled_from(self.bills), min_size=1, max_size=6))
        sent = [replace(bill, charge=bill.reserved // 2) if data.draw(st.booleans()) else bill for bill in sent]
        self.twice(lambda: self.ledger.settle(sent), crash=crash)
        first = {bill.key: bill for bill in reversed(sent)}
        for key in sorted(first):
            self.model.settle(first[key])

    @rule(life=st.integers(0, 1))
    def keep(self, life: int) -> None:
        name = f"life{life}-{self.mark}"
        named = [purse.id for purse in self.all if purse.id in self.model.purses]
        swept = self.run(self.ledger.keep(name, named))
        assert swept == [purse.id for purse in self.all if purse.id in named and purse.swept]
        if name in self.heard:
            self.hears(name)

    @precondition(lambda self: self.all)
    @rule(data=st.data(), own=st.sampled_from([True, True, False]), emptied=st.booleans())
    def close(self, data: st.DataObject, own: bool, emptied: bool) -> None:
        """An executor is done with a purse; what another says of it isn't heard. Then those are swept that may be."""
        purse = data.draw(st.sampled_from(self.all))
        name = purse.life if own else f"life{1 - int(purse.life[4])}-{self.mark}"
        if emptied and purse.left:
            self._give_back(purse, purse.left, crash=False)
        self.run(self.ledger.keep(name, [], [purse.id, "unknown"]))
        if name in self.heard:
            self.hears(name)
        if purse.id in self.model.purses and purse.life == name and not purse.swept:
            purse.closed = purse.closed or self.clock.now()
        self.run(self.sweeper.once())
        self._swept_as_it_should_be()

    @rule(seconds=st.sampled_from([61, 61, 30, 30, 27 * 3600]), life=st.sampled_from([None, 0, 1]), crash=st.booleans())
    def time_passes(self, seconds: int, life: int | None, crash: bool) -> None:
        """One of the executors may be heard of, then what was left is swept."""
        self.run(self.clock.advance(seconds))
        if life is not None:
            self.keep(life)
        self.books.crash = crash
        with suppress(Crash):
            self.run(self.sweeper.once())
        self.books.crash = False
        self.run(self.sweeper.once())
        self._swept_as_it_should_be()

    def _swept_as_it_should_be(self) -> None:
        silent = {life for life, heard in self.heard.items() if self.clock.now() - heard > PURSE_LIFE}
        swept = self.run(self._swept())
        for purse in self.all:
            done = purse.life in silent or self._done_with(purse)
            gone = purse.id in self.model.purses and (purse.swept or done)
            assert gone == (purse.id in swept)
            if gone and not purse.swept:
                purse.swept = True
                amount = self.model.purses[purse.id]
                self.model.orgs[purse.org] += amount
                self.model.purses[purse.id] = 0
                self.model.use(purse.budgets, -amount)

    def _done_with(self, purse: Purse) -> bool:
        """Without what is in it bills that come late wouldn't be paid."""
        if purse.closed is None:
            return False
        since = self.clock.now() - purse.closed
        return since > CLOSED_LIFE or (since <= RECENT and not self.model.purses[purse.id])

    async def _swept(self) -> set[str]:
        async with self.db.read() as tx:
            return set((await tx.execute(text("SELECT id FROM purses WHERE swept_at IS NOT NULL"))).scalars())

    @precondition(lambda self: self.done)
    @rule(data=st.data())
    def send_again(self, data: st.DataObject) -> None:
        """The answer is the same, or that the purse is gone."""
        call, answer = data.draw(st.sampled_from(self.done))
        with suppress(Conflict):
            again = self.run(call())
            assert answer in (..., again)

    @invariant()
    def the_books_are_right(self) -> None:
        self.run(self._check())

    async def _check(self) -> None:
        assert await audit(self.db) == {}
        found = await balances(self.db)
        for org in self.orgs:
            assert found[f"org:{org}"] == self.model.orgs[org]
        for purse in self.all:
            assert found.get(f"purse:{purse.id}", 0) == self.model.purses[purse.id]
        async with self.db.read() as tx:
            used = {row.id: row.used for row in await tx.execute(text("SELECT id, used FROM budgets"))}
            paid = "SELECT key, charge FROM bills JOIN ledger_transactions ON id = transaction_id"
            charged = Counter((row.key, row.charge) for row in await tx.execute(text(paid)))
        assert {name: used[name] for name in self.model.used} == self.model.used
        assert all(charged[key, charge] == 1 for key, charge in self.model.charged.items())
        if not self.db.shared:
            platform = [found[f"platform:{name}"] for name in ("grants", "revenue", "losses")]
            assert platform == [-self.model.granted, self.model.revenue, -self.model.lost]

    def teardown(self) -> None:
        self.run(self.stack.aclose())
        self.runner.close()


def on(url: str, directory: Path) -> type[Machine]:
    """Each example has a copy of this database; PostgreSQL's is the same for all: a new one takes too long."""
    examples = iter(range(10**6))

    def fresh() -> str:
        if is_postgres(url):
            return url
        copy = directory / f"{next(examples)}.db"
        shutil.copy(directory / "keys.db", copy)
        return f"sqlite+aiosqlite:///{copy}"

    class OnThisEngine(Machine):
        url = staticmethod(fresh)

    return OnThisEngine


def steps(examples: int, *, derandomize: bool = False) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=30,
        phases=(Phase.generate,),  # to make a failure shorter takes longer than a test may
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
        derandomize=derandomize,
    )


@pytest.mark.timeout(180)
def test_any_order_of_anything(database: Callable[[str], str], tmp_path: Path) -> None:
    url = database("keys")
    run_state_machine_as_test(on(url, tmp_path), settings=steps(6 if is_postgres(url) else 35))


def nothing_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is sent again is booked again."""
    enter = SqlBooksChange.enter

    async def fresh(self: SqlBooksChange, transactions: Sequence[Transaction]) -> set[str]:
        renamed = {each.key: replace(each, key=f"{each.key}-{new_id('x')}") for each in transactions}
        await enter(self, list(renamed.values()))
        for key, each in renamed.items():
            self._entered[key] = self._entered[each.key]
        return set(renamed)

    monkeypatch.setattr(SqlBooksChange, "enter", fresh)


def budgets_get_nothing_back(monkeypatch: pytest.MonkeyPatch) -> None:
    use = SqlBooksChange.use_budgets

    async def only_up(self: SqlBooksChange, changes: Mapping[str, int]) -> None:
        await use(self, {name: change for name, change in changes.items() if change > 0})

    monkeypatch.setattr(SqlBooksChange, "use_budgets", only_up)


def swept_without_its_money(monkeypatch: pytest.MonkeyPatch) -> None:
    async def only_marked(self: Sweep, purse: SweptPurse, due: Due) -> None:
        async with self._purses.change() as tx:
            if await tx.hold_left(purse, due):
                await tx.sweep(purse.id, self._clock.now())

    monkeypatch.setattr(Sweep, "_sweep", only_marked)


def swept_although_it_was_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A minute after it was made, whoever has kept it."""

    async def forgotten(_self: SqlBooks, _incarnation: str, _at: datetime) -> None:
        return

    monkeypatch.setattr(SqlBooks, "keep", forgotten)


def closed_with_what_is_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, although bills are on their way."""
    monkeypatch.setattr(sweep, "CLOSED_LIFE", timedelta(seconds=-1))


def nothing_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def ignored(*_: object) -> None:
        return

    monkeypatch.setattr(SqlBooks, "close", ignored)


def usage_that_counts_no_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    def summed(bills: list[Bill], counted: set[Attempt]) -> Any:
        return usage.summed_up([replace(bill, lines=bill.lines[:1]) for bill in bills], counted)

    monkeypatch.setattr(usage_store, "summed_up", summed)


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    "breaks",
    [
        nothing_is_remembered,
        budgets_get_nothing_back,
        # In an order that is the same each time, so that it is found each time.
        pytest.param(swept_without_its_money, marks=pytest.mark.slow),
        pytest.param(swept_although_it_was_kept, marks=pytest.mark.slow),
        pytest.param(closed_with_what_is_in_it, marks=pytest.mark.slow),
        nothing_is_closed,
        usage_that_counts_no_tokens,
    ],
)
def test_what_breaks_the_books_is_found(
    breaks: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    breaks(monkeypatch)
    url = f"sqlite+aiosqlite:///{tmp_path}/keys.db"
    upgrade("keys", url)
    with pytest.raises((AssertionError, Problem)):
        run_state_machine_as_test(on(url, tmp_path), settings=steps(60, derandomize=True))
