"""Money and the runs of a host: who is taken on, what is reported, what goes back."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from executor.answer import WholeAnswer
from executor.bill import Budget, Line
from executor.cgroups import Usage
from executor.metering import LOOK_SECONDS
from executor.model import Outcome, Status
from executor.runs import SHUT_DOWN, Runs
from executor.sandbox import AnswerEnd, Event, Finished, Head
from kit.errors import Conflict, Exhausted, Unavailable
from tests.fakes.executor import LIFE, World, chunks, make_spec
from tests.fakes.ledger import price
from tests.fakes.sandbox import FakeSandbox, hang

ORG = "org_caller"
STOPPED = Outcome(Status.CANCELLED, "cancelled", "by its caller")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """The host's own limits: two processors' worth of nothing else costs anything."""
    world = World(tmp_path)
    world.host = replace(world.host, limits=replace(world.host.limits, cpu=2.0))
    world.ledger.listed = [price("run", 1000), price("cpu", 1)]
    world.ledger.credit[ORG] = 1_000_000
    await world.prices.fetch()
    yield world
    for purse in world.purses:
        await purse.close()


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110  # a fake tells nobody
            await asyncio.sleep(0.002)


def spent(world: World) -> int:
    return sum(world.ledger.purses.values()) - sum(purse.free for purse in world.purses)


async def test_a_run_reports_what_it_costs(world: World) -> None:
    world.driver.used = Usage(0.25, 1 << 20)
    spec = make_spec(attempt=1, budgets=(Budget("key:1", 10**6),))
    assert isinstance(await Runs(world.host).ask(spec, chunks()), WholeAnswer)
    await until(lambda: world.reporter.ended)
    bill = world.reporter.ended[0].bill
    assert bill is not None
    assert (bill.run_id, bill.attempt, bill.amount) == (spec.run_id, 1, 1250)
    assert bill.lines == (Line("run", 1, 1000), Line("cpu", 250, 250))
    assert spent(world) == 1250


async def test_an_answer_that_is_no_result_is_refused_where_success_decides(world: World) -> None:
    async def app(_sandbox: FakeSandbox, _request: Head, _body: AsyncIterator[bytes]) -> AsyncIterator[Event]:
        yield Head([(b"content-type", b"text/event-stream")], status=200)
        yield b"event: error\n\n"
        yield AnswerEnd()
        yield Finished()

    world.driver.app = app
    root = make_spec(charged_on_success=True)
    for spec in (root, replace(make_spec(), charged_on_success=True, root_id=root.run_id), make_spec()):
        Runs(world.host).start(spec, chunks(), LIFE)
        await until(lambda: world.reporter.ended and world.reporter.ended[-1].run_id == spec.run_id)  # noqa: B023
    assert [ended.outcome.status for ended in world.reporter.ended] == [Status.SUCCEEDED] * 3
    assert [ended.refused for ended in world.reporter.ended] == [True, False, False]


async def test_what_cant_be_paid_leaves_no_record(world: World) -> None:
    world.ledger.credit[ORG] = 10_999  # a fee, and a step of five seconds of two processors
    for asked in (Runs(world.host).ask(make_spec(), chunks()), anext(Runs(world.host).call(make_spec(), chunks()))):
        with pytest.raises(Exhausted) as refused:
            await asked
        assert refused.value.code == "payment_required"
    assert world.reporter.told == []
    assert world.driver.started == []
    assert world.capacity.running == 0
    assert spent(world) == 0


async def test_on_the_durable_way_it_ends_without_a_sandbox(world: World) -> None:
    world.ledger.credit[ORG] = 10_999
    spec = make_spec(synchronous=False, retries=3)
    Runs(world.host).start(spec, chunks(), LIFE)
    await until(lambda: world.reporter.ended)
    assert (world.outcome.status, world.outcome.code) == (Status.FAILED, "payment_required")
    assert world.lines.ended == [spec.run_id]  # no other attempt follows
    assert world.reporter.ended[0].bill is None
    assert world.driver.started == []
    assert spent(world) == 0


async def test_while_the_ledger_is_away_the_caller_may_go_elsewhere(world: World) -> None:
    world.ledger.away = True
    asked = asyncio.create_task(Runs(world.host).ask(make_spec(), chunks()))
    while not asked.done():
        await world.clock.advance(0.5)
    with pytest.raises(Unavailable) as refused:
        await asked
    assert refused.value.retry_after is not None  # nothing has begun
    assert world.reporter.told == []


async def test_on_the_durable_way_that_is_our_failure(world: World) -> None:
    world.ledger.away = True
    Runs(world.host).start(make_spec(), chunks(), LIFE)
    while not world.reporter.ended:
        await world.clock.advance(0.5)
    assert world.outcome.code == "unavailable"


async def test_what_isnt_taken_on_costs_nothing(world: World) -> None:
    world.driver.app = hang
    runs = Runs(world.host)
    specs = [make_spec() for _ in range(5)]  # one more than there is room for
    asked = [asyncio.create_task(runs.ask(spec, chunks())) for spec in specs]
    await until(lambda: world.driver.running == 4)
    with pytest.raises(Unavailable):
        await asked[4]
    with pytest.raises(Conflict):
        await runs.ask(specs[0], chunks())
    assert spent(world) == 4 * 11_000
    for task in asked[:4]:
        task.cancel()
    await until(lambda: len(world.reporter.ended) == 4)
    assert spent(world) == 4 * 1000


async def test_the_same_run_twice_at_once_is_taken_on_once(world: World) -> None:
    runs, spec = Runs(world.host), make_spec()
    world.driver.app = hang
    world.ledger.gate = asyncio.Event()
    asked = [asyncio.create_task(runs.ask(spec, chunks())) for _ in range(2)]
    await asyncio.sleep(0)
    world.ledger.gate.set()
    with pytest.raises(Conflict):
        await asked[1]
    assert spent(world) == 11_000
    runs.stop(spec.run_id, STOPPED)
    assert await asked[0] == STOPPED


async def test_who_hangs_up_before_it_begins_pays_nothing(world: World) -> None:
    world.ledger.gate = asyncio.Event()
    asked = asyncio.create_task(Runs(world.host).ask(make_spec(), chunks()))
    await until(lambda: world.ledger.draws)
    asked.cancel()
    world.ledger.gate.set()
    await asyncio.gather(asked, return_exceptions=True)
    assert spent(world) == 0
    assert world.reporter.told == []


async def test_a_run_that_spends_its_budget_is_stopped(world: World) -> None:
    world.driver.app = hang
    Runs(world.host).start(make_spec(budgets=(Budget("run:1", 20_000),)), chunks(), LIFE)
    await until(lambda: world.driver.running)
    for second in range(1, 30):
        world.driver.used = Usage(2.0 * second, 1)
        await world.clock.advance(LOOK_SECONDS)
        world.host.metering.once()
        await world.clock.advance(0)
        if world.reporter.ended:
            break
    await until(lambda: world.reporter.ended)
    assert world.outcome.code == "payment_required"
    assert world.driver.running == 0
    bill = world.reporter.ended[0].bill
    assert bill is not None
    assert bill.amount == world.ledger.used["run:1"] == 20_000


async def test_where_nobody_can_tell_the_worst_is_taken_and_the_rest_goes_back(world: World) -> None:
    go_on = asyncio.Event()

    async def app(_sandbox: FakeSandbox, _request: Head, _body: AsyncIterator[bytes]) -> AsyncIterator[Event]:
        await go_on.wait()
        yield Head([(b"content-length", b"0")], status=200)
        yield AnswerEnd()
        yield Finished()

    world.driver.app = app
    Runs(world.host).start(make_spec(), chunks(), LIFE)
    await until(lambda: world.driver.running)
    await world.clock.advance(20)
    world.host.metering.once()
    await world.clock.advance(0)
    assert spent(world) == 1000 + 2000 * 25
    go_on.set()
    await until(lambda: world.reporter.ended)
    assert spent(world) == 1000


async def test_what_is_handed_back_has_a_bill_like_any_other(world: World) -> None:
    """That it isn't charged is the scheduler's to say."""
    world.driver.app = hang
    runs = Runs(world.host)
    runs.start(make_spec(), chunks(), LIFE)
    await until(lambda: world.driver.running)
    await runs.drain(0)
    ended = world.reporter.ended[0]
    assert (ended.outcome.code, ended.handed_back) == (SHUT_DOWN.code, True)
    assert ended.bill is not None
    assert ended.bill.amount == spent(world) == 1000


async def test_nothing_that_was_taken_is_lost_when_the_executor_breaks_off(world: World) -> None:
    world.driver.never_ready = True
    runs = Runs(world.host)
    runs.start(make_spec(), chunks(), LIFE)
    await until(lambda: world.driver.running)
    for task in list(runs._tasks):
        task.cancel()
    await until(lambda: not runs._tasks)
    assert world.reporter.ended == []
    assert spent(world) == 0


async def test_while_the_ledger_is_away_runs_wait_where_they_are(world: World) -> None:
    """Each that was taken on would lose an attempt, and in the end all of them."""
    runs, world.ledger.away = Runs(world.host), True
    runs.start(make_spec(synchronous=False), chunks(), LIFE)
    await until(lambda: world.host.metering.away)
    with pytest.raises(Unavailable) as refused:
        runs.start(make_spec(synchronous=False), chunks(), LIFE)
    assert refused.value.retry_after
    with pytest.raises(Unavailable):
        await world.purses.once()
    world.ledger.away = False
    await world.purses.once()
    runs.start(make_spec(synchronous=False), chunks(), LIFE)
    await world.clock.advance(2)
    await until(lambda: len(world.reporter.ended) == 2)
