"""The real mesh under faults, judged by the promise (promise.py). `make soak` does it for as long as one likes."""

import random
import threading
import time

import pytest

from tests.faults.caller import Callers
from tests.faults.campaign import SERVICE, campaign, in_the_field, settle
from tests.faults.faults import KILLED, Fault, inflict, planned
from tests.faults.promise import ASYNCHRONOUS, History, summary, violations

# With which the kinds come in an order that leaves each something to do.
SEED = 3


def judged(history: History, told: list[str]) -> None:
    assert violations(history) == [], "\n".join([summary(history), *told])


@pytest.mark.timeout(240)
def test_every_kind_of_process_is_killed_and_no_promise_broken() -> None:
    faults = planned(SEED, len(KILLED) + 1, (0.8, 1.6))
    assert {fault.name for fault in faults} == {*KILLED, "lost store"}
    told: list[str] = []
    judged(campaign(SEED, 60, 24, 16, faults, say=told.append), told)


def test_a_seed_makes_the_same_faults() -> None:
    assert planned(5, 40, (1, 2), slow=True) == planned(5, 40, (1, 2), slow=True)
    assert planned(5, 40, (1, 2)) != planned(6, 40, (1, 2))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [11])
def test_five_hundred_and_two_hundred_runs_while_everything_breaks(seed: int) -> None:
    told: list[str] = []
    judged(campaign(seed, 500, 200, 150, planned(seed, 40, (1, 4), slow=True), say=told.append), told)


@pytest.mark.slow  # it waits for a lease to run out
@pytest.mark.timeout(240)
def test_an_executor_that_stood_still_past_its_lease() -> None:
    """Its runs were given to its next life; what it still had in hand does no more, and its word doesn't count."""
    history = History()
    with in_the_field(history) as there:
        callers = Callers(there.mesh, SERVICE, random.Random(1), history)
        asking = threading.Thread(target=callers.ask, args=(12, 4, 1.0))
        asking.start()
        time.sleep(0.6)
        inflict(there.mesh, Fault(0, "stopped executor").name, random.Random(1))
        asking.join()
        settle(callers, time.monotonic())
        lost = [line for line in there.mesh.output if '"executor.given_up"' in line or '"lease.lost"' in line]
    judged(history, there.mesh.output[-50:])
    assert callers.failures == []
    assert len(lost) >= 2  # the scheduler gave it up, and it knew when it went on
    again = {record.id for record in history.records.values() if record.attempt > 1}
    assert again & {run_id for one in history.requests if one.kind == ASYNCHRONOUS for run_id in one.accepted}
