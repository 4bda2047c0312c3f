import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest

from executor.answer import WholeAnswer
from executor.model import AnswerEvent, AnswerHead, Limits, Outcome, Status
from executor.runs import HOLD_SECONDS, LINGER, SHUT_DOWN, Runs
from executor.sandbox import AnswerEnd, Event, Finished, Head, StartFailed
from kit.errors import Conflict, Invalid, NotFound, Unavailable
from scheduler.dispatch import OTHER_LIFE
from tests.fakes.executor import LIFE, VERSION, World, chunks, make_spec
from tests.fakes.sandbox import App, FakeSandbox, answering, hang

STOPPED = Outcome(Status.CANCELLED, "cancelled", "by its caller")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110  # a fake tells nobody
            await asyncio.sleep(0.002)


async def half(_sandbox: FakeSandbox, _request: Head, _body: AsyncIterator[bytes]) -> AsyncIterator[Event]:
    yield Head([], status=200)
    yield b"half"
    await asyncio.Event().wait()


async def collect(events: AsyncIterator[AnswerEvent]) -> list[AnswerEvent]:
    return [event async for event in events]


async def test_a_direct_call(world: World) -> None:
    runs = Runs(world.host)
    events = await collect(runs.call(make_spec(), chunks(b"x")))
    assert events[-1] == Outcome(Status.SUCCEEDED)
    await until(lambda: world.reporter.ended)
    assert not world.reporter.started[0].known


async def test_a_caller_that_hangs_up_kills_its_run(world: World) -> None:
    world.driver.app = half
    runs = Runs(world.host)
    async with aclosing(runs.call(make_spec(), chunks())) as events:
        async for event in events:
            if event == b"half":
                break
    await until(lambda: world.reporter.ended)
    assert world.outcome.status is Status.CANCELLED
    assert world.driver.running == 0


async def test_a_small_answer_comes_at_once_and_nothing_is_kept(world: World) -> None:
    runs, spec = Runs(world.host), make_spec()
    found = await runs.ask(spec, chunks(b"x"))
    assert isinstance(found, WholeAnswer)
    assert (found.head.status, found.body) == (200, b"hello")
    await until(lambda: world.reporter.ended)
    assert not world.reporter.started[0].known
    await until(lambda: world.driver.running == 0)
    await asyncio.sleep(0)
    with pytest.raises(NotFound):
        await collect(runs.attach(spec.run_id))


async def test_an_answer_is_not_kept_waiting_by_what_the_app_does_after_it(world: World) -> None:
    go_on = asyncio.Event()

    async def app(_sandbox: FakeSandbox, _request: Head, _body: AsyncIterator[bytes]) -> AsyncIterator[Event]:
        yield Head([(b"content-length", b"2")], status=201)
        yield b"ok"
        yield AnswerEnd()
        await go_on.wait()
        yield Finished()

    world.driver.app = app
    found = await Runs(world.host).ask(make_spec(), chunks())
    assert isinstance(found, WholeAnswer)
    assert world.driver.running == 1
    go_on.set()
    await until(lambda: world.reporter.ended)
    assert world.outcome == Outcome(Status.SUCCEEDED)


async def test_who_asks_is_told_how_a_run_without_an_answer_ended(world: World) -> None:
    world.driver.fails = StartFailed("no_app", "it has no app")
    found = await Runs(world.host).ask(make_spec(), chunks())
    assert isinstance(found, Outcome)
    assert found.code == "workflow_failed_to_start"


@pytest.mark.parametrize("app", [half, answering(b"x" * 70_000), answering(headers=[])])
async def test_a_long_answer_or_a_stream_has_to_be_attached_to(world: World, app: App) -> None:
    world.book.versions["ver_1"] = replace(VERSION, limits=Limits(response_bytes=100_000))
    world.driver.app = app
    runs, spec = Runs(world.host), make_spec()
    assert await runs.ask(spec, chunks()) is None
    if app is half:
        async with aclosing(runs.attach(spec.run_id, hold=True)) as events:
            async for event in events:
                if event == b"half":
                    break
        await until(lambda: world.reporter.ended)
        assert world.outcome.status is Status.CANCELLED
    else:
        await until(lambda: world.reporter.ended)  # the caller may be late
        events_ = await collect(runs.attach(spec.run_id, hold=True))
        assert events_[-1] == Outcome(Status.SUCCEEDED)
        with pytest.raises(NotFound):
            await collect(runs.attach(spec.run_id))


async def test_who_asks_and_leaves_kills_the_run(world: World) -> None:
    world.driver.app = hang
    asking = asyncio.create_task(Runs(world.host).ask(make_spec(), chunks()))
    await until(lambda: world.driver.started)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await until(lambda: world.reporter.ended)
    assert (world.outcome.status, world.driver.running) == (Status.CANCELLED, 0)


async def test_a_run_that_its_caller_forgets_to_attach_to_is_killed(world: World) -> None:
    world.driver.app = half
    runs, spec = Runs(world.host), make_spec()
    assert await runs.ask(spec, chunks()) is None
    await asyncio.sleep(0)
    await world.clock.advance(HOLD_SECONDS - 1)
    assert world.driver.running == 1
    await world.clock.advance(1)
    await until(lambda: world.reporter.ended)
    assert world.outcome.status is Status.CANCELLED
    await asyncio.sleep(0)
    with pytest.raises(NotFound):
        await collect(runs.attach(spec.run_id))


async def test_a_started_run_can_be_attached_to_while_and_after_it_runs(world: World) -> None:
    runs, spec = Runs(world.host), make_spec()
    runs.start(spec, chunks(b"x"), LIFE)
    live = await collect(runs.attach(spec.run_id))
    await until(lambda: world.reporter.ended)
    assert await collect(runs.attach(spec.run_id)) == live
    assert b"hello" in live
    assert world.reporter.started[0].known


async def test_detaching_changes_nothing(world: World) -> None:
    world.driver.app = half
    runs, spec = Runs(world.host), make_spec()
    runs.start(spec, chunks(), LIFE)
    async with aclosing(runs.attach(spec.run_id)) as events:
        async for event in events:
            if event == b"half":
                break
    assert world.driver.running == 1
    runs.stop(spec.run_id, STOPPED)
    await until(lambda: world.reporter.ended)


async def test_starting_twice_runs_once(world: World) -> None:
    runs, spec = Runs(world.host), make_spec()
    runs.start(spec, chunks(), LIFE)
    with pytest.raises(Conflict):
        runs.start(spec, chunks(), LIFE)
    await until(lambda: world.reporter.ended)
    with pytest.raises(Conflict):
        runs.start(spec, chunks(), LIFE)
    assert len(world.driver.started) == len(world.reporter.started) == 1
    with pytest.raises(Conflict):
        await collect(runs.call(spec, chunks()))


async def test_an_answer_is_forgotten_after_a_while(world: World, tmp_path: Path) -> None:
    world.book.versions["ver_1"] = replace(VERSION, limits=Limits(response_bytes=1_000_000))
    world.driver.app = answering(b"x" * 200_000, headers=[])  # a stream, which the filestore doesn't get
    runs, spec = Runs(world.host), make_spec()
    forgetting = asyncio.create_task(runs.forget_old())
    runs.start(spec, chunks(), LIFE)
    await until(lambda: world.reporter.ended)
    await world.clock.advance(LINGER.total_seconds() - 1)
    assert await collect(runs.attach(spec.run_id))
    await world.clock.advance(10)
    with pytest.raises(NotFound):
        await collect(runs.attach(spec.run_id))
    forgetting.cancel()
    await asyncio.gather(forgetting, return_exceptions=True)


async def test_a_long_answer_that_the_filestore_has_is_let_go_of(world: World) -> None:
    world.book.versions["ver_1"] = replace(VERSION, limits=Limits(response_bytes=1_000_000))
    world.driver.app = answering(b"x" * 200_000)
    runs, spec = Runs(world.host), make_spec()
    runs.start(spec, chunks(), LIFE)
    async with aclosing(runs.attach(spec.run_id)) as events:
        assert isinstance(await anext(events), AnswerHead)
        await until(lambda: world.reporter.ended)
        assert sum(len(event) for event in await collect(events) if isinstance(event, bytes)) == 200_000
    kept = world.reporter.ended[0].answer
    assert kept is not None
    assert kept.digest
    with pytest.raises(NotFound):
        await collect(runs.attach(spec.run_id))
    with pytest.raises(Conflict):
        runs.start(spec, chunks(), LIFE)
    assert len(world.driver.started) == 1


async def test_few_answers_are_remembered(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("executor.runs.REMEMBERED", 2)
    runs = Runs(world.host)
    specs = [make_spec() for _ in range(3)]
    for number, spec in enumerate(specs):
        runs.start(spec, chunks(), LIFE)
        await until(lambda: len(world.reporter.ended) > number)  # noqa: B023  # awaited at once
    with pytest.raises(NotFound):
        await collect(runs.attach(specs[0].run_id))
    assert await collect(runs.attach(specs[2].run_id))


async def test_a_stop_is_the_outcome(world: World) -> None:
    world.driver.app = hang
    runs, spec = Runs(world.host), make_spec()
    runs.start(spec, chunks(), LIFE)
    await until(lambda: world.driver.started)
    runs.stop(spec.run_id, STOPPED)
    runs.stop(spec.run_id, STOPPED)
    await until(lambda: world.reporter.ended)
    assert (world.outcome.status, world.outcome.detail) == (Status.CANCELLED, "by its caller")
    runs.stop("run_unknown", STOPPED)


@pytest.mark.parametrize("run_id", ["", "run_1", "../../etc", "run_" + "x" * 300])
async def test_a_run_needs_an_id(world: World, run_id: str) -> None:
    with pytest.raises(Invalid):
        Runs(world.host).start(make_spec(run_id=run_id), chunks(), LIFE)
    assert world.capacity.running == 0


async def test_a_full_host_refuses_and_nested_runs_pass(world: World) -> None:
    world.driver.app = hang
    runs = Runs(world.host)
    for _ in range(4):
        runs.start(make_spec(), chunks(), LIFE)
    with pytest.raises(Unavailable):
        runs.start(make_spec(), chunks(), LIFE)
    runs.start(make_spec(depth=1, synchronous=True), chunks(), LIFE)
    await runs.drain(0)


async def test_what_was_refused_stays_refused(world: World) -> None:
    """Somebody else may have it by the time when the same Start comes again, late."""
    world.driver.app = hang
    runs = Runs(world.host)
    spec = make_spec()
    others = [make_spec() for _ in range(4)]
    for other in others:
        runs.start(other, chunks(), LIFE)
    with pytest.raises(Unavailable, match="room"):
        runs.start(spec, chunks(), LIFE)
    for other in others:
        runs.stop(other.run_id, STOPPED)
    await until(lambda: len(world.reporter.ended) == 4)
    with pytest.raises(Unavailable, match="refused") as refused:
        runs.start(spec, chunks(), LIFE)
    assert refused.value.retry_after
    runs.start(replace(spec, epoch=spec.epoch + 1), chunks(), LIFE)
    await runs.drain(0)


async def test_a_start_for_another_life_says_nothing_of_what_that_one_did(world: World) -> None:
    """By these words the scheduler knows it (scheduler/dispatch.py)."""
    with pytest.raises(Unavailable, match="another life of this executor") as refused:
        Runs(world.host).start(make_spec(), chunks(), "inc_before")
    assert refused.value.message.startswith(OTHER_LIFE)
    assert refused.value.retry_after is None


async def test_nothing_is_taken_on_when_nobody_takes_reports(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(world.reporter), "overdue", True)
    with pytest.raises(Unavailable) as refused:
        Runs(world.host).start(make_spec(), chunks(), LIFE)
    assert refused.value.retry_after  # else whoever asks can't know that nothing was begun


async def test_nothing_is_taken_on_when_no_sandbox_can_be_had(world: World) -> None:
    world.driver.lost = True
    with pytest.raises(Unavailable) as refused:
        Runs(world.host).start(make_spec(), chunks(), LIFE)
    assert refused.value.retry_after


async def test_a_failure_of_its_own_isnt_handed_back(world: World) -> None:
    """It is over, and only its answer is still being kept, when the time of a drain is up."""
    keeping, kept = asyncio.Event(), asyncio.Event()
    put = world.blobs.put

    async def slowly(chunks: Iterator[bytes]) -> str:
        keeping.set()
        await kept.wait()
        return await put(chunks)

    world.blobs.put = slowly  # type: ignore[method-assign]
    world.driver.app = answering(b"x" * 100_000, status=500)
    runs, spec = Runs(world.host), make_spec()
    runs.start(spec, chunks(), LIFE)
    await keeping.wait()
    draining = asyncio.create_task(runs.drain(0))
    await asyncio.sleep(0.05)
    kept.set()
    await draining
    (ended,) = world.reporter.ended
    assert (ended.outcome.status, ended.handed_back) == (Status.FAILED, False)


async def test_draining_lets_runs_end_and_kills_the_rest(world: World) -> None:
    go_on = asyncio.Event()

    async def app(sandbox: FakeSandbox, request: Head, body: AsyncIterator[bytes]) -> AsyncIterator[Event]:
        await (go_on if request.path == "/quick" else asyncio.Event()).wait()
        async for event in answering()(sandbox, request, body):
            yield event

    world.driver.app = app
    runs = Runs(world.host)
    quick, slow = make_spec(), make_spec()
    quick = replace(quick, request=replace(quick.request, path="/quick"))
    runs.start(quick, chunks(), LIFE)
    runs.start(slow, chunks(), LIFE)
    draining = asyncio.create_task(runs.drain(0.2))
    await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        runs.start(make_spec(), chunks(), LIFE)
    go_on.set()
    await draining
    outcomes = {ended.run_id: ended.outcome for ended in world.reporter.ended}
    assert outcomes[quick.run_id].status is Status.SUCCEEDED
    assert (outcomes[slow.run_id].code, outcomes[slow.run_id].detail) == (SHUT_DOWN.code, SHUT_DOWN.detail)
    assert world.driver.running == 0
