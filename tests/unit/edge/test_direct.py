"""The direct way in: the run lives as long as its caller waits."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import pytest

from edge.calls import Call, Calls
from edge.direct import Direct
from edge.http import Aborted, Answer
from edge.patience import Errands
from edge.run_model import INLINE_BYTES, AnswerHead, BodyComplete, Limits, Outcome, RunSpec, Status, Target, WholeAnswer
from kit.clock import FakeClock
from kit.errors import Invalid, Unavailable
from kit.names import is_id
from tests.fakes.edge_runs import NOW, OWNER, FakeExecutor, FakeWorkflows, a_request, body_of
from tests.fakes.permits import UNLIMITED

OK = AnswerHead(200, (("content-type", "text/plain"),))
DONE = Outcome(Status.SUCCEEDED)
CRASH = Outcome(Status.FAILED, "workflow_crashed", "it died")


@pytest.fixture
async def errands() -> AsyncIterator[Errands]:
    async with Errands(grace=5) as errands:
        yield errands


@pytest.fixture(autouse=True, params=["in one message", "streamed"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to the executor."""
    monkeypatch.setattr(f"{__name__}.announced", request.param == "in one message")


announced = True


async def a_call(*body: bytes, **headers: str) -> Call:
    """A call, its body `announced` unless `headers` say something else."""
    length = str(len(b"".join(body))) if announced else "unknown"
    request = a_request("/", *body, headers={"content-length": length, **headers})
    return await Calls(FakeWorkflows(), UNLIMITED, FakeClock(NOW)).read(request, synchronous=True)


async def run(executor: FakeExecutor, errands: Errands, call: Call | None = None, late: float = 0) -> Answer:
    clock = FakeClock(NOW + timedelta(seconds=late))
    return await Direct(executor, clock, errands, "http://public.test").run(call or await a_call())


def told(answer: Answer) -> tuple[int, dict[str, str]]:
    assert isinstance(answer.body, bytes)
    return answer.status, json.loads(answer.body)


async def test_a_run_from_start_to_end(errands: Errands) -> None:
    executor = FakeExecutor(OK, b"hel", b"lo", BodyComplete(), DONE)
    call = await a_call(b"in", b"put")
    answer = await run(executor, errands, call)
    assert (answer.status, await body_of(answer)) == (200, b"hello")
    (spec,) = executor.specs
    assert executor.bodies == [b"input"]
    assert is_id(spec.run_id, "run")
    assert spec.root_id == spec.correlation_id == spec.run_id
    assert spec.deadline == NOW + timedelta(seconds=120)
    assert ("x-request-id", spec.run_id) in answer.headers
    assert call.begun == [spec.run_id]


async def test_body_chunks_come_as_they_are_made(errands: Errands) -> None:
    more = asyncio.Event()
    answer = await run(FakeExecutor(OK, b"first", more, b"second", BodyComplete(), DONE), errands)
    assert not isinstance(answer.body, bytes)
    assert await anext(answer.body) == b"first"
    more.set()
    assert await anext(answer.body) == b"second"


async def test_the_answer_ends_before_the_background_tasks_do(errands: Errands) -> None:
    background = asyncio.Event()
    executor = FakeExecutor(OK, b"x", BodyComplete(), background, DONE)
    assert await body_of(await run(executor, errands)) == b"x"
    await asyncio.sleep(0)
    assert not executor.left.is_set()
    background.set()
    await asyncio.wait_for(executor.ended.wait(), 5)


async def test_a_caller_that_hangs_up_kills_the_run_before_its_head(errands: Errands) -> None:
    executor = FakeExecutor(asyncio.Event())
    task = asyncio.create_task(run(executor, errands))
    await asyncio.wait_for(executor.reached.wait(), 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert executor.left.is_set()


async def test_a_caller_that_hangs_up_just_when_the_answer_is_to_be_held_kills_the_run(errands: Errands) -> None:
    class Late(FakeExecutor):
        async def call(self, spec: RunSpec, body: bytes, timeout: timedelta) -> WholeAnswer | Outcome | None:
            found = await super().call(spec, body, timeout)
            self.said.set()
            await asyncio.Event().wait()
            return found

        said = asyncio.Event()

    executor = Late(OK, b"x", asyncio.Event())
    call = replace(await a_call(), brief=True)
    task = asyncio.create_task(run(executor, errands, call))
    await asyncio.wait_for(executor.said.wait(), 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(executor.left.wait(), 5)
    assert executor.held == call.begun


async def test_a_caller_that_hangs_up_kills_the_run_in_the_middle(errands: Errands) -> None:
    executor = FakeExecutor(OK, b"x", asyncio.Event())
    answer = await run(executor, errands)
    assert not isinstance(answer.body, bytes)
    await anext(answer.body)
    await answer.body.aclose()  # type: ignore[attr-defined]
    await asyncio.wait_for(executor.left.wait(), 5)
    assert not executor.ended.is_set()


@pytest.mark.parametrize("end", [CRASH, Unavailable("socket closed")])
async def test_a_stream_that_breaks_is_aborted(errands: Errands, end: Outcome | Exception) -> None:
    answer = await run(FakeExecutor(OK, b"half", end), errands)
    with pytest.raises(Aborted):
        await body_of(answer)


async def test_a_small_answer_that_breaks_is_an_error(errands: Errands) -> None:
    head = AnswerHead(200, (("content-length", "8"),))
    status, body = told(await run(FakeExecutor(head, b"half", CRASH), errands))
    assert (status, body["code"]) == (502, "workflow_crashed")


async def test_a_small_answer_is_sent_in_one_piece(errands: Errands) -> None:
    head = AnswerHead(201, (("content-length", "4"), ("content-type", "text/plain")))
    answer = await run(FakeExecutor(head, b"ha", b"lf", BodyComplete(), DONE), errands)
    assert (answer.status, answer.body) == (201, b"half")


async def test_an_outcome_without_an_answer(errands: Errands) -> None:
    status, body = told(await run(FakeExecutor(CRASH), errands))
    assert (status, body["code"]) == (502, "workflow_crashed")
    assert is_id(body["request_id"], "run")


async def test_a_run_past_its_deadline_names_the_way_out(errands: Errands) -> None:
    status, body = told(await run(FakeExecutor(Outcome(Status.TIMED_OUT, "timeout", "too slow")), errands))
    assert (status, body["code"]) == (504, "timeout")
    assert "/run_async/greet" in body["detail"]
    assert is_id(body["request_id"], "run")


@pytest.mark.parametrize(
    "problem", [Unavailable("full", retry_after=timedelta(seconds=1)), Unavailable("failed to connect to x")]
)
async def test_no_room_is_unavailable(errands: Errands, problem: Unavailable) -> None:
    with pytest.raises(Unavailable):
        await run(FakeExecutor(problem), errands)


async def test_an_executor_lost_meanwhile_is_no_invitation_to_repeat(errands: Errands) -> None:
    status, body = told(await run(FakeExecutor(Unavailable("Socket closed")), errands))
    assert (status, body["code"]) == (502, "workflow_crashed")
    assert told(await run(FakeExecutor(), errands))[0] == 502


async def test_an_executor_that_misses_the_deadline_is_not_waited_for(errands: Errands) -> None:
    status, body = told(await run(FakeExecutor(Unavailable("Deadline Exceeded")), errands, late=135))
    assert (status, body["code"]) == (504, "timeout")


async def test_a_small_body_goes_in_one_message_and_a_long_one_is_streamed(errands: Errands) -> None:
    head = AnswerHead(200, (("content-length", "2"),))
    executor = FakeExecutor(head, b"ok", BodyComplete(), DONE)
    answer = await run(executor, errands, await a_call(b"in", b"put", **{"content-length": "5"}))
    assert (answer.body, executor.bodies, executor.held, executor.streamed) == (b"ok", [b"input"], [], 0)
    await run(executor, errands, await a_call(b"in", **{"content-length": str(INLINE_BYTES + 1)}))
    assert executor.streamed == 1
    await run(executor, errands, await a_call(b"in", **{"content-length": "unknown"}))
    assert executor.streamed == 2


async def test_a_get_has_a_long_body_after_all(errands: Errands) -> None:
    request = replace(a_request("/", b"x" * INLINE_BYTES, b"y", b"z"), method="GET")
    call = await Calls(FakeWorkflows(), UNLIMITED, FakeClock(NOW)).read(request, synchronous=True)
    executor = FakeExecutor(OK, BodyComplete(), DONE)
    await run(executor, errands, call)
    assert (executor.streamed, executor.bodies) == (1, [b"x" * INLINE_BYTES + b"yz"])


async def test_an_answer_without_a_length_is_held(errands: Errands) -> None:
    executor = FakeExecutor(OK, b"hel", b"lo", BodyComplete(), DONE)
    call = await a_call(b"input", **{"content-length": "5"})
    assert await body_of(await run(executor, errands, call)) == b"hello"
    assert executor.held == call.begun


async def test_a_small_body_that_does_not_come_starts_nothing(errands: Errands) -> None:
    limits = Limits(sync_timeout=timedelta(milliseconds=20))
    request = replace(a_request("/", headers={"content-length": "5"}), body=_stalling())
    calls = Calls(FakeWorkflows(greet=Target(OWNER, "greet", "v", limits=limits)), UNLIMITED, FakeClock(NOW))
    call = await calls.read(request, synchronous=True)
    executor = FakeExecutor(OK)
    status, body = told(await run(executor, errands, call))
    assert (status, body["code"], executor.specs, call.begun) == (504, "timeout", [], [])


async def _stalling() -> AsyncIterator[bytes]:
    yield b"x"
    await asyncio.Event().wait()


async def test_a_body_that_grows_too_large(errands: Errands) -> None:
    calls = Calls(
        FakeWorkflows(greet=Target(OWNER, "greet", "v", limits=Limits(request_bytes=3))), UNLIMITED, FakeClock(NOW)
    )
    call = await calls.read(a_request("/", b"12", b"34"), synchronous=True)
    with pytest.raises(Invalid) as refused:
        await run(FakeExecutor(OK), errands, call)
    assert refused.value.code == "too_large"
