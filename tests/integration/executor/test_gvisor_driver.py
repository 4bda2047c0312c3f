"""gVisor: what the driver adds to the contract, its self-check, and the refusal where there is no runsc."""

import asyncio
import json
import textwrap
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from executor import gvisor
from executor import tier as tiers
from executor.cgroups import Bounds
from executor.gvisor_check import GvisorCheck
from executor.gvisor_driver import NO_TEMPLATES, GvisorDriver, open_gvisor
from executor.model import Secret
from executor.sandbox import Crashed, Launch, Unforkable
from executor.sandboxes import open_sandboxes
from executor.self_check import Checked, refuse_open
from executor.settings import Settings
from executor.templates import open_templates
from kit.clock import SystemClock
from kit.errors import Unavailable
from kit.settings import load
from tests.fakes.internet import FakeInternet
from tests.fakes.real_sandboxes import OUR_ENVIRONMENT, PUBLIC_URL, READY_SECONDS, Started, started

NEEDS = "gVisor (runsc) isn't installed on this machine"
APP = """
import errno, json, os, sys, uvicorn
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        return
{handler}
    await send({{"type": "http.response.start", "status": 200, "headers": []}})
    await send({{"type": "http.response.body", "body": json.dumps(result).encode()}})
uvicorn.run(app)
"""


class NoSecrets:
    async def names(self, organization_id: str) -> set[str]:
        return set()

    async def values(self, organization_id: str, names: object) -> dict[str, Secret]:
        return {}


@pytest.fixture
async def driver(sandbox_home: Path) -> AsyncIterator[GvisorDriver]:
    if gvisor.find_runsc() is None:
        pytest.skip(NEEDS)
    async with open_gvisor(sandbox_home, PUBLIC_URL) as opened:
        yield opened


def check(driver: GvisorDriver, home: Path) -> GvisorCheck:
    return GvisorCheck(driver, home, driver.spawner.pid, cgroups=not driver.spawner.no_cgroups)


def script(handler: str) -> str:
    return APP.format(handler=textwrap.indent(textwrap.dedent(handler).strip(), "    "))


async def result(driver: GvisorDriver, handler: str) -> Any:
    async with started(driver, script(handler)) as session:
        await session.sandbox.ready(READY_SECONDS)
        return json.loads((await session.call()).body)


async def test_another_kernel_answers(driver: GvisorDriver) -> None:
    told = await result(driver, "result = [open('/proc/version').read(), sorted(os.listdir('/proc'))]")
    assert told[0] != Path("/proc/version").read_text()
    assert "kallsyms" not in told[1]


async def test_nothing_that_must_fail_works(driver: GvisorDriver, sandbox_home: Path) -> None:
    assert await check(driver, sandbox_home)() == Checked([], NO_TEMPLATES)


@pytest.mark.parametrize(
    ("gone", "fault"),
    [
        (("--unshare-ipc",), "it is in the host's ipc namespace"),
        (("--unshare-cgroup-try",), "it is in the host's cgroup namespace"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_an_outer_sandbox_with_a_hole_is_refused(
    driver: GvisorDriver, sandbox_home: Path, monkeypatch: pytest.MonkeyPatch, gone: tuple[str, ...], fault: str
) -> None:
    original = gvisor.arguments
    monkeypatch.setattr(gvisor, "arguments", lambda *given: [one for one in original(*given) if one not in gone])
    with pytest.raises(Unavailable, match="isn't complete") as refused:
        await refuse_open(check(driver, sandbox_home))
    assert f"runsc-sandbox: {fault}" in refused.value.message or f"bwrap: {fault}" in refused.value.message


async def test_a_sandbox_without_gvisor_is_refused(
    driver: GvisorDriver, sandbox_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bubblewrap's own, which is whole: but it isn't what was asked for."""
    from executor.confinement import Confinement  # noqa: PLC0415

    confinement = driver._confinement
    monkeypatch.setattr(type(confinement), "_start", Confinement._start)
    monkeypatch.setattr(type(confinement), "spawn", Confinement.spawn)
    monkeypatch.setattr(GvisorDriver, "entry", "/runmesh/shim.py")
    faults = (await check(driver, sandbox_home)()).faults
    assert "a new sandbox: the host's kernel answers its system calls" in faults
    assert "a new sandbox: there is no runsc-sandbox around it" in faults


async def test_it_is_refused_a_template(driver: GvisorDriver) -> None:
    launch = Launch("run_1", OUR_ENVIRONMENT, script("result = 1").encode(), "w.py", {}, "run", "v", "org")
    with pytest.raises(Unforkable, match=NO_TEMPLATES):
        await driver.start_template(launch, READY_SECONDS)


async def test_an_instance_serves_one_call_after_the_other(driver: GvisorDriver) -> None:
    source = "calls = []\n" + script("calls.append(1)\nprint(len(calls))\nresult = [len(calls), os.getpid()]")
    launch = Launch("run_1", OUR_ENVIRONMENT, source.encode(), "w.py", {}, "instance", "v", "org")
    async with open_templates(driver, SystemClock(), READY_SECONDS) as templates:
        found = []
        for number in (1, 2):
            session = Started(await templates.start(launch))
            await session.sandbox.ready(READY_SECONDS)
            found.append(json.loads((await session.call()).body)[0])
            await session.end()
            assert session.stdout == f"{number}\n".encode()
    assert found == [1, 2]


HOG = """
held = []
try:
    while len(held) < 600:
        held.append(bytearray(b'x' * (1 << 20)))
except MemoryError:
    pass
result = len(held)
"""


async def test_memory_is_limited(driver: GvisorDriver) -> None:
    if driver.spawner.no_cgroups:
        return  # then it is of each process, by bubblewrap's own rules
    launch = Launch("run_1", OUR_ENVIRONMENT, script(HOG).encode(), "w.py", {}, bounds=Bounds(memory=150 << 20))
    session = Started(await driver.start(launch))
    await session.sandbox.ready(READY_SECONDS)
    with pytest.raises(Crashed, match="signal 9"):
        await session.call()
    end = await session.end()
    assert end.used.oom_kills
    assert end.used.memory_peak < (160 << 20) + gvisor.OVERHEAD.memory


async def test_files_are_the_runs_own_and_bounded(driver: GvisorDriver, sandbox_home: Path) -> None:
    handler = """
    result = {}
    for path in ("/x", "/usr/x", "/etc/x", "/runmesh/x", sys.prefix + "/x", "/tmp/x", "/workflow/x", "/dev/shm/x"):
        try:
            with open(path, "wb") as file:
                result[path] = file.write(b"x" * 3_000_000)
        except OSError as error:
            result[path] = errno.errorcode[error.errno]
    """
    launch = Launch("run_1", OUR_ENVIRONMENT, script(handler).encode(), "w.py", {}, disk_bytes=2_000_000)
    session = Started(await driver.start(launch))
    await session.sandbox.ready(READY_SECONDS)
    told = json.loads((await session.call()).body)
    await session.end()
    own = {"/tmp/x", "/workflow/x", "/dev/shm/x"}
    assert {path for path, outcome in told.items() if outcome == "EFBIG"} == own
    assert {outcome for path, outcome in told.items() if path not in own} <= {"EROFS", "EACCES"}


async def test_an_executor_on_gvisor(sandbox_home: Path) -> None:
    if gvisor.find_runsc() is None:
        pytest.skip(NEEDS)
    settings = load(Settings, {"RUNMESH_HOME": str(sandbox_home), "RUNMESH_ISOLATION": "gvisor"})
    async with AsyncExitStack() as stack:
        await open_sandboxes(settings, stack, NoSecrets(), None, SystemClock(), FakeInternet().open())
        await asyncio.sleep(0)  # what watches the spawner has begun
        told = json.loads((settings.run_dir / tiers.FILE).read_text())
        assert told["name"] == "gvisor"


async def test_without_runsc_it_is_refused(sandbox_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gvisor, "find_runsc", lambda: None)
    (sandbox_home / "runs").mkdir()
    settings = load(Settings, {"RUNMESH_HOME": str(sandbox_home), "RUNMESH_ISOLATION": "gvisor"})
    async with AsyncExitStack() as stack:
        with pytest.raises(Unavailable, match=r"gVisor \(runsc\) isn't installed"):
            await open_sandboxes(settings, stack, NoSecrets(), None, SystemClock(), FakeInternet().open())
    assert not (settings.run_dir / tiers.FILE).exists()
