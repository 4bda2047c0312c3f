"""Templates that are forked from a base, with the real bubblewrap: they share its memory, and nothing else."""

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from executor import seen
from executor.driver import BubblewrapDriver
from executor.sandbox import Head, Launch
from executor.templates import Templates, open_templates
from executor.variables import environment
from kit.clock import SystemClock
from tests.fakes.real_sandboxes import OUR_ENVIRONMENT, READY_SECONDS, Started, until
from tests.integration.executor.test_slots import app

LOOK = """
places = [os.path.join(place, name) for place in ("/tmp", "/workflow", "/dev/shm") for name in os.listdir(place)]
return {"marks": [path for path in places if "mark" in path], "memo": getattr(os, "MEMO", ""),
        "environ": os.environ.get("MINE"), "runmesh": os.listdir("/runmesh"), "script": open(sys.argv[0]).read()[-20:],
        "seen": sorted(int(name) for name in os.listdir("/proc") if name.isdigit()), "mask": os.umask(0o77)}
"""
LEAVES = """
import uvicorn.config
for place in ("/tmp", "/workflow", "/dev/shm"):
    open(os.path.join(place, "mark-" + os.environ["MINE"]), "w").close()
os.MEMO = os.environ["MINE"]
SLOTS = sorted(os.listdir("/runmesh/slots"))
"""


def launch(mine: str, handle: str = LOOK, on_import: str = LEAVES, **env: str) -> Launch:
    source = app(handle, on_import) + f"# {mine}"
    return Launch(
        "run_1", OUR_ENVIRONMENT, source.encode(), "w.py", environment({"MINE": mine, **env}), "run", mine, "org"
    )


@pytest.fixture
async def templates(driver: BubblewrapDriver) -> AsyncIterator[Templates]:
    async with open_templates(driver, SystemClock(), READY_SECONDS) as templates:
        yield templates


@asynccontextmanager
async def running(templates: Templates, it: Launch) -> AsyncIterator[Started]:
    session = Started(await templates.start(it))
    try:
        await session.sandbox.ready(READY_SECONDS)
        yield session
    finally:
        await session.end()


async def said(templates: Templates, it: Launch) -> Any:
    async with running(templates, it) as session:
        return json.loads((await session.call(Head([(b"host", b"test")], path="/"))).body)


def template_of(templates: Templates, number: int = 0) -> Any:
    return list(templates._entries.values())[number].making.result()


def pid_of(template: Any) -> int:
    """On the host: the process that is the only one in the template's control group but for helpers."""
    (tasks,) = {Path(place, "cgroup.procs") for name, place in template.job.group.places.items() if name == "pids"}
    return int(tasks.read_text().split()[0])


async def test_templates_see_nothing_of_each_other(templates: Templates, driver: BubblewrapDriver) -> None:
    first, second = await said(templates, launch("one")), await said(templates, launch("two"))
    for found, mine in ((first, "one"), (second, "two")):
        marks = [f"{place}/mark-{mine}" for place in ("/tmp", "/workflow")]  # /dev/shm is a slot's own
        assert sorted(found["marks"]) == sorted(marks)
        assert (found["memo"], found["environ"], found["runmesh"]) == (mine, mine, [])
        assert (found["seen"], found["mask"]) == ([1, 2], 0o77)
        assert found["script"].endswith(f"# {mine}")
    bases = driver.bases._ready()
    assert (len(bases), bases[0][1].slots, templates._cold) == (1, 2, {})


async def test_each_has_a_uid_of_its_own_and_they_share_memory(templates: Templates, driver: BubblewrapDriver) -> None:
    for mine in ("one", "two"):
        await said(templates, launch(mine))
    ((_, base),) = driver.bases._ready()
    pids = [pid_of(template_of(templates, number)) for number in (0, 1)]
    assert len({seen.parent(pid) for pid in pids}) == 1
    uids = {seen.look(pid).status["Uid"].split()[0] for pid in (*pids, seen.parent(pids[0]))}
    assert len(uids) == (3 if os.getuid() == 0 else 1)
    assert base.memory() > template_of(templates).memory() > 0
    assert driver.memory() == pytest.approx(base.memory(), rel=0.2)


async def test_a_base_that_dies_costs_nobody_a_run(templates: Templates, driver: BubblewrapDriver) -> None:
    assert (await said(templates, launch("one")))["memo"] == "one"
    ((_, base),) = driver.bases._ready()
    dead = template_of(templates)
    driver.spawner.kill(base.job)
    await dead.gone.wait()
    await until(lambda: not templates._entries)
    for _ in range(2):
        assert (await said(templates, launch("one")))["memo"] == "one"
    assert (templates._cold, template_of(templates) is not dead) == ({}, True)


async def test_what_differs_stands_alone(templates: Templates, driver: BubblewrapDriver) -> None:
    assert (await said(templates, launch("one", PYTHONOPTIMIZE="1")))["memo"] == "one"
    assert driver.bases._ready() == []


async def test_nothing_stays_of_templates_that_end(driver: BubblewrapDriver, sandbox_home: Path) -> None:
    """Hundreds of them come and go in the life of a base."""
    async with open_templates(driver, SystemClock(), READY_SECONDS) as templates:
        for number in range(12):
            await said(templates, launch(f"n{number}"))
            for key in list(templates._entries):
                templates._drop(key)
        await until(lambda: not list(sandbox_home.glob("runs/base-*/slots/*")))
        ((_, base),) = driver.bases._ready()
        assert base.slots == 0
        assert base.job.group is not None
        assert len(list(Path(base.job.group.places["pids"]).parent.glob("*-*"))) == 1


async def test_a_script_that_fails_fails_as_ever(templates: Templates) -> None:
    broken = replace(launch("one"), source=b"import uvicorn\n1 / 0\n")
    session = Started(await templates.start(broken))
    try:
        with pytest.raises(Exception, match="ZeroDivisionError"):
            await session.sandbox.ready(READY_SECONDS)
    finally:
        await session.end()
    assert b"line 2" in session.stderr
