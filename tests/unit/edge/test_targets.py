"""What a name stands for is remembered for less than a second."""

import asyncio
from collections import Counter
from dataclasses import replace

import pytest

from edge.run_model import Resolved
from edge.targets import LIFE_SECONDS, Targets
from kit.errors import NotFound
from tests.fakes.edge_runs import TARGET, FakeWorkflows


class FakeDirectory:
    """One version serves each name, unless it is told otherwise; it counts how often it is asked."""

    def __init__(self) -> None:
        self.split: Resolved | None = None
        self.asked: list[tuple[str, str]] = []
        self._workflows = FakeWorkflows()

    async def resolve(self, organization_id: str, reference: str) -> Resolved:
        self.asked.append((organization_id, reference))
        return self.split or Resolved(((await self._workflows.resolve(organization_id, reference), 100),))


class Ticks:
    now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_asked_once_within_its_life() -> None:
    source, tick = FakeDirectory(), Ticks()
    targets = Targets(source, tick)
    for tick.now in (0.0, LIFE_SECONDS - 0.01):
        assert (await targets.resolve("org_a", "greet")).service_id == "greet"
    assert len(source.asked) == 1
    tick.now = LIFE_SECONDS
    await targets.resolve("org_a", "greet")
    assert len(source.asked) == 2
    assert LIFE_SECONDS < 1


async def test_an_organization_is_not_told_what_another_asked() -> None:
    source = FakeDirectory()
    targets = Targets(source)
    await targets.resolve("org_a", "greet")
    await targets.resolve("org_b", "greet")
    assert source.asked == [("org_a", "greet"), ("org_b", "greet")]


async def test_callers_at_once_share_a_question() -> None:
    source = FakeDirectory()
    targets = Targets(source)
    await asyncio.gather(*(targets.resolve("org_a", "greet") for _ in range(10)))
    assert len(source.asked) == 1


async def test_a_caller_that_goes_away_does_not_take_the_answer_along() -> None:
    targets = Targets(FakeDirectory())
    first = asyncio.create_task(targets.resolve("org_a", "greet"))
    second = asyncio.create_task(targets.resolve("org_a", "greet"))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).service_id == "greet"


async def test_what_is_not_found_is_asked_again() -> None:
    source = FakeDirectory()
    targets = Targets(source)
    for _ in range(2):
        with pytest.raises(NotFound):
            await targets.resolve("org_a", "unknown")
    assert len(source.asked) == 2


async def test_a_change_forgets_even_an_answer_under_way() -> None:
    source = FakeDirectory()
    targets = Targets(source)
    asking = asyncio.create_task(targets.resolve("org_a", "greet"))
    await asyncio.sleep(0)
    targets.forget()
    await asking
    await targets.resolve("org_a", "greet")
    assert len(source.asked) == 2


async def test_calls_are_split_by_the_shares_although_it_is_asked_once() -> None:
    source = FakeDirectory()
    source.split = Resolved(((TARGET, 90), (replace(TARGET, version_id="ver_2"), 10)))
    targets = Targets(source, Ticks())
    drawn = Counter([(await targets.resolve("org_a", "greet")).version_id for _ in range(10_000)])
    assert len(source.asked) == 1
    assert set(drawn) == {"ver_1", "ver_2"}
    assert 800 < drawn["ver_2"] < 1200  # 6 standard deviations
