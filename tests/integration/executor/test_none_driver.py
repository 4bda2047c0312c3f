"""Without a sandbox: what the driver `none` adds to the contract (tests/contract), and where it is refused."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from executor import tier as tiers
from executor.model import Secret
from executor.none_driver import NoneDriver, open_none
from executor.sandbox import Launch
from executor.sandboxes import open_sandboxes
from executor.settings import Settings
from executor.variables import environment
from kit.clock import SystemClock
from kit.errors import Precondition, Unavailable
from kit.settings import BadSettings, load
from tests.fakes.internet import FakeInternet
from tests.fakes.real_sandboxes import OUR_ENVIRONMENT, READY_SECONDS, Started, alive, until_gone

SAYS = """
import json, os, sys, uvicorn
print("imported")
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        return
    said = {"uid": os.getuid(), "argv": sys.argv, "cwd": os.getcwd(), "env": dict(os.environ), "path": sys.path[0]}
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps(said).encode()})
uvicorn.run(app)
"""


@pytest.fixture
async def none(sandbox_home: Path) -> AsyncIterator[NoneDriver]:
    async with open_none(sandbox_home) as driver:
        yield driver


async def begun(none: NoneDriver, source: str, file_name: str = "greet.py") -> Started:
    env = environment({"SECRET": "told", "RUNMESH_KV_NATS_URL": "nats://u:p@provider.internal:4222"})
    return Started(await none.start(Launch("run_1", OUR_ENVIRONMENT, source.encode(), file_name, env, isolation="run")))


async def test_it_runs_as_we_do_in_a_directory_of_its_own(none: NoneDriver, sandbox_home: Path) -> None:
    session = await begun(none, SAYS)
    await session.sandbox.ready(READY_SECONDS)
    said = json.loads((await session.call()).body)
    await session.end()
    assert said["uid"] == os.getuid()
    assert said["argv"] == ["greet.py"]
    work = Path(said["cwd"])
    assert (work.name, work.parent.parent) == ("work", sandbox_home / "runs")
    assert said["path"] == str(work)
    assert said["env"]["SECRET"] == "told"
    assert said["env"]["RUNMESH_KV_NATS_URL"] == "nats://u:p@127.0.0.1:4222"  # that name is a sandbox's
    assert said["env"]["TMPDIR"] == str(work.parent / "tmp")
    assert session.stdout == b"imported\n"


async def test_its_way_to_the_runtime(none: NoneDriver) -> None:
    """The platform's name for it doesn't resolve on the host: the variables lead to a port of its own."""
    session = await begun(none, SAYS)
    await session.sandbox.ready(READY_SECONDS)
    said = json.loads((await session.call()).body)
    ((way, tls),) = session.sandbox.process.way_out
    port = way.getsockname()[1]
    assert not tls
    assert said["env"]["CODEWORDS_RUNTIME_URI"] == said["env"]["RUNTIME_URI"] == f"http://127.0.0.1:{port}"
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.close()
    await writer.wait_closed()
    await session.end()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)


@pytest.mark.parametrize("name", ["../../x.py", ".hidden", "a/b.py", ""])
async def test_a_file_name_leads_nowhere_else(none: NoneDriver, name: str) -> None:
    session = await begun(none, SAYS, name)
    await session.sandbox.ready(READY_SECONDS)
    assert json.loads((await session.call()).body)["argv"] == ["workflow.py"]
    await session.end()


async def test_its_children_die_with_it(none: NoneDriver) -> None:
    source = "import subprocess\nsubprocess.Popen(['sleep', '61.7254'])\n" + SAYS
    session = await begun(none, source)
    await session.sandbox.ready(READY_SECONDS)
    assert alive("61.7254")
    await session.end()
    await until_gone("61.7254")


async def test_programs_need_no_bubblewrap(none: NoneDriver, tmp_path: Path) -> None:
    done = await none.programs.run_sandboxed(
        ["/bin/sh", "-c", "echo $X; pwd; ls -A $TMPDIR"],
        binds_ro=[],
        binds_rw=[tmp_path],
        env={"X": "y"},
        cwd=tmp_path,
        timeout=10,
    )
    assert (done.returncode, done.text.split()) == (0, ["y", str(tmp_path)])


class NoSecrets:
    async def names(self, organization_id: str) -> set[str]:
        return set()

    async def values(self, organization_id: str, names: object) -> dict[str, Secret]:
        return {}


async def test_what_the_executor_is_told(sandbox_home: Path) -> None:
    settings = load(Settings, {"RUNMESH_HOME": str(sandbox_home), "RUNMESH_ISOLATION": "none"})
    async with AsyncExitStack() as stack:
        opened = await open_sandboxes(settings, stack, NoSecrets(), None, SystemClock(), FakeInternet().open())
        await asyncio.sleep(0)  # what watches the spawner has begun
        assert isinstance(opened.driver, NoneDriver)
        assert json.loads((settings.run_dir / tiers.FILE).read_text())["name"] == "none"


async def test_what_fills_in_secrets_isnt_there(none: NoneDriver, tmp_path: Path) -> None:
    launch = Launch("run_1", OUR_ENVIRONMENT, SAYS.encode(), "greet.py", environment({}), certificates=tmp_path)
    with pytest.raises(Precondition, match="RUNMESH_ISOLATION=none"):
        await none.start(launch)


async def test_strangers_are_kept_out(sandbox_home: Path) -> None:
    environ = {"RUNMESH_HOME": str(sandbox_home), "RUNMESH_ISOLATION": "none", "RUNMESH_HOST": "0.0.0.0"}
    (sandbox_home / "runs").mkdir()
    async with AsyncExitStack() as stack:
        with pytest.raises(BadSettings, match=r"refused on 0\.0\.0\.0"):
            await open_sandboxes(
                load(Settings, environ), stack, NoSecrets(), None, SystemClock(), FakeInternet().open()
            )


async def test_an_executor_with_a_hole_never_serves(sandbox_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from executor import bubblewrap  # noqa: PLC0415

    original = bubblewrap.arguments
    monkeypatch.setattr(
        bubblewrap, "arguments", lambda *given: [one for one in original(*given) if one != "--unshare-ipc"]
    )
    settings = load(Settings, {"RUNMESH_HOME": str(sandbox_home)})
    async with AsyncExitStack() as stack:
        with pytest.raises(Unavailable, match="it is in the host's ipc namespace"):
            await open_sandboxes(settings, stack, NoSecrets(), None, SystemClock(), FakeInternet().open())
    assert not (settings.run_dir / tiers.FILE).exists()
