"""POST /request/{id}/replay: whose input it is, what is made of it, what is refused."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from edge.durable import Durable
from edge.http import Answer
from edge.model import Access, Principal
from edge.patience import Errands
from edge.reading import Reading
from edge.replay import Replays
from edge.run_model import Given, RequestHead, RunRecord, Status, Submission, Target, Trigger, VersionOf
from kit.clock import FakeClock
from kit.errors import Conflict, Denied, Invalid, NotFound
from tests.fakes.edge_runs import (
    CALLER,
    KEY,
    NOW,
    ONE_TIME,
    OWN_KEY,
    OWNER,
    FakeExecutor,
    FakeRuns,
    FakeWorkflows,
    MemoryBlobs,
    a_record,
    a_request,
    nested,
)
from tests.fakes.permits import UNLIMITED

HEAD = RequestHead("PUT", "/a%20b", "x=1", (("content-type", "text/plain"), ("x-own", "1")))
GIVEN = Given(HEAD, b"the body")
FIRST = Target(OWNER, "greet", "ver_1", "public", workflow_id="wfl_1")
SECOND = replace(FIRST, version_id="ver_2")


class World:
    def __init__(self, errands: Errands) -> None:
        clock, self.blobs, self.runs = FakeClock(NOW), MemoryBlobs(), FakeRuns()
        self.workflows = FakeWorkflows(**{f"{OWNER}.greet@1": FIRST, f"{OWNER}.greet@2": SECOND})
        self.workflows.versions["ver_1"] = VersionOf("wfl_1", 1)
        reading = Reading(self.runs, clock)
        durable = Durable(self.runs, reading, FakeExecutor(), self.blobs, clock, errands, "http://public.test")
        self.replays = Replays(
            reading, self.runs, self.workflows, UNLIMITED, self.workflows, durable, self.blobs, clock
        )

    def ran(self, given: Given | None = GIVEN, **changes: Any) -> RunRecord:
        record = self.runs.put(a_record(**{"status": Status.FAILED, **changes}))
        self.runs.inputs[record.id] = given
        return record

    async def replay(
        self,
        record: RunRecord,
        who: Principal = KEY,
        query: str = "",
        headers: dict[str, str] | None = None,
        **body: Any,
    ) -> Submission:
        """What is submitted."""
        text = json.dumps(body).encode() if body else b""
        request = a_request("/", text, request_id=record.id, who=who, query=query, headers=headers)
        answer = await self.replays.replay(request)
        told = _told(answer)
        assert list(told) == ["request_id"]
        assert request.begun == [told["request_id"]]
        return self.runs.submissions[-1]


def _told(answer: Answer) -> dict[str, Any]:
    assert isinstance(answer.body, bytes)
    body: dict[str, Any] = json.loads(answer.body)
    return body


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with Errands(grace=5) as errands:
        yield World(errands)


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.PROVISIONED])
async def test_the_same_input_is_a_new_asynchronous_run(world: World, status: Status) -> None:
    record = world.ran(status=status)
    submission = await world.replay(record, headers={"x-correlation-id": "mine", "x-own": "2"})
    spec = submission.spec
    assert (spec.request, submission.body, submission.body_digest) == (HEAD, b"the body", "")
    assert (spec.trigger, spec.replay_of, spec.synchronous) == (Trigger.REPLAY, record.id, False)
    assert (spec.owner_id, spec.caller_id, spec.acting_id, spec.requester_id) == (OWNER, CALLER, OWNER, CALLER)
    assert (spec.version_id, spec.correlation_id, spec.run_id) == ("ver_1", "mine", "")
    assert (spec.record, spec.offline_digest) == (False, "")
    assert submission.timeout == FIRST.limits.async_timeout


@pytest.mark.parametrize(("query", "body"), [("version=2", {}), ("", {"version": 2}), ("version=1", {"version": 2})])
async def test_against_another_version(world: World, query: str, body: dict[str, Any]) -> None:
    assert (await world.replay(world.ran(), query=query, **body)).spec.version_id == "ver_2"


async def test_a_large_body_is_put_once_more_so_that_its_time_begins_anew(world: World) -> None:
    digest = world.blobs.keep(b"x" * 100_000)
    submission = await world.replay(world.ran(Given(HEAD, body_digest=digest)))
    assert (submission.body, submission.body_digest) == (b"", digest)
    with pytest.raises(Conflict, match="kept no longer"):
        await world.replay(world.ran(Given(HEAD, body_digest="0" * 64)))


async def test_an_input_that_was_not_kept_is_said_to_be_missing(world: World) -> None:
    with pytest.raises(Conflict, match="wasn't kept"):
        await world.replay(world.ran(None))
    with pytest.raises(Conflict, match="nothing has run"):
        await world.replay(world.ran(status=Status.PROVISIONED))
    assert world.runs.submissions == []


async def test_nobody_replays_what_is_not_theirs(world: World) -> None:
    record = world.ran()
    stranger = Principal("key_9", "org_stranger", "standard", frozenset({"run"}))
    other_scope = Principal("key_9", CALLER, "standard", frozenset({"run:other"}))
    for who in (stranger, OWN_KEY, other_scope):  # the owner sees the run, but the input is its caller's
        with pytest.raises(NotFound):
            await world.replay(record, who)
    theirs = world.ran(acting_id="org_third")  # it used the secrets of somebody else
    with pytest.raises(NotFound):
        await world.replay(theirs)
    with pytest.raises(Denied):
        Access.RUN.check(ONE_TIME)
    assert world.runs.submissions == []


async def test_a_key_of_one_service_replays_that_one(world: World) -> None:
    who = Principal("key_9", CALLER, "standard", frozenset({"run:greet"}))
    assert (await world.replay(world.ran(), who)).spec.key_id == "key_9"


async def test_the_workflow_must_still_be_there_and_the_same(world: World) -> None:
    record = world.ran()
    with pytest.raises(NotFound):
        await world.replay(record, version=3)
    world.workflows.targets[f"{OWNER}.greet@1"] = replace(FIRST, workflow_id="wfl_2")
    with pytest.raises(NotFound, match="another one"):
        await world.replay(record)
    own = world.ran(acting_id=CALLER)
    world.workflows.targets[f"{OWNER}.greet@1"] = FIRST
    with pytest.raises(NotFound, match="template"):
        await world.replay(own)
    world.workflows.targets[f"{OWNER}.greet@1"] = replace(FIRST, visibility="template")
    assert (await world.replay(own)).spec.acting_id == CALLER


async def test_a_run_that_replays_pays_with_its_callers_money(world: World) -> None:
    record = world.ran(caller_id=OWNER)
    who = nested()
    spec = (await world.replay(record, who)).spec
    assert who.identity is not None
    assert (spec.caller_id, spec.requester_id, spec.parent_id) == (CALLER, OWNER, who.identity.run_id)
    assert (spec.trigger, spec.depth, spec.replay_of) == (Trigger.REPLAY, 2, record.id)


async def test_offline_needs_a_recording_and_the_organization_whose_secrets_it_used(world: World) -> None:
    record = world.ran(acting_id=CALLER, owner_id=CALLER, recording_digest="d" * 64)
    world.workflows.targets[f"{CALLER}.greet@1"] = replace(FIRST, owner_id=CALLER)
    spec = (await world.replay(record, mode="offline")).spec
    assert (spec.offline_digest, spec.record, spec.retries) == ("d" * 64, True, 0)
    assert (await world.replay(record, query="mode=live")).spec.offline_digest == ""
    with pytest.raises(NotFound):
        await world.replay(world.ran(recording_digest="d" * 64), mode="offline")
    assert not (await world.replay(world.ran(recording_digest="d" * 64))).spec.record
    for unrecorded in (replace(record, recording_digest=""), replace(record, status=Status.RUNNING)):
        with pytest.raises(Conflict):
            await world.replay(world.runs.put(unrecorded), mode="offline")


@pytest.mark.parametrize(
    ("query", "body"),
    [
        ("version=0", {}),
        ("version=x", {}),
        ("version=²", {}),
        ("mode=dream", {}),
        ("", {"version": 0}),
        ("", {"version": "2"}),
        ("", {"version": True}),
        ("", {"mode": 3}),
        ("", {"modus": "live"}),
    ],
)
async def test_bad_wishes(world: World, query: str, body: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        await world.replay(world.ran(), query=query, **body)
    assert world.runs.submissions == []
