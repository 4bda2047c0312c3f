"""Rounds of spending: in each a process dies at a step between reserving credit and settling what was spent."""

import asyncio
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx

from keys.ledger_store import SqlBooks
from keys.sweep import Sweep
from kit.clock import FakeClock
from kit.db import open_db
from kit.settings import MeshSettings
from tests.e2e.mesh import Mesh, until
from tests.faults.books import PURSE_LIFE, Books, always, read, under_way
from tests.faults.campaign import Field, in_the_field, keys_since
from tests.faults.promise import History
from tests.faults.spending import Payer, Spenders

# What has happened when a process dies there, and nobody knows yet.
MONEY = {
    "draw booked": "keys has booked a draw; the executor hasn't heard of it",
    "drawn": "credit is drawn into a purse; no run has any of it",
    "opened": "a run has taken its fee; it hasn't begun",
    "stepped": "a run has taken more credit; it goes on",
    "billed": "a run has its bill; its executor hasn't reported it",
    "bill kept": "a bill is kept with its report; nobody sends it yet",
    "bills booked": "keys has booked bills; the scheduler hasn't heard of it",
    "bill sent": "a bill is booked; the scheduler still has it",
    "give booked": "keys has booked what was given back; the executor hasn't heard of it",
    "given back": "an executor has given back what it didn't need",
}
SWEPT = "swept"
HIT_SECONDS, AGAIN_SECONDS = 60.0, 4.0
SETTLING_SECONDS = 120.0
# A purse's life, the first sweep after a start of keys, and the next one.
SWEEPING_SECONDS = 60.0 + 2 * 35.0


def planned(seed: int, count: int) -> list[str]:
    """So many points, the same ones for the same seed: each once before any comes again."""
    rng = random.Random(seed)
    points: list[str] = []
    while len(points) < count:
        points += rng.sample(list(MONEY), len(MONEY))
    return points[:count]


class Scene:
    """A mesh, who spends in it, and its books."""

    def __init__(self, there: Field, points: Path, url_of: Callable[[str], str], seed: int) -> None:
        self.mesh, self.there = there.mesh, there
        self.spenders = Spenders(there.mesh, there.outside, seed)
        self.url_of = url_of
        self._points = points

    def books(self) -> Books:
        """As they stand."""
        return read(self.url_of, keys_since(self.mesh))

    def round(self, point: str) -> list[str]:
        """A process dies there, and all goes on; what is wrong with the books then."""
        self.there.note()
        (self._points / point).touch()
        deadline = time.monotonic() + HIT_SECONDS
        while (self._points / point).exists():
            assert time.monotonic() < deadline, f"nobody came by at {point}"
            self.spenders.one_that_takes_steps()
            with suppress(AssertionError):
                until(lambda: not (self._points / point).exists(), AGAIN_SECONDS)
        until(self.spenders.serves, HIT_SECONDS)
        return always(self.books())

    def settle(self) -> Books:
        """Nobody spends any more; the books when nothing is under way, as far as that comes true."""
        self.spenders.end()
        until(self.spenders.serves, HIT_SECONDS)
        with suppress(AssertionError):
            until(lambda: not under_way(self.books()), SETTLING_SECONDS)
        return self.books()

    def sweep(self) -> Books:
        """What those hold who have gone goes back; keys dies in the middle of it, and begins again."""
        (self._points / SWEPT).touch()
        with suppress(AssertionError):
            until(lambda: not self.books().held, SWEEPING_SECONDS)
        assert not (self._points / SWEPT).exists(), "nobody was swept"
        return self.books()

    def disagreements(self, books: Books) -> list[str]:
        """Where callers are told something else than the books say."""
        charges, wrong = books.charges, []
        for payer in (self.spenders.first, self.spenders.rich, self.spenders.poor):
            account = books.accounts[f"org:{payer.organization}"]
            balance = _get(self.mesh, payer, "/credits")
            if (balance["balance"], balance["reserved"]) != (account.balance, account.reserved):
                wrong.append(f"told otherwise: {payer.organization} has {account}, and is told {balance}")
            paid = sum(bill.charge for bill in books.bills.values() if bill.organization == payer.organization)
            used = sum(item["amount"] for item in _get(self.mesh, payer, "/usage?group_by=day")["items"])
            if used != paid:
                wrong.append(f"told otherwise: {payer.organization} paid {paid}, and is told {used}")
            wrong += _costs_told_otherwise(_records(self.mesh, payer), charges)
        return wrong


def _costs_told_otherwise(records: list[dict[str, Any]], charges: Any) -> Iterator[str]:
    below: dict[str, list[str]] = {}
    for record in records:
        below.setdefault(record["parentId"], []).append(record["id"])

    def total(run_id: str) -> int:
        return int(charges[run_id]) + sum(total(each) for each in below.get(run_id, ()))

    for record in records:
        own, everything = charges[record["id"]], total(record["id"])
        if record["cost"] != {"own": own, "nested": everything - own, "total": everything}:
            yield f"told otherwise: {record['id']} cost {own} of {everything}, its record says {record['cost']}"


def _records(mesh: Mesh, payer: Payer) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    following = ""
    while True:
        page = _get(mesh, payer, f"/requests?limit=1000{following}")
        records += page["items"]
        if not page["next"]:
            return records
        following = f"&after={page['next']}"


def _get(mesh: Mesh, payer: Payer, path: str) -> Any:
    with mesh.http(payer.key) as client:
        answer: httpx.Response = until(lambda: _good(client, path), 30)
    return answer.json()


def _good(client: httpx.Client, path: str) -> httpx.Response | None:
    with suppress(httpx.HTTPError):
        answer = client.get(path)
        return answer if answer.status_code == 200 else None
    return None


@contextmanager
def spending(seed: int, home: Path, database: str) -> Iterator[Scene]:
    """A mesh in which there is spending. `database`: of PostgreSQL; else those in `home`, which stay."""
    settings = {"RUNMESH_INITIAL_CREDITS": "0", **({"RUNMESH_DATABASE_URL": database} if database else {})}
    url_of, history = MeshSettings(home=home, database=database).database_url, History()
    with (
        tempfile.TemporaryDirectory() as points,
        in_the_field(history, Path(points), home, **settings) as there,
    ):
        scene = Scene(there, Path(points), url_of, seed)
        scene.spenders.spend()
        try:
            yield scene
        finally:
            scene.spenders.over()
    assert history.left == []


async def a_minute_later(url_of: Callable[[str], str]) -> Books:
    """What is left when keys has swept, after its next start."""
    clock = FakeClock(datetime.now(UTC) + PURSE_LIFE + timedelta(seconds=1))
    async with open_db(url_of("keys")) as db:
        await Sweep(SqlBooks(db), clock).once()
    return await asyncio.to_thread(read, url_of)
