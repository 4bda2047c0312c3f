"""Limits of real sandboxes, cold and forked: memory, processes, processor; what was used; no group is left."""

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import astuple
from pathlib import Path

import pytest

from executor import spawner_client
from executor.cgroups import Bounds
from executor.driver import BubblewrapDriver, open_driver
from executor.sandbox import Crashed, Exit, Head, Launch
from executor.spawner_client import UNBOUND
from executor.templates import Templates, open_templates
from kit.clock import SystemClock
from tests.fakes.real_sandboxes import OUR_ENVIRONMENT, PUBLIC_URL, READY_SECONDS, Started, until
from tests.integration.executor.test_slots import app

HOG = app("kept = [bytearray(1 << 20) for _ in range(400)]\nreturn len(kept)")
FORKS = app("""
import errno, time
made = 0
for _ in range(200):
    try:
        pid = os.fork()
    except OSError as error:
        return [made, errno.errorcode[error.errno]]
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    made += 1
return [made, ""]
""")
BURN = app("""
import time
start, used = time.monotonic(), time.process_time()
while time.process_time() - used < 0.4:
    pass
return time.monotonic() - start
""")


@pytest.fixture
async def templates(driver: BubblewrapDriver) -> AsyncIterator[Templates]:
    if driver._spawner.no_cgroups:
        pytest.fail(f"this host has no cgroups for sandboxes: {driver._spawner.no_cgroups}")
    async with open_templates(driver, SystemClock(), READY_SECONDS) as templates:
        yield templates


async def run(templates: Templates, source: str, isolation: str, bounds: Bounds) -> tuple[bytes, Exit]:
    """The body of the answer, empty if it crashed, and how it ended."""
    launch = Launch("run_1", OUR_ENVIRONMENT, source.encode(), "w.py", {}, isolation, source[-900:], "org", bounds)
    session = Started(await templates.start(launch))
    body = b""
    try:
        await session.sandbox.ready(READY_SECONDS)
        body = (await session.call(Head([(b"host", b"test")]))).body
    except Crashed:
        pass
    return body, await session.end()


both = pytest.mark.parametrize("isolation", ["run", "cold"])


@both
async def test_memory_is_limited(templates: Templates, isolation: str) -> None:
    body, end = await run(templates, HOG, isolation, Bounds(memory=200 << 20))
    assert (body, end.used.oom_kills) == (b"", 1)
    body, end = await run(templates, HOG, isolation, Bounds(memory=800 << 20))
    assert (body, end.used.oom_kills) == (b"400", 0)
    assert 400 << 20 <= end.used.memory_peak <= 800 << 20


@both
async def test_where_there_are_no_groups_each_process_is_limited(
    templates: Templates, driver: BubblewrapDriver, isolation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver.spawner, "no_cgroups", "pretended")
    monkeypatch.setattr(
        spawner_client, "astuple", lambda _: astuple(UNBOUND)
    )  # nor does the spawner know of any bounds
    body, end = await run(templates, HOG, isolation, Bounds(memory=200 << 20))
    assert (body, end.used.oom_kills) == (b"Internal Server Error", 0)  # a MemoryError, before the group's limit


@both
async def test_processes_are_limited(templates: Templates, isolation: str) -> None:
    body, end = await run(templates, FORKS, isolation, Bounds(processes=20))
    made, error = eval(body)  # our own list
    assert 10 <= made <= 20
    assert error == "EAGAIN"
    assert end.used.oom_kills == 0


@both
async def test_more_processes_than_a_uid_has_by_default(templates: Templates, isolation: str) -> None:
    threads = app("""
import resource
return resource.getrlimit(resource.RLIMIT_NPROC)[0]
""")
    body, _ = await run(templates, threads, isolation, Bounds(processes=3000))
    assert int(body) >= 3000


@both
async def test_the_processor_is_limited_and_counted(templates: Templates, isolation: str) -> None:
    body, end = await run(templates, BURN, isolation, Bounds(cpu=0.25))
    assert float(body) >= 1.0  # 0.4 s of a processor, a quarter of one at a time
    assert 0.4 <= end.used.cpu_seconds <= 4


async def test_each_call_of_an_instance_is_charged_its_own(templates: Templates) -> None:
    used = [(await run(templates, BURN, "instance", Bounds()))[1].used.cpu_seconds for _ in range(3)]
    assert min(used) >= 0.4
    assert max(used[1:]) < 0.8  # all three would be 1.2


async def test_no_group_is_left(sandbox_home: Path) -> None:
    def groups() -> list[str]:
        """Walked, since those of others come and go meanwhile."""
        return [place for place, _, _ in os.walk("/sys/fs/cgroup") if f"/runmesh-{spawner}" in place]

    async with open_driver(sandbox_home, PUBLIC_URL) as driver:
        spawner = driver._spawner.pid
        async with open_templates(driver, SystemClock(), READY_SECONDS) as templates:
            runs = (run(templates, app("return 1"), isolation, Bounds()) for isolation in ("run", "cold") * 3)
            await asyncio.gather(*runs)
            assert groups()
    await until(lambda: not groups())
