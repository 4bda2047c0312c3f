from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from kit.clock import FakeClock
from kit.errors import Unavailable
from scheduler.fleet import Fleet, Lease
from scheduler.place import REST, STARTS_AT_ONCE, Executor, place
from tests.fakes.scheduling import START

SOON = START + timedelta(seconds=10)
LATER = SOON + timedelta(seconds=1)


def an_executor(address: str, *, expires_at: datetime = LATER, capacity: int = 10, **fields: object) -> Executor:
    return Executor(address, "inc_1", expires_at, capacity=capacity, **fields)  # type: ignore[arg-type]


def a_lease(address: str = "unix:b", incarnation: str = "inc_1", **changes: object) -> Lease:
    lease = Lease(address, incarnation, running=0, capacity=4, draining=False, expires_at=LATER)
    return replace(lease, **changes)  # type: ignore[arg-type]


def placed(*executors: Executor, urgent: bool = False) -> str:
    found = place(executors, SOON, urgent=urgent)
    return found.address if found else ""


def test_the_least_loaded_is_chosen() -> None:
    assert placed(an_executor("a", running=5), an_executor("b", running=2)) == "b"
    assert placed(an_executor("a", running=5), an_executor("b", running=5, capacity=100)) == "b"
    three = (an_executor("a", running=5), an_executor("b", running=2), an_executor("c", running=1, starting=3))
    assert placed(*three) == "b"


def test_nobody_is_chosen_where_nobody_has_room() -> None:
    assert placed() == ""
    assert placed(an_executor("a", draining=True)) == ""
    assert placed(an_executor("a", starting=STARTS_AT_ONCE)) == ""
    assert placed(an_executor("a", expires_at=SOON)) == ""
    assert placed(an_executor("a", full_until=LATER)) == ""
    assert placed(an_executor("a", full_until=SOON)) == "a"


def test_urgent_runs_need_no_room_but_a_way() -> None:
    assert placed(an_executor("a", full_until=LATER), urgent=True) == "a"
    assert placed(an_executor("a", away_until=LATER), urgent=True) == ""
    assert placed(an_executor("a", away_until=LATER)) == ""


def test_what_keeps_urgent_runs_out_keeps_out_nobody_else() -> None:
    assert placed(an_executor("a", nested_full_until=LATER), urgent=True) == ""
    assert placed(an_executor("a", nested_full_until=SOON), urgent=True) == "a"
    assert placed(an_executor("a", nested_full_until=LATER)) == "a"
    assert placed(an_executor("a", starting=7, starting_urgent=7), urgent=True) == ""
    assert placed(an_executor("a", starting=7, starting_urgent=7)) == "a"
    assert placed(an_executor("a", starting=7), urgent=True) == "a"  # the seat is kept for others, not from them


async def test_an_executor_without_room_for_urgent_runs_is_tried_when_a_run_ends_or_after_a_rest() -> None:
    clock = FakeClock(START)
    fleet = Fleet(clock)
    fleet.heard(a_lease())
    (executor,) = fleet
    fleet.refused(executor, urgent=True, away=False)
    fleet.heard(a_lease())  # its report tells of places, of which urgent runs take none
    assert fleet.choose(urgent=True) is None
    assert fleet.choose(urgent=False) is executor
    fleet.reported("unix:b", started=0, ended=1)
    assert fleet.choose(urgent=True) is executor
    fleet.refused(executor, urgent=True, away=False)
    await clock.advance(REST.total_seconds())
    assert fleet.choose(urgent=True) is executor


def test_the_fleet_learns_from_leases_and_refusals() -> None:
    clock, woken = FakeClock(START), []
    fleet = Fleet(clock, lambda: woken.append(1))
    fleet.heard(a_lease("unix:a", running=3))
    fleet.heard(a_lease("unix:b"))
    assert woken
    chosen = fleet.choose(urgent=False)
    assert chosen is not None
    assert chosen.address == "unix:b"
    fleet.refused(chosen, urgent=False, away=False)
    rest = fleet.choose(urgent=False)
    assert rest is not None
    assert rest.address == "unix:a"
    fleet.reported("unix:b", started=0, ended=1)
    assert fleet.choose(urgent=False) is chosen
    fleet.heard(a_lease("unix:b", draining=True))
    assert fleet.choose(urgent=False) is rest


def test_the_fleet_knows_what_the_leases_say() -> None:
    fleet = Fleet(FakeClock(START))
    with pytest.raises(Unavailable):
        fleet.checker()
    fleet.learn([a_lease("unix:b"), a_lease("unix:c", draining=True)])
    assert fleet.checker() == "unix:b"
    fleet.learn([a_lease("unix:b", expires_at=SOON, running=4), a_lease("unix:c", draining=True)])
    (b,) = (one for one in fleet if one.address == "unix:b")
    assert b.running == 0  # older than what is known
    fleet.learn([a_lease("unix:c", draining=True, expires_at=LATER + timedelta(seconds=1))])
    assert {one.address for one in fleet} == {"unix:c"}
    assert fleet.checker() == "unix:c"
    fleet.learn([a_lease("unix:c", given_up=True)])
    assert list(fleet) == []


def test_a_new_life_is_another_executor() -> None:
    fleet = Fleet(FakeClock(START))
    fleet.heard(a_lease())
    before = fleet.choose(urgent=False)
    fleet.heard(a_lease(incarnation="inc_2"))
    after = fleet.choose(urgent=False)
    assert before is not None
    assert after is not None
    assert after is not before
    assert after.incarnation == "inc_2"
