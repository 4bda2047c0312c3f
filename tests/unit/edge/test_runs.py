"""The handlers to mount: /run, /run_async, /provision-request, /requests, DELETE /request."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from edge.calls import Calls
from edge.contacts import Contacts
from edge.diff import Diffs
from edge.direct import Direct
from edge.durable import Durable
from edge.history import History
from edge.http import Answer
from edge.logs import Logs
from edge.model import Principal
from edge.patience import Errands
from edge.reading import Reading
from edge.replay import Replays
from edge.results import Results
from edge.run_model import AnswerHead, BodyComplete, KeptAnswer, Outcome, Status
from edge.runs import RunHandlers
from kit.clock import FakeClock
from kit.errors import Denied, Invalid, NotFound, Unauthenticated
from kit.names import new_id
from tests.fakes.edge_runs import (
    CALLER,
    KEY,
    NOW,
    ONE_TIME,
    FakeExecutor,
    FakeLogBus,
    FakeRuns,
    FakeWorkflows,
    MemoryBlobs,
    a_record,
    a_request,
    body_of,
    made,
)
from tests.fakes.permits import UNLIMITED

OK = AnswerHead(200, (("content-type", "text/plain"),))


class Mesh:
    def __init__(self, errands: Errands) -> None:
        self.clock = clock = FakeClock(NOW)
        blobs = MemoryBlobs()
        self.runs, self.bus = FakeRuns(), FakeLogBus()
        self.executor = FakeExecutor(OK, b"hello", BodyComplete(), Outcome(Status.SUCCEEDED))
        self.runs.after_submit = lambda record: replace(record, status=Status.RUNNING, executor="unix:one")
        reading = Reading(self.runs, clock)
        durable = Durable(self.runs, reading, self.executor, blobs, clock, errands, "http://public.test")
        workflows = FakeWorkflows()
        self.handlers = RunHandlers(
            calls=Calls(workflows, UNLIMITED, clock),
            direct=Direct(self.executor, clock, errands, "http://public.test"),
            durable=durable,
            provisioning=self.runs,
            results=Results(reading, blobs, clock),
            history=History(self.runs, reading),
            logs=Logs(reading, self.bus, blobs, clock),
            contacts=Contacts(reading, blobs, clock),
            replays=Replays(reading, self.runs, workflows, UNLIMITED, workflows, durable, blobs, clock),
            diffs=Diffs(reading, blobs),
        )


@pytest.fixture
async def mesh() -> AsyncIterator[Mesh]:
    async with Errands(grace=5) as errands:
        yield Mesh(errands)


def told(answer: Answer) -> dict[str, Any]:
    assert isinstance(answer.body, bytes)
    body = json.loads(answer.body)
    assert isinstance(body, dict)
    return body


async def test_a_plain_call_goes_straight_to_an_executor(mesh: Mesh) -> None:
    answer = await mesh.handlers.run(a_request("/x", b"in"))
    assert await body_of(answer) == b"hello"
    assert len(mesh.executor.specs) == 1
    assert mesh.runs.submissions == []


async def test_a_call_with_a_provisioned_id_is_committed_first(mesh: Mesh) -> None:
    request_id = told(await mesh.handlers.provision(a_request()))["request_id"]
    answer = await mesh.handlers.run(a_request(headers={"x-provisioned-request-id": request_id}))
    assert await body_of(answer) == b"hello"
    assert ("x-request-id", request_id) in answer.headers
    assert mesh.executor.specs == []


async def test_a_later_call_with_the_same_id_has_one_of_its_own(mesh: Mesh) -> None:
    request_id = told(await mesh.handlers.provision(a_request()))["request_id"]
    for _ in range(2):
        answer = await mesh.handlers.run(a_request(headers={"x-provisioned-request-id": request_id}))
    assert dict(answer.headers)["x-request-id"] != request_id


async def test_run_async_answers_when_it_is_accepted(mesh: Mesh) -> None:
    answer = await mesh.handlers.run_async(a_request("/x", b"in", headers={"x-correlation-id": "abc"}))
    body = told(answer)
    assert (answer.status, set(body)) == (200, {"request_id"})
    assert body["request_id"] in mesh.runs.records
    assert ("x-request-id", body["request_id"]) in answer.headers
    assert ("x-correlation-id", "abc") in answer.headers
    (submission,) = mesh.runs.submissions
    assert (submission.body, submission.spec.synchronous) == (b"in", False)
    assert mesh.executor.attached == []


async def test_a_one_time_key_starts_one_run(mesh: Mesh) -> None:
    await mesh.handlers.run_async(a_request(who=ONE_TIME))
    with pytest.raises(Unauthenticated):
        await mesh.handlers.run(a_request(who=ONE_TIME))
    assert [submission.one_time_key_id for submission in mesh.runs.submissions] == ["key_3", "key_3"]
    assert len(mesh.runs.records) == 1


@pytest.mark.parametrize("endpoint", ["run", "run_async"])
async def test_a_refused_run_ends_the_log_of_its_id(mesh: Mesh, endpoint: str) -> None:
    request_id = await mesh.runs.provision(CALLER, "key_1")
    request = a_request(service="unknown", headers={"x-provisioned-request-id": request_id})
    with pytest.raises(NotFound):
        await getattr(mesh.handlers, endpoint)(request)
    said = mesh.bus.lines[request_id]
    assert [each.end for each in said] == [False, True]
    logs = await mesh.handlers.logs(a_request(method="GET", request_id=request_id))
    assert b"no such workflow" in await body_of(logs)


async def test_a_refused_run_says_nothing_about_somebody_elses_id(mesh: Mesh) -> None:
    request_id = await mesh.runs.provision("org_other", "key_9")
    with pytest.raises(NotFound):
        await mesh.handlers.run(a_request(headers={"x-provisioned-request-id": request_id}))
    assert mesh.bus.lines == {}


async def test_a_key_that_may_not_run_it_ends_the_log_too(mesh: Mesh) -> None:
    request_id = await mesh.runs.provision(CALLER, "key_1")
    who = Principal("key_1", CALLER, "standard", frozenset({"run:other"}))
    with pytest.raises(Denied):
        await mesh.handlers.run(a_request(who=who, headers={"x-provisioned-request-id": request_id}))
    assert mesh.bus.lines[request_id][-1].end


async def test_a_run_lost_from_sight_after_it_was_accepted_still_tells_its_id(mesh: Mesh) -> None:
    request_id = await mesh.runs.provision(CALLER, "key_1")
    mesh.runs.after_submit = lambda record: record
    request = a_request(headers={"x-provisioned-request-id": request_id})
    task = asyncio.create_task(mesh.handlers.run(request))
    while not mesh.runs.submissions:  # noqa: ASYNC110  # nothing tells of it
        await asyncio.sleep(0)
    mesh.runs.records.clear()
    mesh.runs.put(a_record())
    answer = await asyncio.wait_for(task, 5)
    assert (answer.status, told(answer)["request_id"]) == (404, request_id)
    assert mesh.bus.lines == {}


async def test_history_is_paged_and_newest_first(mesh: Mesh) -> None:
    ids = [mesh.runs.put(a_record(Status.SUCCEEDED, answer=KeptAnswer(OK, b"x", "", 1))).id for _ in range(3)]
    ids.sort(reverse=True)
    first = told(await mesh.handlers.requests(a_request(query="limit=2")))
    assert [item["id"] for item in first["items"]] == ids[:2]
    assert not {"responseContent", "responseJson"} & set(first["items"][0])
    assert first["items"][0]["responseStatus"] == 200
    second = told(await mesh.handlers.requests(a_request(query=f"limit=2&after={first['next']}")))
    assert ([item["id"] for item in second["items"]], second["next"]) == (ids[2:], None)


async def test_history_can_be_narrowed(mesh: Mesh) -> None:
    failed = mesh.runs.put(a_record(Status.FAILED))
    mesh.runs.put(a_record(Status.SUCCEEDED))
    mesh.runs.put(a_record(Status.FAILED, service_id="other"))
    body = told(await mesh.handlers.requests(a_request(query="status=failed&service_id=greet")))
    assert [item["id"] for item in body["items"]] == [failed.id]
    traced = mesh.runs.put(a_record(trace_id="0af7651916cd43dd8448eb211c80319c"))
    body = told(await mesh.handlers.requests(a_request(query="trace_id=0af7651916cd43dd8448eb211c80319c")))
    assert [item["id"] for item in body["items"]] == [traced.id]


@pytest.mark.parametrize("query", ["trace_id=1", "status=lost", "after=nowhere", "limit=0", "limit=1001", "limit=x"])
async def test_a_bad_question_about_history(mesh: Mesh, query: str) -> None:
    with pytest.raises(Invalid):
        await mesh.handlers.requests(a_request(query=query))


async def test_a_key_of_one_service_sees_that_services_history_only(mesh: Mesh) -> None:
    who = Principal("key_9", CALLER, "standard", frozenset({"run:greet"}))
    mesh.runs.put(a_record())
    assert len(told(await mesh.handlers.requests(a_request(query="service_id=greet", who=who)))["items"]) == 1
    for query, why in (("", "service_id="), ("service_id=other", "'other'")):
        with pytest.raises(Denied, match=why):
            await mesh.handlers.requests(a_request(query=query, who=who))


async def test_cancelling_is_idempotent(mesh: Mesh) -> None:
    record = mesh.runs.put(a_record())
    for _ in range(2):
        answer = await mesh.handlers.request_delete(a_request(method="DELETE", request_id=record.id))
        assert told(answer) == {"request_id": record.id}
    assert mesh.runs.records[record.id].status is Status.CANCELLED


@pytest.mark.parametrize("written", [True, False])
async def test_a_run_that_may_not_be_written_down_yet_is_cancelled(mesh: Mesh, written: bool) -> None:
    """One of the direct way; GET waits for it, too."""
    record = replace(a_record(), id=made(NOW))
    cancelling = asyncio.create_task(mesh.handlers.request_delete(a_request(method="DELETE", request_id=record.id)))
    for _ in range(5):
        await mesh.clock.advance(0.1)
    assert not cancelling.done()
    if written:
        mesh.runs.put(record)
    for _ in range(6):
        await mesh.clock.advance(0.1)
    if written:
        assert told(await cancelling) == {"request_id": record.id}
        assert mesh.runs.records[record.id].status is Status.CANCELLED
    else:
        with pytest.raises(NotFound):
            await cancelling


@pytest.mark.parametrize("scopes", [{"run:other"}, {"run"}])
async def test_nobody_cancels_what_they_cannot_see(mesh: Mesh, scopes: set[str]) -> None:
    record = mesh.runs.put(a_record())
    organization = KEY.organization_id if "run" not in scopes else "org_stranger"
    who = Principal("key_9", organization, "standard", frozenset(scopes))
    with pytest.raises(NotFound):
        await mesh.handlers.request_delete(a_request(method="DELETE", request_id=record.id, who=who))
    with pytest.raises(NotFound):
        await mesh.handlers.request_delete(a_request(method="DELETE", request_id=new_id("run"), who=KEY))
    assert mesh.runs.cancelled == []
