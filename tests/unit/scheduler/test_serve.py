"""Which versions are served: rollback and split."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from kit.errors import Conflict, Invalid, NotFound
from scheduler.catalog import Catalog
from scheduler.deploy import Deploy, Deployment
from scheduler.model import WorkflowChanged
from scheduler.serve import Serve
from scheduler.workflow import Workflow
from tests.fakes.scheduler_rig import Scheduler
from tests.fakes.scheduling import FakeBlobs

MINE = ("org_a", "svc")


class Rig:
    def __init__(self, scheduler: Scheduler) -> None:
        self.store = scheduler.store
        self.warmed = scheduler.executors.warmed
        self.deploying = Deploy(scheduler.store, scheduler.executors, FakeBlobs(), scheduler.clock)
        self.catalog = Catalog(scheduler.store, scheduler.clock)
        self.serve = Serve(scheduler.store, scheduler.executors, scheduler.clock)

    async def deploy(self, **more: Any) -> Workflow:
        return (await self.deploying(replace(Deployment(*MINE, "Mine", "svc"), code="app = 1", **more))).workflow

    async def now(self) -> tuple[int, tuple[tuple[int, int], ...], int]:
        """(the version served, the split, what was served before)."""
        found = await self.catalog.get(*MINE)
        return found[0].version, found[0].traffic, found[0].version_before


@pytest.fixture
async def rig(scheduler: Scheduler) -> Rig:
    """Versions 1 to 3, of which the last is served."""
    scheduler.store.state.workflows.clear()
    scheduler.store.state.versions.clear()
    rig = Rig(scheduler)
    for _ in range(3):
        await rig.deploy()
    return rig


async def test_back_to_what_was_served_before(rig: Rig) -> None:
    assert await rig.now() == (3, (), 2)
    assert (await rig.serve.roll_back(*MINE, 0)).version == 2
    assert rig.store.state.events[-1] == WorkflowChanged(*MINE)
    assert (await rig.catalog.resolve(*MINE))[1].number == 2


async def test_a_second_time_there_is_none_before(rig: Rig) -> None:
    """Else the bad version would be served again."""
    await rig.serve.roll_back(*MINE, 0)
    with pytest.raises(Conflict, match="say which `version`"):
        await rig.serve.roll_back(*MINE, 0)
    assert await rig.now() == (2, (), 0)
    assert (await rig.serve.roll_back(*MINE, 1)).version == 1
    await rig.deploy()
    assert await rig.now() == (4, (), 1)


async def test_a_bad_version_is_not_what_was_before(rig: Rig) -> None:
    """1 to 3 were served, 3 was bad: after 4 it goes back to 2."""
    await rig.serve.roll_back(*MINE, 0)
    await rig.deploy()
    assert (await rig.serve.roll_back(*MINE, 0)).version == 2


async def test_a_draft_is_no_version_to_go_back_to(rig: Rig) -> None:
    await rig.deploy(publish=False)
    await rig.deploy()
    assert await rig.now() == (5, (), 3)


async def test_a_split(rig: Rig) -> None:
    split = await rig.serve.split(*MINE, {2: 10, 3: 90, 1: 0})
    assert (split.version, split.traffic) == (3, ((2, 10), (3, 90)))
    workflow, served = await rig.catalog.served(*MINE)
    assert [(version.number, percent) for version, percent in served] == [(2, 10), (3, 90)]
    drawn = Counter([(await rig.catalog.resolve(*MINE))[1].number for _ in range(2000)])
    assert set(drawn) == {2, 3}
    assert 120 < drawn[2] < 280  # 6 standard deviations
    assert (await rig.catalog.resolve("org_a", "svc@1"))[1].number == 1
    assert (await rig.catalog.served("org_a", "svc@2"))[1][0][1] == 100
    assert workflow.version == 3


async def test_the_largest_share_is_the_version_the_newest_of_equal_ones(rig: Rig) -> None:
    assert (await rig.serve.split(*MINE, {1: 60, 3: 40})).version == 1
    assert await rig.now() == (1, ((1, 60), (3, 40)), 3)
    assert (await rig.serve.split(*MINE, {1: 50, 2: 50})).version == 2


async def test_a_rollback_of_a_split_is_its_oldest(rig: Rig) -> None:
    await rig.serve.split(*MINE, {2: 40, 3: 60})
    assert (await rig.serve.roll_back(*MINE, 0)).version == 2
    assert await rig.now() == (2, (), 0)


async def test_a_deploy_ends_a_split(rig: Rig) -> None:
    await rig.serve.split(*MINE, {1: 90, 3: 10})
    await rig.deploy(publish=False)
    assert (await rig.now())[1] == ((1, 90), (3, 10))
    await rig.deploy()
    assert await rig.now() == (5, (), 1)


async def test_all_to_one_is_no_split(rig: Rig) -> None:
    assert await rig.serve.split(*MINE, {1: 100}) == (await rig.catalog.get(*MINE))[0]
    assert await rig.now() == (1, (), 3)


@pytest.mark.parametrize("traffic", [{}, {1: 99}, {1: 50, 2: 51}, {1: 101, 2: -1}, {1: 0}])
async def test_shares_that_make_no_hundred(rig: Rig, traffic: dict[int, int]) -> None:
    with pytest.raises(Invalid, match="100 together"):
        await rig.serve.split(*MINE, traffic)


async def test_too_many(rig: Rig) -> None:
    with pytest.raises(Invalid, match="at most 10"):
        await rig.serve.split(*MINE, {number: 9 if number < 12 else 1 for number in range(1, 13)})


async def test_what_is_not_there(rig: Rig) -> None:
    events = len(rig.store.state.events)
    with pytest.raises(NotFound, match="no version 8"):
        await rig.serve.split(*MINE, {1: 50, 9: 25, 8: 25})
    with pytest.raises(NotFound, match="no version 7"):
        await rig.serve.roll_back(*MINE, 7)
    for name in (("org_b", "svc"), ("org_a", "other")):
        for ask in (rig.serve.roll_back(*name, 1), rig.serve.split(*name, {1: 100})):
            with pytest.raises(NotFound, match="no such workflow"):
                await ask
        with pytest.raises(NotFound, match="no such workflow"):
            await rig.serve.page(*name, limit=1, after="")
    assert (await rig.now(), len(rig.store.state.events)) == ((3, (), 2), events)


async def test_a_workflow_that_served_nothing_is_published_with_its_first(scheduler: Scheduler) -> None:
    scheduler.store.state.workflows.clear()
    rig = Rig(scheduler)
    assert not (await rig.deploy(publish=False)).published
    with pytest.raises(Conflict):
        await rig.serve.roll_back(*MINE, 0)
    assert (await rig.serve.split(*MINE, {1: 100})).published


async def test_pages(rig: Rig) -> None:
    workflow, found, after = await rig.serve.page(*MINE, limit=2, after="")
    assert ([one.number for one in found], after, workflow.version) == ([3, 2], "2", 3)
    _, found, after = await rig.serve.page(*MINE, limit=2, after=after)
    assert ([one.number for one in found], after) == ([1], "")


@pytest.mark.parametrize("after", ["x", "-1", "1e3", "٣", "9" * 30])
async def test_a_token_that_nobody_gave(rig: Rig, after: str) -> None:
    with pytest.raises(Invalid, match="`after`"):
        await rig.serve.page(*MINE, limit=2, after=after)


async def test_what_is_to_be_served_is_loaded_before(rig: Rig) -> None:
    """And nothing that is served already, nor for a change that is refused."""
    ids = {one.number: one.id for one in rig.store.state.versions.values()}
    await rig.serve.split(*MINE, {2: 10, 3: 90})
    assert rig.warmed == [(ids[2], "org_a")]
    await rig.serve.split(*MINE, {1: 50, 2: 25, 3: 25})
    await rig.serve.roll_back(*MINE, 3)
    assert rig.warmed == [(ids[2], "org_a"), (ids[1], "org_a")]
    with pytest.raises(NotFound):
        await rig.serve.roll_back(*MINE, 9)
    assert len(rig.warmed) == 2
