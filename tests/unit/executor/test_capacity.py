import asyncio

import pytest

from executor.capacity import RETRY_AFTER, Capacity
from kit.errors import Exhausted, Unavailable


def test_a_full_host_says_when_to_come_back() -> None:
    capacity = Capacity(runs=2, nested_runs=1, starts=1)
    places = [capacity.take(nested=False) for _ in range(2)]
    with pytest.raises(Unavailable) as refused:
        capacity.take(nested=False)
    assert refused.value.retry_after == RETRY_AFTER
    assert capacity.running == 2
    places[0].give_back()
    places[0].give_back()
    assert capacity.running == 1
    capacity.take(nested=False)


def test_no_organization_takes_more_than_its_share() -> None:
    capacity = Capacity(runs=9, nested_runs=9, starts=1, organization_runs=2)
    places = [capacity.take("org_a", nested=False) for _ in range(2)]
    with pytest.raises(Exhausted) as refused:
        capacity.take("org_a", nested=False)
    assert refused.value.code == "too_many_runs"
    capacity.take("org_b", nested=False)
    capacity.take("org_a", nested=True)
    places[0].give_back()
    capacity.take("org_a", nested=False)


def test_how_long_to_wait_is_told_by_how_long_runs_took() -> None:
    at = 0.0
    capacity = Capacity(runs=9, nested_runs=9, starts=1, organization_runs=2, now=lambda: at)
    for _ in range(50):
        place = capacity.take("org_a", nested=False)
        at += 60
        place.give_back()
    for _ in range(2):
        capacity.take("org_a", nested=False)
    with pytest.raises(Exhausted) as refused:
        capacity.take("org_a", nested=False)
    wait = refused.value.retry_after
    assert wait is not None
    assert 29 < wait.total_seconds() < 30
    assert "30 s" in refused.value.message


def test_nested_runs_have_room_when_roots_have_none() -> None:
    capacity = Capacity(runs=1, nested_runs=1, starts=1)
    capacity.take(nested=False)
    nested = capacity.take(nested=True)
    with pytest.raises(Unavailable):
        capacity.take(nested=True)
    nested.give_back()
    capacity.take(nested=True)
    assert capacity.running == 1


def test_nothing_is_taken_while_draining() -> None:
    capacity = Capacity(runs=1, nested_runs=1, starts=1)
    capacity.draining = True
    with pytest.raises(Unavailable):
        capacity.take(nested=False)


async def test_starts_wait_for_one_another() -> None:
    capacity = Capacity(runs=9, nested_runs=9, starts=1)
    order: list[str] = []

    async def start(name: str) -> None:
        async with capacity.starting():
            order.append(f"{name} in")
            await asyncio.sleep(0)
            order.append(f"{name} out")

    await asyncio.gather(start("a"), start("b"))
    assert order == ["a in", "a out", "b in", "b out"]


async def test_a_start_that_takes_long_lets_others_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("executor.capacity.STARTING_SECONDS", 0.01)
    capacity = Capacity(runs=9, nested_runs=9, starts=1)
    async with capacity.starting(), asyncio.timeout(5), capacity.starting():
        pass
    async with asyncio.timeout(5), capacity.starting():  # and gives its turn back once only
        second = asyncio.create_task(started(capacity))
        await asyncio.sleep(0)
        assert not second.done()
    await second


async def started(capacity: Capacity) -> None:
    async with capacity.starting():
        pass


async def test_a_workflow_has_so_many_turns_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("executor.capacity.CLEARING_SECONDS", 0.01)
    capacity = Capacity(10, 10, 10)
    order: list[int] = []
    gate = asyncio.Event()

    async def run(number: int) -> None:
        async with capacity.turn("wfl_1", 2, capacity.take(nested=False), wait=True):
            order.append(number)
            await gate.wait()

    runs = [asyncio.create_task(run(number)) for number in range(3)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    with pytest.raises(Exhausted) as refused:
        async with capacity.turn("wfl_1", 2, capacity.take(nested=False), wait=False):
            pass
    assert (refused.value.code, order) == ("too_many_runs", [0, 1])
    async with (
        capacity.turn("wfl_2", 2, capacity.take(nested=False), wait=False),
        capacity.turn("wfl_1", 0, capacity.take(nested=False), wait=False),
    ):
        pass  # another workflow, and no limit
    gate.set()
    await asyncio.gather(*runs)
    assert order == [0, 1, 2]
    async with capacity.turn("wfl_1", 1, capacity.take(nested=False), wait=False):
        pass


async def test_a_turn_that_is_over_in_a_moment_is_waited_for() -> None:
    capacity = Capacity(10, 10, 10)
    over = asyncio.Event()

    async def clearing() -> None:
        async with capacity.turn("wfl_1", 1, capacity.take(nested=False), wait=False):
            await over.wait()

    before = asyncio.create_task(clearing())
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_later(0.05, over.set)
    async with capacity.turn("wfl_1", 1, capacity.take(nested=False), wait=False):
        assert over.is_set()
    await before


async def test_who_waits_for_a_turn_keeps_nobody_out() -> None:
    capacity = Capacity(3, 1, 1, organization_runs=3)
    gate = asyncio.Event()

    async def run() -> None:
        place = capacity.take("org_a", nested=False)
        try:
            async with capacity.turn("wfl_1", 1, place, wait=True):
                await gate.wait()
        finally:
            place.give_back()

    runs = [asyncio.create_task(run()) for _ in range(3)]
    await asyncio.sleep(0.01)
    assert capacity.running == 1  # there are three of them
    for organization_id in ("org_b", "org_a"):
        capacity.take(organization_id, nested=False)
    runs[1].cancel()
    gate.set()
    await asyncio.gather(*runs, return_exceptions=True)
    assert runs[1].cancelled()
    assert capacity.running == 2
    assert capacity.beat("life", first=False).running == 2


async def test_no_more_may_wait_without_a_place_than_memory_has_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("executor.capacity.MOST_LENT", 1)
    capacity = Capacity(1, 1, 1)
    first = capacity.take(nested=False)
    first.lend()
    second = capacity.take(nested=False)
    second.lend()
    assert capacity.running == 1
    first.retake()
    second.lend()
    assert capacity.running == 1
