"""The mesh where it hurts most: a process dies just after it has done one thing and before it does the next."""

import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.mesh import until
from tests.faults.caller import Callers
from tests.faults.campaign import SERVICE, Field, audit, in_the_field, settle
from tests.faults.money import MONEY
from tests.faults.promise import History, summary, violations

pytestmark = pytest.mark.timeout(240)
# What has happened when a process dies there, and nobody knows yet.
POINTS = {
    "accepted": "a run is committed; the caller hasn't heard of it",
    "claimed": "a run is given to an executor by a commit; the executor hasn't heard of it",
    "taken": "an executor has taken a run on; nobody has heard of it",
    "ended": "a run has done its work; its executor hasn't reported it",
    "reported": "a report is taken; its executor hasn't heard of it",
    "published": "events are on the bus; the outbox still has them",
    **MONEY,
}
LOSES_AN_ATTEMPT = {"taken", "ended", "drawn", "opened", "stepped", "billed"}
# Of keys, without which no run begins for long: whether one is tried again depends on how soon it is back.
MAY_LOSE_ONE = {"draw booked", "bills booked", "give booked"}
# They are passed when an executor has had nothing to do for two seconds: until then none of its runs is to die.
IDLE = {"give booked", "given back"}
# The others are as many of their kind: `make test-all`, and the campaigns with all of them at random.
FIRST = {"accepted", "taken", "billed", "bills booked"}


class Rig:
    """One mesh for all points."""

    def __init__(self, there: Field, history: History, points: Path) -> None:
        self.there, self.points = there, points
        self.callers = Callers(there.mesh, SERVICE, random.Random(1), history)


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    history = History()
    with tempfile.TemporaryDirectory() as points, in_the_field(history, Path(points)) as there:
        yield Rig(there, history, Path(points))
        audit(there.mesh, history)
    assert violations(history) == [], summary(history)


@pytest.mark.parametrize(
    "point", [point if point in FIRST else pytest.param(point, marks=pytest.mark.slow) for point in POINTS]
)
def test_a_crash_between_two_steps_breaks_no_promise(rig: Rig, point: str) -> None:
    history = rig.callers.history
    before = set(history.listed)
    if point not in IDLE:
        (rig.points / point).touch()
    rig.callers.takes_steps = point == "stepped"
    rig.callers.ask(3, 0, 0.5)
    (rig.points / point).touch() if point in IDLE else None
    until(lambda: not (rig.points / point).exists(), 20)
    rig.there.note()
    rig.callers.takes_steps = False
    rig.callers.ask(2, 2, 0.5)
    settle(rig.callers, time.monotonic())
    assert rig.callers.failures == []
    assert violations(history) == [], summary(history)
    attempts = [record.attempt for run_id, record in history.records.items() if run_id not in before]
    assert (max(attempts) > 1) == (point in LOSES_AN_ATTEMPT) or point in MAY_LOSE_ONE, attempts


def test_without_its_file_a_point_does_nothing(rig: Rig) -> None:
    assert list(rig.points.iterdir()) == []
