import asyncio
import hashlib
import json
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from executor.cgroups import Usage
from executor.model import HUNG_UP, OURS, SYSTEM, AnswerEvent, BodyComplete, Limits, Outcome, Spec, Status
from executor.request import head_for
from executor.run import SANDBOX_LOST, Run
from executor.sandbox import AnswerEnd, Crashed, Event, Finished, Head, Said, StartFailed
from kit.errors import Invalid, Unavailable
from tests.fakes.executor import START, VERSION, World, chunks, make_spec
from tests.fakes.ledger import price
from tests.fakes.sandbox import App, FakeSandbox, answering, echo, hang


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def run(world: World, spec: Spec | None = None, body: AsyncIterator[bytes] | None = None) -> list[AnswerEvent]:
    """A run from start to end: what its caller sees."""
    attempt = begin(world, spec, body)
    reading = asyncio.create_task(collect(attempt))
    async with asyncio.timeout(10):
        await attempt.execute()
    assert world.driver.running == 0
    assert world.capacity.running == 0
    assert world.lines.ended == [attempt.spec.run_id]
    return await reading


def begin(world: World, spec: Spec | None = None, body: AsyncIterator[bytes] | None = None) -> Run:
    spec = spec or make_spec()
    return Run(
        world.host,
        spec,
        body or chunks(),
        world.capacity.take(nested=False),
        world.host.metering.tab(spec),
        known=False,
    )


async def collect(attempt: Run) -> list[AnswerEvent]:
    return [event async for event in attempt.answer.read()]


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110  # a fake tells nobody
            await asyncio.sleep(0.002)


def body_of(events: list[AnswerEvent]) -> bytes:
    return b"".join(event for event in events if isinstance(event, bytes))


async def test_a_run_answers_is_kept_and_reported(world: World) -> None:
    events = await run(world)
    assert body_of(events) == b"hello"
    assert events[-2:] == [BodyComplete(), Outcome(Status.SUCCEEDED)]
    (started,), (ended,) = world.reporter.started, world.reporter.ended
    assert started.at == START
    assert ended.run_id == started.spec.run_id
    assert ended.answer
    assert (ended.answer.content, ended.answer.size, ended.answer.head.status) == (b"hello", 5, 200)
    assert ended.log_digest == hashlib.sha256(b"").hexdigest()
    assert ended.log_digest not in world.blobs.blobs


async def test_the_workflow_gets_the_callers_request_and_the_platforms_headers(world: World) -> None:
    world.driver.app = echo
    spec = make_spec()
    own = (("x-a", b"1"), ("x-a", b"2"), ("x-request-id", b"forged"), ("x-b", b"\xff"))
    spec = replace(spec, request=replace(spec.request, headers=own))
    events = await run(world, spec, chunks(b"one ", b"", b"two"))
    assert body_of(events) == b"one two"
    head = world.reporter.ended[0].answer
    assert head
    got = [(name, value.decode("latin-1")) for name, value in head.head.headers]
    assert [value for name, value in got if name == "x-a"] == ["1", "2"]
    assert dict(got)["x-b"] == "\xff"
    assert dict(got)["x-request-id"] == spec.run_id
    assert dict(got)["x-correlation-id"] == "corr"
    assert dict(got)["codewords-caller-id"] == "org_caller"
    assert dict(got)["x-attempt"] == "1"
    assert dict(got)["x-deadline"] == "2026-11-22T12:01:00.000Z"
    assert dict(got)["traceparent"].split("-")[1] == "1" * 32


def test_a_library_service_is_told_for_whom_it_acts() -> None:
    """Not by whoever calls it, and nobody else is: a stranger's workflow asks, and its caller pays."""
    forged = (("x-runmesh-organization-id", b"org_victim"),)
    spec = make_spec()
    spec = replace(spec, requester_id="org_stranger", request=replace(spec.request, headers=forged))
    told = [
        value
        for name, value in head_for(replace(spec, owner_id=SYSTEM, service_id="pipedream"), "").headers
        if name == forged[0][0].encode()
    ]
    assert told == [b"org_stranger"]
    names = [name for name, _ in head_for(replace(spec, request=replace(spec.request, headers=())), "").headers]
    assert forged[0][0].encode() not in names


async def test_path_and_query_reach_it_as_they_were_sent(world: World) -> None:
    seen: list[Head] = []

    async def app(sandbox: FakeSandbox, request: Head, body: AsyncIterator[bytes]) -> AsyncIterator[Event]:
        seen.append(request)
        async for event in answering()(sandbox, request, body):
            yield event

    world.driver.app = app
    await run(world)
    assert (seen[0].method, seen[0].path, seen[0].query) == ("POST", "/a%20b", "x=1")


async def test_secrets_reach_the_sandbox_and_nothing_else(world: World) -> None:
    world.book.versions["ver_1"] = replace(VERSION, env_vars={"KEY": None})
    world.secrets.known["org_owner", "KEY"] = "s3cret"
    await run(world)
    assert world.driver.started[0].launch.env["KEY"] == "s3cret"
    assert "s3cret" not in repr(world.reporter.told) + repr(world.lines.lines)


async def test_a_secret_with_hosts_stays_outside(world: World) -> None:
    world.book.versions["ver_1"] = replace(VERSION, env_vars={"KEY": None})
    world.secrets.known["org_owner", "KEY"] = "s3cret"
    world.secrets.hosts["KEY"] = ["a.example"]
    await run(world)
    launch = world.driver.started[0].launch
    assert launch.env["KEY"] == "secret://KEY"
    assert launch.certificates == world.host.authority.directory
    assert "s3cret" not in repr(vars(launch)) + repr(launch.env)


@pytest.mark.parametrize(
    ("status", "outcome"), [(200, Status.SUCCEEDED), (404, Status.SUCCEEDED), (500, Status.FAILED)]
)
async def test_its_own_status_decides(world: World, status: int, outcome: Status) -> None:
    world.driver.app = answering(status=status)
    await run(world)
    assert (world.outcome.status, world.outcome.code) == (outcome, "")


async def test_a_large_answer_is_kept_by_digest(world: World) -> None:
    world.book.versions["ver_1"] = replace(VERSION, limits=Limits(response_bytes=1_000_000))
    data = os.urandom(150_000)
    world.driver.app = answering(data)
    assert body_of(await run(world)) == data
    kept = world.reporter.ended[0].answer
    assert kept
    assert (kept.content, kept.digest, kept.size) == (b"", hashlib.sha256(data).hexdigest(), len(data))
    assert world.blobs.blobs[kept.digest] == data


async def test_a_large_stream_isnt_kept(world: World) -> None:
    data = os.urandom(150_000)
    world.driver.app = answering(data, headers=[])
    assert body_of(await run(world)) == data
    kept = world.reporter.ended[0].answer
    assert kept
    assert (kept.content, kept.digest, kept.size) == (b"", "", len(data))


async def test_without_the_filestore_the_outcome_is_told_all_the_same(world: World) -> None:
    async def chatty(sandbox: FakeSandbox, request: Head, body: AsyncIterator[bytes]) -> AsyncIterator[Event]:
        sandbox.print(b"a line to keep\n")
        async for event in answering()(sandbox, request, body):
            yield event

    world.driver.app = chatty
    await world.host.versions.source(VERSION)
    world.blobs.fails = Unavailable("away")
    running = asyncio.create_task(run(world))
    async with asyncio.timeout(10):
        while not running.done():
            await world.clock.advance(1)
    await running
    assert world.outcome.status is Status.SUCCEEDED
    assert world.reporter.ended[0].log_digest == ""


@pytest.mark.parametrize(
    ("failure", "code", "words"),
    [
        (
            StartFailed("import", "ValueError: no", line=3),
            "workflow_failed_to_start",
            "import: ValueError: no (line 3)",
        ),
        (StartFailed("timeout", "not ready in 60 s"), "workflow_failed_to_start", "timeout"),
        (Crashed("it died"), "workflow_crashed", "it died"),
        (ValueError("a bug with a s3cret"), "runtime_error", "internal error"),
    ],
)
async def test_a_start_that_fails(world: World, failure: Exception, code: str, words: str) -> None:
    world.driver.fails = failure
    events = await run(world)
    assert events == [world.outcome]
    assert (world.outcome.status, world.outcome.code) == (Status.FAILED, code)
    assert words in world.outcome.detail
    assert "s3cret" not in world.outcome.detail
    assert world.lines.lines[-1].stream == "system"


@pytest.mark.parametrize(
    ("problem", "code"),
    [
        (Unavailable("no process can be had"), "unavailable"),
        (Invalid("no such package", code="invalid_workflow"), "workflow_failed_to_start"),
        (Invalid("odd"), "runtime_error"),
    ],
)
async def test_a_host_that_cant(world: World, problem: Exception, code: str) -> None:
    world.driver.refuses = problem
    await run(world)
    assert world.outcome.code == code


async def test_a_missing_secret_is_named(world: World) -> None:
    world.book.versions["ver_1"] = replace(VERSION, env_vars={"KEY": None})
    await run(world)
    assert world.outcome.code == "missing_secret"
    assert "KEY" in world.outcome.detail
    assert world.driver.started == []


async def test_a_version_that_is_gone(world: World) -> None:
    await run(world, make_spec(version_id="ver_9"))
    assert world.outcome.code == "runtime_error"


async def test_a_crash_in_mid_answer_is_no_clean_end(world: World) -> None:
    async def app(sandbox: FakeSandbox, request: Head, body: AsyncIterator[bytes]) -> AsyncIterator[Event]:
        sandbox.print(b"about to die\n")
        yield Head([], status=200)
        yield b"half"
        raise Crashed("killed by signal 11")

    world.driver.app = app
    events = await run(world)
    assert body_of(events) == b"half"
    assert BodyComplete() not in events
    assert world.outcome.code == "workflow_crashed"
    assert world.outcome.log_tail == ("about to die",)
    assert world.reporter.ended[0].answer is None


async def killed(_sandbox: FakeSandbox, _request: Head, body: AsyncIterator[bytes]) -> AsyncIterator[Event]:
    async for _ in body:
        yield Head([], status=200)
    raise Crashed("killed by signal 9")


async def test_whom_the_kernel_killed_for_memory_is_told_so(world: World) -> None:
    world.driver.app, world.driver.used = killed, Usage(oom_kills=1)
    await run(world)
    assert world.outcome.code == "out_of_memory"
    assert "raise `memory`" in world.outcome.detail


async def test_a_sandbox_that_died_with_all_others_is_no_crash_of_the_workflows(world: World) -> None:
    """It is ours: an asynchronous run gets another attempt."""
    world.driver.app, world.driver.lost = killed, True
    await run(world)
    assert world.outcome == SANDBOX_LOST
    assert world.outcome.code in OURS


async def test_a_child_killed_for_memory_is_no_end_of_the_run(world: World) -> None:
    world.driver.used = Usage(oom_kills=1)
    await run(world)
    assert world.outcome.status is Status.SUCCEEDED


async def test_what_it_used_is_reported(world: World) -> None:
    world.driver.used = Usage(cpu_seconds=1.5, memory_peak=1 << 20)
    await run(world)
    usage = world.reporter.ended[0].usage
    assert (usage.cpu_seconds, usage.memory_peak) == (1.5, 1 << 20)


@pytest.mark.parametrize("words", ["", "ValueError: x"])
async def test_an_app_that_returns_without_an_answer_has_crashed(world: World, words: str) -> None:
    async def app(sandbox: FakeSandbox, request: Head, body: AsyncIterator[bytes]) -> AsyncIterator[Event]:
        yield Head([], status=200)
        yield Finished(words)

    world.driver.app = app
    await run(world)
    assert world.outcome.code == "workflow_crashed"
    assert words in world.outcome.detail


async def test_a_crash_after_the_answer_changes_nothing(world: World) -> None:
    async def app(sandbox: FakeSandbox, request: Head, body: AsyncIterator[bytes]) -> AsyncIterator[Event]:
        yield Head([], status=200)
        yield AnswerEnd()
        raise Crashed("killed")

    world.driver.app = app
    await run(world)
    assert world.outcome == Outcome(Status.SUCCEEDED)


async def test_too_much_output_stops_it(world: World) -> None:
    world.driver.app = answering(b"x" * 300_000, headers=[])
    events = await run(world)
    assert world.outcome.code == "too_much_output"
    assert len(body_of(events)) <= 200_000
    assert BodyComplete() not in events


async def test_a_body_over_its_limit_never_looks_whole(world: World) -> None:
    world.driver.app = echo
    await run(world, body=chunks(b"x" * 600, b"x" * 600))
    assert world.outcome.code == "too_large"


async def test_a_body_that_breaks_off_never_looks_whole(world: World) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"half"
        raise ConnectionError("gone")

    world.driver.app = echo
    events = await run(world, body=broken())
    assert events == [world.outcome]
    assert world.outcome.status is Status.CANCELLED


async def test_the_deadline_kills(world: World) -> None:
    world.driver.app = hang
    attempt = begin(world)
    task = asyncio.create_task(attempt.execute())
    await until(lambda: world.driver.started)
    await world.clock.advance(59.9)
    assert world.driver.running == 1
    await world.clock.advance(0.2)
    await task
    assert (world.outcome.status, world.outcome.code) == (Status.TIMED_OUT, "timeout")
    assert world.outcome.detail == "the run passed its time limit and was killed"
    assert world.driver.running == 0


async def test_a_run_that_may_have_waited_is_told_since_when_its_time_counts(world: World) -> None:
    await run(world, make_spec(synchronous=False, deadline=START - timedelta(seconds=1)))
    assert world.outcome.code == "timeout"
    assert "(it counts from when it was accepted)" in world.outcome.detail


async def test_a_deadline_that_is_past_starts_nothing(world: World) -> None:
    await run(world, make_spec(deadline=START - timedelta(seconds=1)))
    assert world.outcome.code == "timeout"
    assert world.driver.started == []


@pytest.mark.parametrize("where", ["starting", "serving"])
async def test_a_stop_kills_wherever_it_is(world: World, where: str) -> None:
    world.driver.app = hang
    world.driver.never_ready = where == "starting"
    attempt = begin(world)
    task = asyncio.create_task(attempt.execute())
    await until(lambda: world.driver.started)
    attempt.stop(HUNG_UP)
    attempt.stop(Outcome.failed("runtime_error", "too late"))
    await task
    assert world.outcome.code == "cancelled"
    assert "or the runtime was stopped" in world.outcome.detail  # from here both look the same
    assert world.driver.running == 0


async def test_a_hang_up_after_the_answer_lets_background_work_end(world: World) -> None:
    go_on = asyncio.Event()

    async def app(sandbox: FakeSandbox, request: Head, body: AsyncIterator[bytes]) -> AsyncIterator[Event]:
        yield Head([], status=200)
        yield AnswerEnd()
        await go_on.wait()
        sandbox.print(b"done in the background\n")
        yield Finished()

    world.driver.app = app
    attempt = begin(world)
    task = asyncio.create_task(attempt.execute())
    await until(lambda: attempt.answer.complete)
    attempt.hang_up()
    go_on.set()
    await task
    assert world.outcome.status is Status.SUCCEEDED
    assert [line.message for line in world.lines.lines] == ["done in the background"]


async def test_the_whole_log_is_archived(world: World) -> None:
    async def app(sandbox: FakeSandbox, request: Head, body: AsyncIterator[bytes]) -> AsyncIterator[Event]:
        sandbox.print(b"to stdout\n")
        sandbox.print(b"to stderr", "stderr")
        async for event in answering(status=503)(sandbox, request, body):
            yield event

    world.driver.app = app
    await run(world)
    digest = world.reporter.ended[0].log_digest
    messages = [json.loads(line)["message"] for line in world.blobs.blobs[digest].splitlines()]
    assert sorted(messages) == ["to stderr", "to stdout"]
    assert sorted(world.outcome.log_tail) == sorted(messages)


async def test_a_run_ends_for_its_caller_whatever_breaks(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(run_id: str) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(world.lines, "end", broken)
    attempt = begin(world)
    await attempt.execute()
    assert (await collect(attempt))[-1] == world.outcome
    assert world.outcome.code == "runtime_error"
    assert world.capacity.running == 0


def metered(*said: dict[str, object], whole: bool = True) -> App:
    async def app(sandbox: FakeSandbox, request: Head, body: AsyncIterator[bytes]) -> AsyncIterator[Event]:
        assert request.metered
        for each in said:
            yield Said(json.dumps(each).encode())
        if not whole:
            await asyncio.Event().wait()
        async for event in answering()(sandbox, request, body):
            yield event

    return app


AFFORD = {"id": 1, "op": "afford", "model": "m", "tokens_in": 10, "tokens_out": 5}
LIBRARY = {"owner_id": "org_system", "acting_id": "org_system", "service_id": "openai"}
BILLED = {"tokens:openai/m:in": 1, "tokens:openai/m:out": 2}


def priced(world: World) -> None:
    world.ledger.credit["org_caller"] = 1000
    world.prices._prices = [price(meter, each) for meter, each in BILLED.items()]


def billed(world: World) -> dict[str, tuple[int, int]]:
    """(quantity, amount) by meter, of the only run; it must leave nothing taken."""
    (ended,) = world.reporter.ended
    assert ended.bill
    (purse,) = world.purses
    assert purse.held == 0
    return {line.meter: (line.quantity, line.amount) for line in ended.bill.lines}


async def test_a_library_service_is_answered_and_what_it_used_is_booked(world: World) -> None:
    priced(world)
    world.driver.app = metered(AFFORD, {"id": 2, "op": "used", "call": 1, "in": 9, "out": 4, "cached": 0})
    assert body_of(await run(world, make_spec(**LIBRARY))) == b"hello"
    assert [json.loads(told) for told in world.driver.started[0].told] == [{"id": 1, "granted": 5}, {"id": 2}]
    assert billed(world) == {"tokens:openai/m:in": (9, 9), "tokens:openai/m:out": (4, 8), "run": (1, 0)}


async def test_what_its_caller_leaves_is_charged_by_an_estimate_and_said_so(world: World) -> None:
    priced(world)
    world.driver.app = metered(AFFORD, {"op": "so_far", "call": 1, "in": 8, "out": 3}, whole=False)
    attempt = begin(world, make_spec(**LIBRARY))
    running = asyncio.create_task(attempt.execute())
    await until(lambda: world.driver.started and world.driver.started[0].told)
    attempt.hang_up()
    await running
    assert world.outcome == replace(HUNG_UP, log_tail=world.outcome.log_tail)
    assert billed(world) == {"tokens:openai/m:in": (8, 8), "tokens:openai/m:out": (3, 6), "run": (1, 0)}
    assert [line.message for line in world.lines.lines if "estimate of 8 tokens in, 3 out" in line.message]


async def test_an_ordinary_workflow_isnt_metered_so(world: World) -> None:
    seen: list[bool] = []

    async def app(sandbox: FakeSandbox, request: Head, body: AsyncIterator[bytes]) -> AsyncIterator[Event]:
        seen.append(request.metered)
        yield Said(json.dumps(AFFORD).encode())

    priced(world)
    world.driver.app = app
    await run(world, make_spec(owner_id="org_other", service_id="openai"))
    assert (seen, world.ledger.draws, world.driver.started[0].told) == ([False], [], [])
    assert world.outcome.code == "workflow_crashed"
