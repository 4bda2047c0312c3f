"""The pool of bases, over a driver that only pretends: who shares one, what is refused, what is let go."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from executor.bases import Bases
from executor.sandbox import Environment, Launch, StartFailed, Unforkable
from executor.variables import environment
from kit.errors import Unavailable

GIVEN = environment({})
ENVIRONMENT = Environment("lock", Path("/env"), Path("/env/bin/python"), Path("/usr"))
LAUNCH = Launch("run_1", ENVIRONMENT, b"", "w.py", environment({"A": "b"}), acting_id="org")


class Pretended:
    def __init__(self) -> None:
        self.gone = asyncio.Event()
        self.slots = 0
        self.retired = False

    def memory(self) -> int:
        return 30

    def retire(self) -> None:
        self.retired = True


class Started(list[Any]):
    """What was started, which fails with `error` if there is one."""

    error: Exception | None = None
    tried = 0

    async def __call__(self, of: Environment) -> Any:
        self.tried += 1
        await asyncio.sleep(0)
        if self.error:
            raise self.error
        self.append(Pretended())
        return self[-1]


@pytest.fixture
def started() -> Started:
    return Started()


@pytest.fixture
def bases(started: Started) -> Bases:
    return Bases(started, GIVEN, idle=0.005)


async def test_templates_of_one_environment_and_organization_share_one(bases: Bases, started: Started) -> None:
    others = [LAUNCH, replace(LAUNCH, source=b"another", version_id="v2", env={**LAUNCH.env, "C": "d"})]
    found = await asyncio.gather(*(bases.of(launch) for launch in others))
    assert (len(started), {*map(id, found)}) == (1, {id(started[0])})
    assert bases.memory() == 30


@pytest.mark.parametrize(
    "change",
    [
        lambda launch: replace(launch, acting_id="another"),
        lambda launch: replace(launch, owner_id="another"),
        lambda launch: replace(launch, environment=replace(launch.environment, digest="another")),
    ],
)
async def test_strangers_and_other_environments_share_none(
    bases: Bases, started: Started, change: Callable[[Launch], Launch]
) -> None:
    assert await bases.of(LAUNCH) is not await bases.of(change(LAUNCH))
    assert len(started) == 2


async def test_an_environment_that_was_made_again(bases: Bases, started: Started, tmp_path: Path) -> None:
    it = replace(LAUNCH, environment=replace(LAUNCH.environment, path=tmp_path))
    first = await bases.of(it)
    (tmp_path / "new").touch()
    assert await bases.of(it) is not first


@pytest.mark.parametrize(
    "change",
    [
        lambda launch: replace(launch, certificates=Path("/certificates")),
        lambda launch: replace(launch, env={**launch.env, "PYTHONHASHSEED": "1"}),
        lambda launch: replace(launch, env={**launch.env, "OPENBLAS_NUM_THREADS": "4"}),
        lambda launch: replace(launch, env={}),
    ],
)
async def test_what_would_differ_has_none(bases: Bases, started: Started, change: Callable[[Launch], Launch]) -> None:
    assert await bases.of(change(LAUNCH)) is None
    assert started.tried == 0


@pytest.mark.parametrize("error", [Unforkable("a thread"), StartFailed("exited", "it has died")])
async def test_what_cannot_be_one_is_not_tried_again(bases: Bases, started: Started, error: Exception) -> None:
    started.error = error
    assert [await bases.of(LAUNCH) for _ in range(3)] == [None] * 3
    assert started.tried == 1


async def test_what_could_not_be_had_is_tried_again(
    bases: Bases, started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("executor.bases.RETRY_SECONDS", 0.0)
    started.error = Unavailable("not now")
    assert await bases.of(LAUNCH) is None
    started.error = None
    assert await bases.of(LAUNCH) is started[0]


async def test_one_that_died_is_replaced(bases: Bases, started: Started) -> None:
    await bases.of(LAUNCH)
    started[0].gone.set()
    assert await bases.of(LAUNCH) is None  # this template is started from nothing
    assert await bases.of(LAUNCH) is started[1]


async def test_one_without_a_template_goes_after_a_while(bases: Bases, started: Started) -> None:
    base = await bases.of(LAUNCH)
    assert base is not None
    started[0].slots = 1
    bases.released(base)
    await asyncio.sleep(0.02)
    assert not started[0].retired
    started[0].slots = 0
    bases.released(base)
    started[0].slots = 1  # somebody came in time
    await asyncio.sleep(0.02)
    assert not started[0].retired
    started[0].slots = 0
    bases.released(base)
    await asyncio.sleep(0.02)
    assert (started[0].retired, bases.memory()) == (True, 0)
    assert await bases.of(LAUNCH) is started[1]


@pytest.mark.parametrize("error", [OSError(24, "too many open files"), StartFailed("timeout", "it hangs")])
async def test_what_failed_for_the_moment_costs_no_run_and_is_tried_again(
    bases: Bases, started: Started, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("executor.bases.RETRY_SECONDS", 0.0)
    started.error = error
    assert await bases.of(LAUNCH) is None
    started.error = None
    assert await bases.of(LAUNCH) is started[0]


async def test_one_that_disobeys_goes_and_has_no_successor_for_a_while(bases: Bases, started: Started) -> None:
    base = await bases.of(LAUNCH)
    assert base is not None
    bases.distrust(base)
    assert (started[0].retired, await bases.of(LAUNCH), started.tried) == (True, None, 1)


async def test_one_whose_callers_have_all_left_is_let_go(bases: Bases, started: Started) -> None:
    asking = asyncio.create_task(bases.of(LAUNCH))
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.sleep(0.02)
    assert (started[0].retired, bases.memory()) == (True, 0)


async def test_a_caller_who_gives_up_leaves_the_making_to_others(bases: Bases, started: Started) -> None:
    first, second = (asyncio.create_task(bases.of(LAUNCH)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert await second is started[0]


async def test_closing_ends_what_is_being_made(bases: Bases, started: Started) -> None:
    asking = asyncio.create_task(bases.of(LAUNCH))
    await asyncio.sleep(0)
    await bases.close()
    assert (await asking, await bases.of(LAUNCH), len(started)) == (None, None, 0)
