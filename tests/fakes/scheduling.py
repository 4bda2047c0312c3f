"""Samples of the scheduler's nouns, and fakes of the services that it calls."""

import asyncio
import hashlib
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from kit.errors import NotFound, Problem
from kit.names import new_id
from scheduler.model import Input, Outcome, Queued, Run, Status
from scheduler.schedule import Schedule
from scheduler.submit import Submission
from scheduler.workflow import Check, Report, Version, Workflow

START = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
HOME = "unix:/run/executor.sock"
WORKFLOW = Workflow("wfl_1", "org_owner", "hello", "Hello", START, START, version=1)
VERSION = Version("ver_1", "wfl_1", "org_owner", "hello", 1, "d" * 64, "hello.py", START)
INPUT = Input(b"", b"{}")


def a_run(**changes: Any) -> Run:
    """A queued one by org_caller of org_owner's workflow."""
    run = Run(
        id=new_id("run"),
        owner_id="org_owner",
        caller_id="org_caller",
        acting_id="org_owner",
        requester_id="org_caller",
        service_id="hello",
        version_id=VERSION.id,
        status=Status.QUEUED,
        created_at=START,
        deadline=START + timedelta(minutes=5),
    )
    run = replace(run, **changes)
    return replace(run, due_at=run.due_at or run.created_at, root_id=run.root_id or run.id)


def a_submission(**changes: Any) -> Submission:
    submission = Submission(
        owner_id="org_owner",
        caller_id="org_caller",
        acting_id="org_owner",
        requester_id="org_caller",
        service_id="hello",
        version_id=VERSION.id,
        input=INPUT,
    )
    return replace(submission, **changes)


def a_schedule(**changes: Any) -> Schedule:
    """Every minute, of org_owner's own workflow; due a minute after START."""
    schedule = Schedule(
        id=new_id("sch"),
        organization_id="org_owner",
        reference="hello",
        workflow_id=WORKFLOW.id,
        cron_expression="* * * * *",
        timezone="UTC",
        input=b"{}",
        created_at=START,
        created_by="key_1",
        next_fire_at=START + timedelta(minutes=1),
    )
    return replace(schedule, **changes)


@dataclass
class FakeExecutors:
    """`refusal`: what Start raises, by address; `nested_refusal`: of urgent runs only. `gate`: Start calls to that
    address wait for it.
    """

    started: list[tuple[str, str]] = field(default_factory=list)
    stopped: list[tuple[str, str, Outcome]] = field(default_factory=list)
    refusal: dict[str, Problem] = field(default_factory=dict)
    nested_refusal: dict[str, Problem] = field(default_factory=dict)
    gate: dict[str, asyncio.Event] = field(default_factory=dict)
    stop_refusal: Problem | None = None
    living: set[str] = field(default_factory=set)
    probed: list[str] = field(default_factory=list)
    report: Report = Report((Check("syntax", passed=True),), python="3.11", isolation="run", openapi="{}")
    validated: list[tuple[str, str]] = field(default_factory=list)
    warmed: list[tuple[str, str]] = field(default_factory=list)

    async def start(self, address: str, queued: Queued) -> None:
        if address in self.gate:
            await self.gate[address].wait()
        if address in self.refusal:
            raise self.refusal[address]
        if queued.run.urgent and address in self.nested_refusal:
            raise self.nested_refusal[address]
        self.started.append((address, queued.run.id))

    async def stop(self, address: str, run_id: str, outcome: Outcome) -> None:
        if self.stop_refusal is not None:
            raise self.stop_refusal
        self.stopped.append((address, run_id, outcome))

    async def alive(self, address: str) -> bool:
        self.probed.append(address)
        return address in self.living

    async def validate(
        self, organization_id: str, code: str, name: str, *, preload: bool = False, log_id: str = ""
    ) -> Report:
        self.validated.append((organization_id, name))
        self.told_in = log_id
        return self.report

    async def warm(self, version_id: str, organization_id: str) -> None:
        self.warmed.append((version_id, organization_id))


@dataclass
class FakeBlobs:
    blobs: dict[str, bytes] = field(default_factory=dict)

    async def put(self, content: bytes) -> str:
        digest = hashlib.sha256(content).hexdigest()
        self.blobs[digest] = content
        return digest

    async def get(self, digest: str) -> bytes:
        if digest not in self.blobs:
            raise NotFound("no such blob")
        return self.blobs[digest]


async def settled(rounds: int = 50) -> None:
    """Lets tasks that are ready run until they wait."""
    for _ in range(rounds):
        await asyncio.sleep(0)
