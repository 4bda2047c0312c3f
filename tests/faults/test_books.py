"""The judge of the books finds each kind of fault; and what a part of the ledger does that doesn't do its work."""

import asyncio
import itertools
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from keys.ledger import Ledger
from keys.ledger_store import SqlBooks
from keys.money import Bill as Sent
from keys.money import Budget
from keys.sweep import Sweep
from kit.clock import FakeClock
from kit.db import open_db
from migrations.__main__ import upgrade
from tests.faults.books import Account, Bill, Books, Purse, Run, always, read, settled, under_way
from tests.ledger_books import a_bill, a_draw, open_organizations

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
Change = Callable[[Books], None]


def good() -> Books:
    """1000 were granted, 300 drawn under a budget of 500, 120 of 150 paid, and the rest has gone back."""
    books = Books(NOW)
    books.transactions = {"t1": "grant:g", "t2": "draw:d", "t3": "run:run_1:1:p", "t4": "give:v"}
    books.entries = [("t1", "org:a", 1000), ("t1", "platform:grants", -1000), ("t2", "org:a", -300)]
    books.entries += [
        ("t2", "purse:p", 300),
        ("t3", "purse:p", -150),
        ("t3", "org:a", 30),
        ("t3", "platform:revenue", 120),
    ]
    books.entries += [("t4", "purse:p", -150), ("t4", "org:a", 150)]
    books.accounts = {
        "org:a": Account("organization", "a", 880),
        "purse:p": Account("purse", "a", 0),
        "platform:grants": Account("platform", "", -1000),
        "platform:revenue": Account("platform", "", 120),
    }
    books.budgets = {"run:b": (500, 120)}
    books.purses = {"p": Purse(("run:b",), "life", NOW - timedelta(seconds=5))}
    books.bills = {"t3": Bill("run_1", 1, 120, "p", "a")}
    books.runs = {"run_1": Run(4, 1, "", 120, "a")}
    return books


def booked_once_more(books: Books) -> None:
    books.transactions["t5"] = "run:run_1:1:q"
    books.entries += [("t5", "org:a", -120), ("t5", "platform:revenue", 120)]
    books.accounts["org:a"] = replace(books.accounts["org:a"], balance=760)
    books.accounts["platform:revenue"] = replace(books.accounts["platform:revenue"], balance=240)
    books.bills["t5"] = replace(books.bills["t3"])


def never_booked(books: Books) -> None:
    del books.bills["t3"]
    books.entries = [entry for entry in books.entries if entry[0] != "t3"]
    moved = {"org:a": 850, "purse:p": 150, "platform:revenue": 0}
    for name, balance in moved.items():
        books.accounts[name] = replace(books.accounts[name], balance=balance, reserved=150 if name == "org:a" else 0)


def holding(seconds: float, *, swept: bool = False, used: int = 270) -> Change:
    """What never went back."""

    def change(books: Books) -> None:
        books.entries = [entry for entry in books.entries if entry[0] != "t4"]
        books.accounts["org:a"] = replace(books.accounts["org:a"], balance=730, reserved=150)
        books.accounts["purse:p"] = replace(books.accounts["purse:p"], balance=150)
        books.budgets["run:b"] = (500, used)
        books.purses["p"] = replace(books.purses["p"], kept_at=NOW - timedelta(seconds=seconds), swept=swept)

    return change


def run_is(**fields: object) -> Change:
    def change(books: Books) -> None:
        books.runs["run_1"] = replace(books.runs["run_1"], **fields)  # type: ignore[arg-type]  # its own fields

    return change


def account_is(name: str, **fields: object) -> Change:
    def change(books: Books) -> None:
        books.accounts[name] = replace(books.accounts[name], **fields)  # type: ignore[arg-type]

    return change


def paid_by_another(books: Books) -> None:
    books.bills["t3"] = replace(books.bills["t3"], organization="b")


def known_by_nobody(books: Books) -> None:
    books.runs.clear()


def test_good_books_are_good() -> None:
    books = good()
    assert (settled(books), under_way(books)) == ([], False)
    holding(5)(books)
    assert (always(books), under_way(books)) == ([], True)


def test_keys_may_be_late_after_a_start() -> None:
    books = good()
    holding(86)(books)
    books.keys_since = NOW - timedelta(seconds=54)
    assert always(books) == []
    books.keys_since = NOW - timedelta(seconds=56)
    assert [sentence.split(":")[0] for sentence in always(books)] == ["past its sweep"]


def test_what_a_life_that_has_gone_holds_is_swept_later() -> None:
    books = good()
    holding(50)(books)
    books.purses["q"] = Purse((), "a later life", NOW)
    books.accounts["purse:q"] = Account("purse", "a", 0)
    assert (settled(books, swept=False), under_way(books)) == ([], False)
    assert [sentence.split(":")[0] for sentence in settled(books)] == ["held"]


@pytest.mark.parametrize(
    ("word", "change"),
    [
        ("unbalanced", lambda books: books.entries.append(("t1", "org:a", 1))),
        ("unbalanced", account_is("org:a", balance=881)),
        ("unbalanced", account_is("org:a", reserved=1)),
        ("unbalanced", lambda books: books.bills.update(t3=replace(books.bills["t3"], charge=119))),
        ("below its limit", account_is("org:a", balance=-1)),
        ("below its limit", account_is("purse:p", balance=-1)),
        ("below its limit", lambda books: books.budgets.update({"run:b": (119, 120)})),
        ("charged twice", booked_once_more),
        ("past its sweep", holding(86)),
        ("past its sweep", holding(5, swept=True)),
    ],
)
def test_a_fault_that_is_one_at_any_time(word: str, change: Change) -> None:
    books = deepcopy(good())
    change(books)
    assert word in {sentence.split(":")[0] for sentence in always(books)}


@pytest.mark.parametrize(
    ("word", "change"),
    [
        ("held", holding(5)),
        ("not over", run_is(status=3)),
        ("waiting", lambda books: setattr(books, "waiting", 1)),
        ("not charged", never_booked),
        ("another cost", never_booked),
        ("another cost", run_is(cost=119)),
        ("another use", holding(5, used=120)),
        ("another use", lambda books: books.budgets.update({"run:b": (500, 121)})),
        ("charged for a failure", run_is(status=5, code="runtime_error")),
        ("charged for a failure", run_is(free=True, cost=120)),
        ("charged somebody else", paid_by_another),
        ("charged for nothing", known_by_nobody),
    ],
)
def test_a_fault_when_all_is_settled(word: str, change: Change) -> None:
    books = good()
    change(books)
    assert word in {sentence.split(":")[0] for sentence in settled(books)}


class Place:
    """Databases of a mesh, and the ledger over them; two minutes ago 300 were drawn, and nothing was heard since."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.clock = FakeClock(datetime.now(UTC) - timedelta(seconds=120))

    def url(self, service: str) -> str:
        return f"sqlite+aiosqlite:///{self._directory}/{service}.db"

    async def fill(self, *, settles: int, sweeps: bool) -> list[str]:
        """What is wrong then."""
        for service in ("keys", "scheduler"):
            await asyncio.to_thread(upgrade, service, self.url(service))
        async with open_db(self.url("keys")) as db:
            await open_organizations(db, "org_a")
            books = SqlBooks(db)
            ledger = Ledger(books, self.clock)
            await ledger.grant("g", "org_a", 1000)
            await ledger.draw(a_draw("d", 300, 300, Budget("key:k", 500)))
            for _ in range(settles):
                await ledger.settle([a_bill("run_1", 150, 120, "key:k")])
            await self.clock.advance(61)
            if sweeps:
                await Sweep(books, self.clock).once()
        return always(await asyncio.to_thread(read, self.url))


async def test_the_real_ledger_is_right(tmp_path: Path) -> None:
    assert await Place(tmp_path).fill(settles=2, sweeps=True) == []


async def test_a_sweep_that_never_comes_is_found(tmp_path: Path) -> None:
    assert {each.split(":")[0] for each in await Place(tmp_path).fill(settles=1, sweeps=False)} == {"past its sweep"}


async def test_a_settle_that_books_again_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = itertools.count()

    def fresh(bill: Sent) -> str:
        """Another one each time that it comes."""
        name = f"run:{bill.run_id}:{bill.attempt}-{next(count)}:{bill.purse_id}"
        return str(vars(bill).setdefault("its_key", name))

    monkeypatch.setattr(Sent, "key", property(fresh))
    assert {each.split(":")[0] for each in await Place(tmp_path).fill(settles=2, sweeps=True)} == {"charged twice"}
