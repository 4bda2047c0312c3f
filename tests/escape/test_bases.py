"""A package that attacks from a base, in which its templates are born: it gains nothing, and reaches nobody else."""

import json
import os
import shutil
import sys
import tempfile
import venv
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from executor import seccomp, staging
from executor.driver import BubblewrapDriver, open_driver
from executor.sandbox import Environment, Launch
from executor.templates import Templates, open_templates
from executor.variables import environment
from kit.clock import SystemClock
from tests.escape.attacks import CANARY, PRELUDE, as_root
from tests.fakes.real_sandboxes import OUR_ENVIRONMENT, PUBLIC_URL, READY_SECONDS, Started

PACKAGES = ("lib", f"python3.{sys.version_info.minor}", "site-packages")
# `httpx` is what a base imports; whoever has it in his environment may have got another one than he thinks.
SCRIPT = """
import json, os
import httpx, uvicorn

async def app(scope, receive, send):
    if scope["type"] == "http":
        told = json.dumps([httpx.FOUND, sorted(os.listdir("/tmp")), os.listdir("/workflow")]).encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": told})

uvicorn.run(app)
"""
POWERS = f"""
FOUND = {{"pid": os.getpid(), "ids": [tried(lambda: os.setresuid(*[uid] * 3)) for uid in (0, 200001, 205000)]}}
FOUND["mounts"] = [call("mount", b"none", b"/tmp", b"tmpfs", 0, 0), call("setns", 0, 0), call("unshare", 0x10000000)]
reading, writing = os.pipe()
if not libc.syscall({seccomp.MACHINES["x86_64"].allowed["clone"]}, {seccomp.SLOT}, 0, 0, 0, 0):
    wanted = ("0 0 1", "0 200001 1", "1000 200001 1", "200000 200000 10000")
    told = [written("/proc/self/" + name, ids) for name in ("uid_map", "gid_map") for ids in wanted]
    told.append(tried(lambda: os.setresuid(200001, 200001, 200001)))
    told.append(call("mount", b"none", b"/tmp", b"tmpfs", 0, 0))
    os.write(writing, json.dumps(told).encode())
    os._exit(0)
os.wait()
FOUND["forked"] = json.loads(os.read(reading, 60000))
os.close(reading), os.close(writing)
"""
FURNITURE = """
FOUND = {}

def alarm(*_):
    if os.getpid() != 3:
        return
    for name in os.listdir("/runmesh/slots"):
        tried(lambda: os.rename("/runmesh/slots/" + name, "/runmesh/slots/" + name + ".old"))
        tried(lambda: os.symlink("@KEPT@", "/runmesh/slots/" + name))
    tried(lambda: os.symlink("@KEPT@", "/runmesh/slots/template-next"))

if os.getpid() == 3:  # a base
    signal.signal(signal.SIGALRM, alarm)
    signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
"""


@pytest.fixture
def home() -> Iterator[Path]:
    home = Path(tempfile.mkdtemp(prefix="bases-", dir="/var/tmp"))
    yield home
    staging.remove(home)


@asynccontextmanager
async def attacked(home: Path, attack: str) -> AsyncIterator[tuple[Templates, BubblewrapDriver, Environment]]:
    """An environment with such a package."""
    own = home / "environment"
    venv.create(own, symlinks=True)
    for name in ("uvicorn", "click", "h11"):
        shutil.copytree(OUR_ENVIRONMENT.path.joinpath(*PACKAGES, name), own.joinpath(*PACKAGES, name))
    own.joinpath(*PACKAGES, "httpx.py").write_text(PRELUDE + attack)
    of_it = replace(OUR_ENVIRONMENT, path=own, interpreter=own / "bin" / "python")
    async with (
        open_driver(home / "home", PUBLIC_URL) as driver,
        open_templates(driver, SystemClock(), READY_SECONDS) as templates,
    ):
        yield templates, driver, of_it
    assert list((home / "home" / "runs").iterdir()) == []


async def said(templates: Templates, of: Environment, number: int = 0) -> Any:
    source = SCRIPT + f"# {number}"
    launch = Launch("run_1", of, source.encode(), "w.py", environment({}), "run", str(number), "org")
    session = Started(await templates.start(launch))
    try:
        await session.sandbox.ready(READY_SECONDS)
        return json.loads((await session.call()).body)
    finally:
        await session.end()


async def test_a_base_has_no_powers(home: Path) -> None:
    async with attacked(home, POWERS) as (templates, driver, environment):
        found, _, files = await said(templates, environment)
        assert (len(driver.bases._ready()), files) == (1, ["w.py"])
    assert found.pop("pid") == 3
    assert {it for name in found for it in found[name]} <= {"EPERM", "EACCES", "EINVAL"}, found
    if os.getuid() == 0:  # with the rights to, it is done
        assert as_root("result = tried(lambda: os.setresuid(200001, 200001, 200001))") == "None"


async def test_a_base_moves_its_templates_furniture(home: Path) -> None:
    """Its templates may have to be loaded from nothing. What it links to isn't touched, nor shown to anybody."""
    kept = home / "kept"
    kept.mkdir()
    kept.chmod(0o777)
    (kept / "canary").write_text(CANARY)
    before = kept.stat(), (kept / "canary").stat()
    async with attacked(home, FURNITURE.replace("@KEPT@", str(kept))) as (templates, _, environment):
        for number in range(8):
            _, there, files = await said(templates, environment, number)
            assert ("canary" in there, files) == (False, ["w.py"])
    after = kept.stat(), (kept / "canary").stat()
    assert [(it.st_uid, it.st_gid, it.st_mode, it.st_mtime_ns) for it in after] == [
        (it.st_uid, it.st_gid, it.st_mode, it.st_mtime_ns) for it in before
    ]
    assert [path.name for path in kept.iterdir()] == ["canary"]
