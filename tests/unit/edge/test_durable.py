"""The durable way in: committed first, then waited for."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta

import pytest

from edge.calls import Call, Calls
from edge.durable import Durable
from edge.http import Aborted, Answer
from edge.patience import Errands
from edge.reading import Reading
from edge.run_model import AnswerHead, BodyComplete, KeptAnswer, Outcome, RunRecord, Status
from kit.clock import FakeClock
from kit.errors import NotFound, Precondition, Unavailable
from tests.fakes.edge_runs import (
    KEY,
    NOW,
    FakeExecutor,
    FakeRuns,
    FakeWorkflows,
    MemoryBlobs,
    Step,
    a_request,
    body_of,
)
from tests.fakes.permits import UNLIMITED

OK = AnswerHead(200, (("content-type", "text/plain"),))
DONE = Outcome(Status.SUCCEEDED)


@dataclass
class Mesh:
    """A Durable on fakes."""

    executor: FakeExecutor
    runs: FakeRuns
    blobs: MemoryBlobs
    clock: FakeClock
    errands: Errands
    durable: Durable

    async def call(self, *body: bytes, on_timeout: str = "kill", **headers: str) -> Call:
        request = a_request("/", *body, headers={"x-on-timeout": on_timeout, **headers})
        return await Calls(FakeWorkflows(), UNLIMITED, self.clock).read(request, synchronous=True)

    async def run(self, call: Call | None = None) -> Answer:
        call = call or await self.call()
        return await self.durable.answer(call, await self.durable.submit(call))

    async def settled(self) -> None:
        """What was sent on errands is done."""
        await self.errands.__aexit__()


def mesh(*script: Step) -> Mesh:
    executor, runs, blobs, clock, errands = FakeExecutor(*script), FakeRuns(), MemoryBlobs(), FakeClock(NOW), Errands(5)
    reading = Reading(runs, clock)
    durable = Durable(runs, reading, executor, blobs, clock, errands, "http://public.test")
    runs.after_submit = lambda record: replace(record, status=Status.RUNNING, executor="unix:one")
    return Mesh(executor, runs, blobs, clock, errands, durable)


def over(**changes: object) -> Callable[[RunRecord], RunRecord]:
    return lambda record: replace(record, **{"status": Status.SUCCEEDED, **changes})  # type: ignore[arg-type]


def told(answer: Answer) -> tuple[int, dict[str, str]]:
    assert isinstance(answer.body, bytes)
    return answer.status, json.loads(answer.body)


async def soon(met: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not met():  # noqa: ASYNC110  # nothing tells of what is waited for here
            await asyncio.sleep(0)


async def test_the_answer_comes_live_from_the_executor() -> None:
    mesh_ = mesh(OK, b"hel", b"lo", BodyComplete(), DONE)
    answer = await mesh_.run()
    (run_id,) = mesh_.runs.records
    assert (answer.status, await body_of(answer)) == (200, b"hello")
    assert mesh_.executor.attached == [("unix:one", run_id)]
    assert ("x-request-id", run_id) in answer.headers
    await mesh_.settled()
    assert mesh_.runs.cancelled == []


async def test_a_queued_run_is_waited_for() -> None:
    mesh_ = mesh(OK, b"x", BodyComplete(), DONE)
    mesh_.runs.after_submit = lambda record: record
    task = asyncio.create_task(mesh_.run())
    await soon(lambda: bool(mesh_.runs.records))
    (record,) = mesh_.runs.records.values()
    mesh_.runs.put(replace(record, status=Status.RUNNING, executor="unix:two"))
    assert await body_of(await task) == b"x"
    assert mesh_.executor.attached == [("unix:two", record.id)]


async def test_a_run_that_is_over_answers_from_its_record() -> None:
    mesh_ = mesh()
    mesh_.runs.after_submit = over(executor="unix:one", answer=KeptAnswer(AnswerHead(201), b"kept", "", 4))
    answer = await mesh_.run()
    assert (answer.status, answer.body) == (201, b"kept")
    assert mesh_.executor.attached == []


async def test_a_large_answer_comes_from_the_filestore() -> None:
    mesh_ = mesh()
    digest = mesh_.blobs.keep(b"large" * 10)
    mesh_.runs.after_submit = over(answer=KeptAnswer(OK, b"", digest, 50))
    assert await body_of(await mesh_.run()) == b"large" * 10


async def test_an_answer_too_large_to_keep_still_comes_from_the_executor() -> None:
    mesh_ = mesh(OK, b"big", BodyComplete(), DONE)
    mesh_.runs.after_submit = over(executor="unix:one", answer=KeptAnswer(OK, size=99))
    assert await body_of(await mesh_.run()) == b"big"


@pytest.mark.parametrize("told", ["Socket closed", "Deadline Exceeded"])
async def test_a_run_of_which_nobody_knows_whether_it_is_accepted_isnt_called_refused(told: str) -> None:
    mesh_ = mesh()
    mesh_.runs.breaks = Unavailable(told)
    call = await mesh_.call()
    with pytest.raises(Precondition, match="GET /requests") as caught:
        await mesh_.durable.submit(call)
    assert caught.value.code == "runtime_error"


@pytest.mark.parametrize(
    "problem", [Unavailable("no database", retry_after=timedelta(seconds=1)), Unavailable("failed to connect to it")]
)
async def test_a_run_that_is_surely_not_accepted_is_refused(problem: Unavailable) -> None:
    mesh_ = mesh()
    mesh_.runs.breaks = problem
    call = await mesh_.call()
    with pytest.raises(Unavailable):
        await mesh_.durable.submit(call)


@pytest.mark.parametrize("problem", [NotFound("forgotten"), Unavailable("Socket closed")])
async def test_an_executor_that_cannot_tell_leaves_it_to_the_record(problem: Exception) -> None:
    mesh_ = mesh(problem)
    task = asyncio.create_task(mesh_.run())
    await soon(lambda: bool(mesh_.executor.attached))
    (record,) = mesh_.runs.records.values()
    mesh_.runs.put(over(answer=KeptAnswer(OK, b"kept", "", 4))(record))
    assert await body_of(await task) == b"kept"


async def test_a_run_that_failed_without_an_answer() -> None:
    mesh_ = mesh()
    mesh_.runs.after_submit = over(status=Status.FAILED, code="missing_secret", detail="SLACK_KEY has no value")
    status, body = told(await mesh_.run())
    assert (status, body["code"]) == (424, "missing_secret")
    assert body["request_id"] in mesh_.runs.records


async def test_an_answer_that_breaks_is_aborted() -> None:
    mesh_ = mesh(OK, b"half", Outcome(Status.FAILED, "workflow_crashed"))
    with pytest.raises(Aborted):
        await body_of(await mesh_.run())


async def passes_the_limit(mesh_: Mesh, call: Call) -> Answer:
    task = asyncio.create_task(mesh_.run(call))
    await asyncio.wait_for(mesh_.executor.reached.wait(), 5)
    await mesh_.clock.advance(119)
    assert not task.done()
    await mesh_.clock.advance(1)
    return await task


async def test_past_the_sync_limit_a_run_is_killed() -> None:
    mesh_ = mesh(asyncio.Event())
    status, body = told(await passes_the_limit(mesh_, await mesh_.call()))
    await mesh_.settled()
    assert (status, body["code"]) == (504, "timeout")
    assert "/run_async/greet" in body["detail"]
    assert mesh_.runs.cancelled == [(body["request_id"], Status.TIMED_OUT)]


async def test_past_the_sync_limit_a_run_may_go_on() -> None:
    mesh_ = mesh(asyncio.Event())
    status, body = told(await passes_the_limit(mesh_, await mesh_.call(on_timeout="continue")))
    await mesh_.settled()
    assert status == 504
    assert f"/result/{body['request_id']}" in body["detail"]
    assert mesh_.runs.cancelled == []
    assert mesh_.runs.submissions[0].timeout == timedelta(minutes=30)


async def test_a_small_answer_cut_by_the_limit_is_a_timeout_not_a_hang_up() -> None:
    mesh_ = mesh(AnswerHead(200, (("content-length", "4"),)), b"ha", asyncio.Event())
    _, body = told(await passes_the_limit(mesh_, await mesh_.call()))
    await mesh_.settled()
    assert mesh_.runs.cancelled == [(body["request_id"], Status.TIMED_OUT)]


@pytest.mark.parametrize(("on_timeout", "cancels"), [("kill", 1), ("continue", 0)])
async def test_a_caller_that_hangs_up_before_the_head(on_timeout: str, cancels: int) -> None:
    mesh_ = mesh(asyncio.Event())
    task = asyncio.create_task(mesh_.run(await mesh_.call(on_timeout=on_timeout)))
    await asyncio.wait_for(mesh_.executor.reached.wait(), 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await mesh_.settled()
    assert len(mesh_.runs.cancelled) == cancels


@pytest.mark.parametrize(("on_timeout", "cancels"), [("kill", 1), ("continue", 0)])
async def test_a_caller_that_hangs_up_in_the_middle(on_timeout: str, cancels: int) -> None:
    mesh_ = mesh(OK, b"x", asyncio.Event())
    answer = await mesh_.run(await mesh_.call(on_timeout=on_timeout))
    assert not isinstance(answer.body, bytes)
    await anext(answer.body)
    await answer.body.aclose()  # type: ignore[attr-defined]
    await mesh_.settled()
    assert [status for _, status in mesh_.runs.cancelled] == [Status.CANCELLED] * cancels


@pytest.mark.parametrize(("on_timeout", "cancels"), [("kill", 1), ("continue", 0)])
async def test_a_caller_that_hangs_up_while_it_is_committed(on_timeout: str, cancels: int) -> None:
    mesh_ = mesh()
    mesh_.runs.submitting.clear()
    task = asyncio.create_task(mesh_.durable.submit(await mesh_.call(on_timeout=on_timeout)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    mesh_.runs.submitting.set()
    await soon(lambda: bool(mesh_.runs.records))
    await mesh_.settled()
    assert len(mesh_.runs.cancelled) == cancels


async def test_a_small_body_rides_along() -> None:
    mesh_ = mesh()
    await mesh_.durable.submit(await mesh_.call(b"a" * 60_000, b"b" * 5_536))
    (submission,) = mesh_.runs.submissions
    assert (len(submission.body), submission.body_digest) == (65_536, "")


async def test_a_large_body_goes_by_digest() -> None:
    mesh_ = mesh()
    parts = (b"a" * 60_000, b"b" * 6_000, b"c" * 100_000)
    await mesh_.durable.submit(await mesh_.call(*parts))
    (submission,) = mesh_.runs.submissions
    assert submission.body == b""
    assert mesh_.blobs.content[submission.body_digest] == b"".join(parts)


async def test_runs_of_one_provisioned_id_at_once_get_their_own_answers() -> None:
    mesh_ = mesh()
    provisioned = await mesh_.runs.provision(KEY.organization_id, "key_1")
    mesh_.runs.after_submit = lambda record: record
    headers = {"x-provisioned-request-id": provisioned}
    waiting: list[Awaitable[Answer]] = []
    for number in range(2):
        waiting.append(asyncio.create_task(mesh_.run(await mesh_.call(b"%d" % number, **headers))))
        await soon(lambda: len(mesh_.runs.submissions) == len(waiting))
    for record in list(mesh_.runs.records.values()):
        content = b"first" if record.id == provisioned else b"second"
        mesh_.runs.put(over(answer=KeptAnswer(OK, content, "", len(content)))(record))
    answers = [await each for each in waiting]
    assert [answer.body for answer in answers] == [b"first", b"second"]
    assert ("x-request-id", provisioned) in answers[0].headers
    assert ("x-request-id", provisioned) not in answers[1].headers


async def test_a_scheduler_that_is_away_for_a_moment_is_waited_for() -> None:
    mesh_ = mesh(OK, b"x", BodyComplete(), DONE)
    call = await mesh_.call()
    run_id = await mesh_.durable.submit(call)
    assert call.begun == [run_id]
    mesh_.runs.away = 2
    task = asyncio.create_task(mesh_.durable.answer(call, run_id))
    for _ in range(2):
        await soon(lambda: bool(mesh_.clock._sleepers))
        await mesh_.clock.advance(1)
    assert await body_of(await task) == b"x"


async def test_what_makes_two_requests_equal() -> None:
    mesh_ = mesh()
    key = {"idempotency-key": "mine"}
    calls = [
        await mesh_.call(b"a", **key),
        await mesh_.call(b"a", **key, accept="text/plain"),
        await mesh_.call(b"b", **key),
        replace(await mesh_.call(b"a" * 70_000, **key)),
    ]
    other = await mesh_.call(b"a", **key)
    request = replace(other.spec.request, query="x=1")
    calls.append(replace(other, spec=replace(other.spec, request=request)))
    prints = [(await mesh_.durable._submission(call)).fingerprint for call in calls]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 4


async def test_the_same_key_again_waits_for_the_same_run_and_kills_nothing() -> None:
    mesh_ = mesh(OK, b"x", asyncio.Event())
    key = {"idempotency-key": "mine"}
    first = await mesh_.run(await mesh_.call(b"a", **key))
    call = await mesh_.call(b"a", **key)
    run_id = await mesh_.durable.submit(call)
    second = await mesh_.durable.answer(call, run_id)
    assert dict(first.headers)["x-request-id"] == dict(second.headers)["x-request-id"] == run_id
    assert not isinstance(second.body, bytes)
    await anext(second.body)
    await second.body.aclose()  # type: ignore[attr-defined]
    await mesh_.settled()
    assert mesh_.runs.cancelled == []
