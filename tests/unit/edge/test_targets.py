"""What a name stands for is remembered for less than a second."""

import asyncio

import pytest

from edge.targets import LIFE_SECONDS, Targets
from kit.errors import NotFound
from tests.fakes.edge_runs import FakeWorkflows


class Ticks:
    now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_asked_once_within_its_life() -> None:
    source, tick = FakeWorkflows(), Ticks()
    targets = Targets(source, tick)
    for tick.now in (0.0, LIFE_SECONDS - 0.01):
        assert (await targets.resolve("org_a", "greet")).service_id == "greet"
    assert len(source.asked) == 1
    tick.now = LIFE_SECONDS
    await targets.resolve("org_a", "greet")
    assert len(source.asked) == 2
    assert LIFE_SECONDS < 1


async def test_an_organization_is_not_told_what_another_asked() -> None:
    source = FakeWorkflows()
    targets = Targets(source)
    await targets.resolve("org_a", "greet")
    await targets.resolve("org_b", "greet")
    assert source.asked == [("org_a", "greet"), ("org_b", "greet")]


async def test_callers_at_once_share_a_question() -> None:
    source = FakeWorkflows()
    targets = Targets(source)
    await asyncio.gather(*(targets.resolve("org_a", "greet") for _ in range(10)))
    assert len(source.asked) == 1


async def test_a_caller_that_goes_away_does_not_take_the_answer_along() -> None:
    targets = Targets(FakeWorkflows())
    first = asyncio.create_task(targets.resolve("org_a", "greet"))
    second = asyncio.create_task(targets.resolve("org_a", "greet"))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).service_id == "greet"


async def test_what_is_not_found_is_asked_again() -> None:
    source = FakeWorkflows()
    targets = Targets(source)
    for _ in range(2):
        with pytest.raises(NotFound):
            await targets.resolve("org_a", "unknown")
    assert len(source.asked) == 2


async def test_a_change_forgets_even_an_answer_under_way() -> None:
    source = FakeWorkflows()
    targets = Targets(source)
    asking = asyncio.create_task(targets.resolve("org_a", "greet"))
    await asyncio.sleep(0)
    targets.forget()
    await asking
    await targets.resolve("org_a", "greet")
    assert len(source.asked) == 2
