"""Processes die between any two steps of reserving, using and settling credit while many spend: the books are right."""

import os
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.databases import ENGINES
from tests.faults.books import settled, under_way
from tests.faults.money import MONEY, Scene, a_minute_later, planned, spending
from tests.postgres import Server

ROUNDS = 100
# In which the poor one gets something again.
ALMS_EVERY = 10


def chosen() -> int:
    """`SEED=n` has the same points in the same order again."""
    seed = int(os.environ.get("SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"seed {seed}")
    return seed


def play(scene: Scene, points: list[str]) -> None:
    began = time.monotonic()
    for number, point in enumerate(points, 1):
        assert scene.round(point) == [], f"round {number}, {point}"
        print(f"{time.monotonic() - began:6.1f} s  round {number}: {point}", flush=True)
        if number % ALMS_EVERY == 0:
            scene.spenders.grant(scene.spenders.poor, 2_000)
    books = scene.settle()
    assert not under_way(books), settled(books)
    assert scene.disagreements(books) == []
    told, charged = scene.spenders.told, sum(bill.charge for bill in books.bills.values())
    print(f"{len(books.runs)} runs, {len(books.bills)} bills, {charged} charged, {dict(sorted(told.items()))}")
    assert charged


@pytest.fixture
def home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="mesh-", dir="/var/tmp") as directory:
        yield Path(directory)


@pytest.fixture(params=ENGINES)
def database(request: pytest.FixtureRequest) -> str:
    """ "": SQLite's, in `home`."""
    if request.param == "sqlite":
        return ""
    server: Server = request.getfixturevalue("postgres")
    return server.url(server.empty())


@pytest.mark.slow  # test_failpoints judges the books at the same points, one by one
@pytest.mark.timeout(300)
async def test_at_each_step_once(home: Path, database: str) -> None:
    seed = chosen()
    with spending(seed, home, database) as scene:
        play(scene, planned(seed, len(MONEY)))
    books = await a_minute_later(scene.url_of)
    assert settled(books) == []


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_hundred_times_and_nothing_is_held_past_its_sweep(home: Path) -> None:
    seed = chosen()
    with spending(seed, home, "") as scene:
        play(scene, planned(seed, ROUNDS))
        assert settled(scene.sweep()) == []
    told = scene.spenders.told
    assert any(status == 402 for _, status in told)
    assert {kind for kind, status in told if status == 200} >= {"plain", "budget", "durable", "nested", "on success"}


def test_a_seed_makes_the_same_rounds() -> None:
    assert planned(5, 40) == planned(5, 40) != planned(6, 40)
    assert set(planned(5, len(MONEY))) == set(MONEY)
