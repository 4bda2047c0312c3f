from datetime import timedelta

from kit.clock import FakeClock
from scheduler.fleet import Fleet, Heartbeat
from scheduler.place import STARTS_AT_ONCE, Executor, place
from tests.fakes.scheduling import HOME, START

SOON = START + timedelta(seconds=1)


def an_executor(address: str, **known: object) -> Executor:
    executor = Executor(address, incarnation="one", since=START, seen=START, capacity=10)
    for name, value in known.items():
        setattr(executor, name, value)
    return executor


def placed(*executors: Executor, nested: bool = False) -> str:
    chosen = place(executors, SOON, nested=nested)
    return chosen.address if chosen else ""


def test_the_least_loaded_is_chosen() -> None:
    assert (
        placed(an_executor("a", running=5), an_executor("b", running=2), an_executor("c", running=1, starting=3)) == "b"
    )


def test_nobody_is_chosen_where_nobody_has_room() -> None:
    assert placed() == ""
    assert placed(an_executor("a", draining=True)) == ""
    assert placed(an_executor("a", starting=STARTS_AT_ONCE)) == ""
    assert placed(an_executor("a", seen=SOON - timedelta(seconds=15))) == ""
    assert placed(an_executor("a", full_until=SOON + timedelta(seconds=1))) == ""
    assert placed(an_executor("a", full_until=SOON)) == "a"


def test_nested_runs_need_no_room_but_a_way() -> None:
    later = SOON + timedelta(seconds=1)
    assert placed(an_executor("a", full_until=later), nested=True) == "a"
    assert placed(an_executor("a", away_until=later), nested=True) == ""


def test_this_hosts_own_is_tried_unheard_of_but_last() -> None:
    assert placed(Executor("home", home=True)) == "home"
    assert placed(Executor("home", home=True), an_executor("b", running=9)) == "b"


def test_the_fleet_learns_from_heartbeats_and_refusals() -> None:
    clock, woken = FakeClock(START), []
    fleet = Fleet(HOME, clock, lambda: woken.append(1))
    fleet.heard(Heartbeat("unix:b", "one", running=0, capacity=4))
    assert woken
    chosen = fleet.choose(nested=False)
    assert chosen is not None
    assert chosen.address == "unix:b"
    assert fleet.room() == 2 * STARTS_AT_ONCE
    fleet.refused(chosen, nested=False)
    rest = fleet.choose(nested=False)
    assert rest is not None
    assert rest.address == HOME
    fleet.reported("unix:b", started=0, ended=1)
    assert fleet.choose(nested=False) is chosen
    fleet.heard(Heartbeat("unix:b", "one", running=0, capacity=4, draining=True))
    assert fleet.choose(nested=False) is rest


async def test_the_fleet_knows_which_lives_are_over() -> None:
    clock = FakeClock(START)
    fleet = Fleet(HOME, clock)
    fleet.heard(Heartbeat("unix:b", "one", 0, 4))
    assert fleet.gone("unix:b", "one") is False
    fleet.heard(Heartbeat("unix:b", "two", 0, 4))
    assert fleet.gone("unix:b", "one") is False  # reports of the new life are let in before
    await clock.advance(6)
    assert fleet.gone("unix:b", "one") is True
    assert fleet.gone("unix:b", "two") is False
    assert fleet.gone("unix:b", "") is False
    assert fleet.gone("unix:stranger", "x") is False
    await clock.advance(9)
    assert fleet.gone("unix:b", "two") is None
    assert fleet.gone("unix:stranger", "x") is None
    fleet.answered("unix:b")
    assert fleet.gone("unix:b", "two") is False


async def test_the_fleet_forgets_the_long_silent() -> None:
    clock = FakeClock(START)
    fleet = Fleet(HOME, clock)
    fleet.heard(Heartbeat("unix:b", "one", 0, 4))
    await clock.advance(7200)
    fleet.heard(Heartbeat("unix:c", "one", 0, 4))
    assert {executor.address for executor in fleet} == {HOME, "unix:c"}
    assert fleet.checker() == "unix:c"
