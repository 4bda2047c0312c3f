"""A run that is recorded, or answered from a recording: its launch, its request, what is kept of it."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from executor.egress.recorder import POOL
from executor.model import Spec, Status
from executor.run import Run
from executor.sandbox import Event, Head
from kit.errors import Invalid
from tests.fakes.executor import START, VERSION, World, chunks, make_spec
from tests.fakes.sandbox import FakeSandbox, echo


class Rig:
    def __init__(self, directory: Path) -> None:
        self.world = World(directory)
        self.requests: list[Head] = []
        self.world.driver.app = self.app

    async def app(self, sandbox: FakeSandbox, request: Head, body: AsyncIterator[bytes]) -> AsyncIterator[Event]:
        self.requests.append(request)
        async for event in echo(sandbox, request, body):
            yield event

    async def ran(self, **changes: Any) -> dict[str, Any]:
        """A run's recording; {} where there is none."""
        spec: Spec = make_spec(**changes)
        place = self.world.capacity.take(nested=False)
        tab = self.world.host.metering.tab(spec)
        await Run(self.world.host, spec, chunks(b"in", b"put"), place, tab, known=True).execute()
        digest = self.world.reporter.ended[-1].recording_digest
        found: dict[str, Any] = json.loads(self.world.blobs.blobs[digest]) if digest else {}
        return found


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


async def test_other_runs_are_not_recorded(rig: Rig) -> None:
    assert await rig.ran() == {}
    assert rig.requests[0].repeat == {}
    assert rig.world.driver.started[0].launch.certificates is None


async def test_a_recorded_run(rig: Rig) -> None:
    rig.world.book.versions[VERSION.id] = replace(VERSION, isolation="instance", lock="a==1", egress=("*",))
    found = await rig.ran(record=True)
    launch = rig.world.driver.started[0].launch
    assert (launch.isolation, launch.egress) == ("run", ("*",))
    assert launch.certificates == rig.world.host.authority.directory
    assert "NODE_EXTRA_CA_CERTS" in launch.env
    assert rig.requests[0].repeat == {"seed": found["seed"]}
    assert (found["versionId"], found["code"]) == (VERSION.id, VERSION.source_digest)
    assert found["lock"] == hashlib.sha256(b"a==1").hexdigest()
    assert found["input"] == {"sha256": hashlib.sha256(b"input").hexdigest(), "bytes": 5}
    assert found["clock"] == START.timestamp()
    assert (found["exchanges"], found["cut"]) == ([], False)
    assert (await rig.ran(record=True))["seed"] != found["seed"]


async def test_an_offline_run_repeats_seed_and_clock_and_reaches_nothing(rig: Rig) -> None:
    first = await rig.ran(record=True)
    digest = rig.world.reporter.ended[-1].recording_digest
    await rig.world.clock.advance(10)
    again = await rig.ran(offline_digest=digest)
    assert rig.requests[1].repeat == {"seed": first["seed"], "clock": START.timestamp()}
    assert rig.world.driver.started[1].launch.egress == ()
    assert (again["seed"], again["clock"]) == (first["seed"], first["clock"])


@pytest.mark.parametrize("content", [None, b"{}", b"no JSON"])
async def test_without_its_recording_it_ends_at_once_and_for_good(rig: Rig, content: bytes | None) -> None:
    digest = "0" * 64
    if content is not None:
        rig.world.blobs.blobs[digest] = content
    assert await rig.ran(offline_digest=digest, synchronous=False) == {}
    outcome = rig.world.outcome
    assert (outcome.status, outcome.code) == (Status.FAILED, "not_supported")
    assert "recording" in outcome.detail
    assert rig.world.driver.started == []


async def test_a_run_ends_though_its_recording_can_not_be_kept(rig: Rig) -> None:
    spec = make_spec(record=True)
    tab = rig.world.host.metering.tab(spec)
    run = Run(rig.world.host, spec, chunks(b""), rig.world.capacity.take(nested=False), tab, known=False)
    rig.world.blobs.fails = Invalid("full")
    left = POOL.left
    task = asyncio.create_task(run.execute())
    while not task.done():
        await rig.world.clock.advance(1)
    assert POOL.left == left
    assert (rig.world.outcome.status, rig.world.reporter.ended[-1].recording_digest) == (Status.SUCCEEDED, "")
