"""The pool of templates, over a driver that only pretends: who gets a slot, who runs cold, what is let go."""

import asyncio
import gc
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from executor.cgroups import Bounds
from executor.sandbox import Crashed, Environment, Launch, StartFailed, Unforkable
from executor.templates import HOT, RETRY, Templates
from kit.clock import FakeClock
from kit.errors import Unavailable
from tests.fakes.sandbox import FakeDriver, FakeSandbox

ENVIRONMENT = Environment("lock", Path("/env"), Path("/env/bin/python"), Path("/usr"))


class FakeSlot(FakeSandbox):
    def __init__(self, driver: FakeDriver, launch: Launch, over: Callable[[], None]) -> None:
        super().__init__(driver, launch)
        self.over = over
        self.is_over = False
        self.first: list[tuple[bytes, bytes]] = []

    def say_first(self, said: tuple[bytes, bytes]) -> None:
        self.first.append(said)

    async def close(self) -> Any:
        was, self.is_over = self.is_over, True
        exit_ = await super().close()
        if not was:
            self.over()
        return exit_


class FakeTemplate:
    def __init__(self, driver: "FakeStarter", launch: Launch) -> None:
        self.gone = asyncio.Event()
        self.said = (b"imported\n", b"")
        self.slots: list[FakeSlot] = []
        self.warm: list[bool] = []
        self.retired = False
        self.bytes = 60
        self._driver = driver
        self._launch = launch

    async def fork(self, over: Callable[[], None], *, warm: bool = False) -> FakeSlot:
        if self._driver.no_forks:
            raise self._driver.no_forks
        self.slots.append(FakeSlot(self._driver, self._launch, over))
        self.warm.append(warm)
        return self.slots[-1]

    async def openapi(self) -> str:
        if self._driver.mute:
            raise self._driver.mute
        return '{"openapi":"3.1.0"}'

    def memory(self) -> int:
        return self.bytes

    def retire(self) -> None:
        self.retired = True


class FakeStarter(FakeDriver):
    """Templates load when `loads` is set; `breaks` is what loading one raises."""

    def __init__(self) -> None:
        super().__init__()
        self.breaks: Exception | None = None
        self.no_forks: Exception | None = None
        self.mute: Exception | None = None
        self.loads = asyncio.Event()
        self.loads.set()
        self.templates: list[FakeTemplate] = []
        self.tried = 0
        self.shared = 0

    def memory(self) -> int:
        return self.shared

    async def start_template(self, launch: Launch, timeout: float) -> FakeTemplate:
        self.tried += 1
        await self.loads.wait()
        if self.breaks is not None:
            raise self.breaks
        self.templates.append(FakeTemplate(self, launch))
        return self.templates[-1]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(datetime(2026, 11, 22, tzinfo=UTC))


@pytest.fixture
def driver() -> FakeStarter:
    return FakeStarter()


@pytest.fixture
def pool(driver: FakeStarter, clock: FakeClock) -> Templates:
    return Templates(driver, clock, 30, limit=2)


def launch(version: str = "v1", acting: str = "a", isolation: str = "run", **env: str) -> Launch:
    return Launch("run_1", ENVIRONMENT, version.encode(), "w.py", env, isolation, version, acting)


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_one_template_serves_many_runs(pool: Templates, driver: FakeStarter) -> None:
    driver.loads.clear()
    starts = [asyncio.create_task(pool.start(launch())) for _ in range(3)]
    await settle()
    driver.loads.set()
    slots = await asyncio.gather(*starts)
    assert (driver.tried, len(set(map(id, slots))), driver.started) == (1, 3, [])
    assert [slot.first for slot in driver.templates[0].slots] == [[(b"imported\n", b"")], [], []]


@pytest.mark.parametrize(
    "other",
    [
        launch("v2"),
        launch(acting="b"),
        launch(TOKEN="x"),
        replace(launch(), bounds=Bounds(memory=1)),
        replace(launch(), disk_bytes=1),
        replace(launch(), file_name="other.py"),
        replace(launch(), egress=["a.example"]),
        replace(launch(), certificates=Path("/certificates")),
    ],
)
async def test_what_differs_has_a_template_of_its_own(pool: Templates, driver: FakeStarter, other: Launch) -> None:
    await pool.start(launch())
    await pool.start(other)
    assert driver.tried == 2


async def test_who_asks_for_cold_gets_it(pool: Templates, driver: FakeStarter) -> None:
    assert [await pool.start(launch(isolation="cold"))] == driver.started
    assert driver.tried == 0


async def test_a_slot_is_refilled_after_the_run(pool: Templates, driver: FakeStarter) -> None:
    slot = await pool.start(launch())
    (template,) = driver.templates
    await settle()
    assert len(template.slots) == 1
    await slot.close()
    await settle()
    assert len(template.slots) == 2
    assert await pool.start(launch()) is template.slots[1]
    assert template.warm == [False, True]  # only what waits has time for it
    assert len(template.slots) == 2


async def test_a_slot_that_waits_too_long_is_let_go(pool: Templates, driver: FakeStarter, clock: FakeClock) -> None:
    await (await pool.start(launch())).close()
    await settle()
    waiting = driver.templates[0].slots[1]
    sweeping = asyncio.create_task(pool.sweep())
    await settle()
    await clock.advance((HOT + timedelta(seconds=10)).total_seconds())
    await settle()
    assert waiting.is_over
    assert len(driver.templates[0].slots) == 2
    assert not driver.templates[0].retired
    sweeping.cancel()


async def test_a_dead_slot_is_not_handed_out(pool: Templates, driver: FakeStarter) -> None:
    await (await pool.start(launch())).close()
    await settle()
    driver.templates[0].slots[1].is_over = True
    assert await pool.start(launch()) is driver.templates[0].slots[2]


@pytest.mark.parametrize(
    ("error", "later"), [(Unforkable("threads"), 1), (StartFailed("import", "broken"), 2), (Unavailable("no"), 2)]
)
async def test_what_cannot_be_a_template_runs_cold(
    pool: Templates, driver: FakeStarter, clock: FakeClock, error: Exception, later: int
) -> None:
    driver.breaks = error
    assert await pool.start(launch()) is driver.started[0]
    driver.breaks = None
    await clock.advance((RETRY + timedelta(seconds=1)).total_seconds())
    await pool.start(launch())
    assert driver.tried == later


async def test_a_failing_script_is_not_loaded_twice_each_time(pool: Templates, driver: FakeStarter) -> None:
    driver.breaks = StartFailed("import", "broken")
    for _ in range(3):
        await pool.start(launch())
    assert (driver.tried, len(driver.started)) == (1, 3)


async def test_a_template_that_cannot_be_forked_any_more_is_replaced(pool: Templates, driver: FakeStarter) -> None:
    await pool.start(launch())
    driver.no_forks = Unavailable("the template is gone")
    assert await pool.start(launch()) is driver.started[0]
    assert driver.templates[0].retired
    driver.no_forks = None
    await pool.start(launch())
    assert driver.tried == 2


async def test_a_template_that_cannot_be_forked_for_the_next_call_is_replaced(
    pool: Templates, driver: FakeStarter
) -> None:
    slot = await pool.start(launch())
    driver.no_forks = Unavailable("its furniture is gone")
    await slot.close()
    await settle()
    assert driver.templates[0].retired
    driver.no_forks = None
    await pool.start(launch())
    assert driver.tried == 2


async def test_a_template_that_ends_is_forgotten(pool: Templates, driver: FakeStarter) -> None:
    await pool.start(launch())
    driver.templates[0].gone.set()
    await settle()
    await pool.start(launch())
    assert driver.tried == 2


async def test_one_that_ends_while_another_is_made_in_its_place(pool: Templates, driver: FakeStarter) -> None:
    unheard: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context))
    await pool.start(launch())
    driver.no_forks = Unavailable("it is gone")
    await pool.start(launch())  # which forgets the first
    driver.no_forks = None
    driver.loads.clear()
    start = asyncio.create_task(pool.start(launch()))
    await settle()
    driver.templates[0].gone.set()
    await settle()
    driver.loads.set()
    await start
    gc.collect()
    assert (len(driver.templates), driver.templates[1].retired, unheard) == (2, False, [])


async def test_a_waiting_slot_that_fails_is_ended_and_not_made_again_at_once(
    pool: Templates, driver: FakeStarter
) -> None:
    slot = await pool.start(launch())
    driver.fails = StartFailed("refused", "capabilities")
    await slot.close()
    await settle()
    (template,) = driver.templates
    assert [one.is_over for one in template.slots] == [True, True]
    await settle()
    assert len(template.slots) == 2
    driver.fails = None
    await (await pool.start(launch())).close()
    await settle()
    assert [one.is_over for one in template.slots] == [True, True, True, False]


async def test_templates_in_the_making_are_waited_for(pool: Templates, driver: FakeStarter) -> None:
    driver.loads.clear()
    starts = [asyncio.create_task(pool.start(launch(f"v{number}"))) for number in range(5)]
    await settle()
    driver.loads.set()
    slots = await asyncio.gather(*starts)
    assert (len(slots), driver.started) == (5, [])
    await pool.start(launch("v9"))
    assert len(pool._entries) == 2


async def test_a_making_that_is_given_up_costs_nobody_the_run(pool: Templates, driver: FakeStarter) -> None:
    driver.loads.clear()
    waiting = asyncio.create_task(pool.start(launch()))
    await settle()
    await pool.close()
    assert await waiting is driver.started[0]


async def test_the_least_recently_used_goes_first(pool: Templates, driver: FakeStarter) -> None:
    for version in ("v1", "v2", "v1", "v3"):
        await pool.start(launch(version))
    assert [template.retired for template in driver.templates] == [False, True, False]


async def test_the_budget_of_memory_is_kept(driver: FakeStarter, clock: FakeClock) -> None:
    pool = Templates(driver, clock, 30, budget=150)
    for version in ("v1", "v2", "v3", "v1"):
        await pool.start(launch(version))
    pool._keep_to_budget()
    assert [template.retired for template in driver.templates] == [False, True, False]
    driver.shared = 31
    pool._keep_to_budget()
    assert [template.retired for template in driver.templates] == [False, True, True]


async def test_the_last_template_stays_whatever_it_takes(driver: FakeStarter, clock: FakeClock) -> None:
    pool = Templates(driver, clock, 30, budget=150)
    for version in ("v1", "v2"):
        await pool.start(launch(version))
        driver.templates[-1].bytes = 1000
    pool._keep_to_budget()
    assert [template.retired for template in driver.templates] == [True, False]


async def test_a_cancelled_wait_leaves_the_template_to_others(pool: Templates, driver: FakeStarter) -> None:
    driver.loads.clear()
    first, second = (asyncio.create_task(pool.start(launch())) for _ in range(2))
    await settle()
    first.cancel()
    await settle()
    driver.loads.set()
    assert await second is driver.templates[0].slots[0]


async def test_closing_lets_everything_go(pool: Templates, driver: FakeStarter) -> None:
    await (await pool.start(launch())).close()
    await settle()
    await pool.close()
    await settle()
    (template,) = driver.templates
    assert template.retired
    assert all(slot.is_over for slot in template.slots)


async def test_what_was_loaded_for_a_deploy_serves_its_first_run(pool: Templates, driver: FakeStarter) -> None:
    assert await pool.load(launch()) == '{"openapi":"3.1.0"}'
    await settle()
    (template,) = driver.templates
    (waiting,) = template.slots
    assert await pool.start(replace(launch(), run_id="run_2", version_id="ver_2")) is waiting
    assert waiting.first == [(b"imported\n", b"")]
    assert (driver.tried, driver.started) == (1, [])


async def test_what_cannot_be_loaded_for_a_deploy(pool: Templates, driver: FakeStarter) -> None:
    driver.breaks = Unforkable("2 threads")
    with pytest.raises(Unforkable):
        await pool.load(launch())
    await pool.start(launch())
    assert (driver.tried, len(driver.started)) == (1, 1)  # it is known by now
    driver.breaks = StartFailed("import", "no")
    with pytest.raises(StartFailed):
        await pool.load(launch("v2"))
    driver.breaks, driver.mute = None, Crashed("mute")
    with pytest.raises(Crashed):
        await pool.load(launch("v3"))


async def test_an_environment_that_was_made_again_is_loaded_again(
    pool: Templates, driver: FakeStarter, tmp_path: Path
) -> None:
    own = replace(launch(), environment=replace(ENVIRONMENT, path=tmp_path))
    await pool.start(own)
    os.utime(tmp_path, ns=(1, 1))
    await pool.start(own)
    assert driver.tried == 2


async def test_a_deploy_of_what_was_deployed_before_loads_it_again(pool: Templates, driver: FakeStarter) -> None:
    await pool.load(launch())
    await pool.load(launch())
    await settle()
    first, second = driver.templates
    assert first.retired
    assert all(slot.is_over for slot in first.slots)
    assert await pool.start(launch()) is second.slots[0]


async def test_a_deploy_that_fails_leaves_what_was_there(pool: Templates, driver: FakeStarter) -> None:
    await pool.load(launch())
    await settle()
    driver.mute = Crashed("mute")
    with pytest.raises(Crashed):
        await pool.load(launch())
    first, second = driver.templates
    assert (first.retired, second.retired) == (False, True)
    assert await pool.start(launch()) is first.slots[0]


async def test_what_can_be_forked_again_is(pool: Templates, driver: FakeStarter) -> None:
    driver.breaks = StartFailed("import", "no")
    await pool.start(launch())
    driver.breaks = None
    await pool.load(launch())
    await pool.start(launch())
    assert len(driver.started) == 1


async def test_what_is_prepared_serves_its_first_run(pool: Templates, driver: FakeStarter) -> None:
    for _ in range(2):  # the second finds it there
        await pool.prepare(launch())
        await settle()
    (template,) = driver.templates
    (waiting,) = template.slots
    assert await pool.start(launch()) is waiting


@pytest.mark.parametrize("problem", [Unforkable("2 threads"), StartFailed("import", "no"), Unavailable("full")])
async def test_what_cannot_be_prepared_is_told_by_its_first_run(
    pool: Templates, driver: FakeStarter, problem: Exception
) -> None:
    driver.breaks = problem
    await pool.prepare(launch())
    await pool.start(launch())
    assert len(driver.started) == 1


async def test_what_runs_cold_is_not_prepared(pool: Templates, driver: FakeStarter) -> None:
    await pool.prepare(replace(launch(), isolation="cold"))
    assert driver.tried == 0
