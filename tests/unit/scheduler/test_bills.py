import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from mesh.ledger.v1 import ledger_pb2
from mesh.runs.v1 import run_pb2, runs_pb2

from kit.errors import Invalid, Unavailable
from scheduler import bill_wire, wire
from scheduler.bill import Bill
from scheduler.billing import UNBILLED, Billing, Budget
from scheduler.bills import AGAIN_SECONDS, GATHER_SECONDS, LOOK_SECONDS, LOST, MOST_AT_ONCE, MOST_HELD, Bills
from scheduler.model import CANCELLED, TIMED_OUT, Outcome, Run, Status
from scheduler.model import LOST as LOST_RUN
from scheduler.report import Batch, Ended, Started
from scheduler.result import Answer, Result
from scheduler.settle import settle
from tests.fakes.memory_runs import MemoryTx
from tests.fakes.scheduler_rig import Scheduler
from tests.fakes.scheduling import HOME, START, a_run, settled

ON_SUCCESS = Billing(charged_on_success=True)
DONE = Outcome(Status.SUCCEEDED)
CRASH = Outcome(Status.FAILED, "workflow_crashed", "it died")
# Its budget, or the credit, came to an end while it ran.
STOPPED = Outcome(Status.FAILED, "payment_required")
BROKE = Outcome(Status.FAILED, "payment_required", "it can't pay")
OUR_FAULT = Outcome(Status.FAILED, "runtime_error", "we failed")


def a_bill(run: Run, charge: int = 7, purse: str = "prs_1") -> Bill:
    return Bill(run.id, run.attempt, purse, run.root_id, charge, b"payload")


def ended(run: Run, outcome: Outcome = DONE, charge: int = 7, **changes: Any) -> Ended:
    return replace(Ended(run.id, run.attempt, run.epoch, outcome, START, bill=a_bill(run, charge)), **changes)


def batch(*facts: Started | Ended, executor: str = HOME) -> Batch:
    first = [fact for fact in facts if isinstance(fact, Started)]
    return Batch(executor, "one", first, [fact for fact in facts if isinstance(fact, Ended)])


def bills(scheduler: Scheduler) -> dict[tuple[str, int], tuple[int, bool]]:
    """(charge, held) by run and attempt."""
    return {key[:2]: (bill.charge, bill.held) for key, bill in scheduler.store.state.bills.items()}


@pytest.mark.parametrize("outcome", [DONE, CRASH, BROKE, CANCELLED, TIMED_OUT])
async def test_what_ran_is_charged(scheduler: Scheduler, outcome: Outcome) -> None:
    await scheduler.accepted(run := a_run())
    await scheduler.report(batch(ended(run, outcome)))
    assert bills(scheduler) == {(run.id, 1): (7, False)}
    assert scheduler.run(run.id).cost_own == 7


@pytest.mark.parametrize("code", ["runtime_error", "unavailable"])
async def test_what_the_platform_failed_isnt(scheduler: Scheduler, code: str) -> None:
    await scheduler.accepted(run := a_run(synchronous=True))
    await scheduler.report(batch(ended(run, Outcome(Status.FAILED, code))))
    assert bills(scheduler) == {(run.id, 1): (0, False)}
    assert scheduler.run(run.id).cost_own == 0


async def test_what_is_handed_back_isnt(scheduler: Scheduler) -> None:
    await scheduler.accepted(run := a_run())
    await scheduler.report(batch(ended(run, CRASH, handed_back=True)))
    assert bills(scheduler) == {(run.id, 1): (0, False)}


async def test_each_attempt_that_the_workflow_failed_is_charged(scheduler: Scheduler) -> None:
    await scheduler.accepted(run := a_run(retries=2))
    for outcome, charge in ((CRASH, 3), (OUR_FAULT, 50), (CRASH, 5), (DONE, 9)):
        await scheduler.report(batch(ended(scheduler.run(run.id), outcome, charge)))
    after = scheduler.run(run.id)
    assert (after.status, after.attempt, after.cost_own) == (Status.SUCCEEDED, 4, 17)
    assert [charge for charge, _ in bills(scheduler).values()] == [3, 0, 5, 9]


async def test_what_cant_be_paid_isnt_tried_again(scheduler: Scheduler) -> None:
    await scheduler.accepted(run := a_run(retries=2))
    await scheduler.report(batch(ended(run, BROKE)))
    assert (scheduler.run(run.id).status, scheduler.run(run.id).code) == (Status.FAILED, "payment_required")


async def test_a_report_that_comes_twice_is_charged_once(scheduler: Scheduler) -> None:
    await scheduler.accepted(run := a_run())
    for _ in range(2):
        await scheduler.report(batch(ended(run)))
    assert bills(scheduler) == {(run.id, 1): (7, False)}
    await scheduler.bills.once()
    await scheduler.report(batch(ended(run)))  # its bill was sent already
    await scheduler.bills.once()
    (booked,) = scheduler.ledger.booked.values()
    assert booked.charge == scheduler.run(run.id).cost_own == 7


async def test_what_was_given_away_frees_what_had_been_taken(scheduler: Scheduler) -> None:
    run = a_run(attempt=2, epoch=5).started(executor=HOME, incarnation="one", at=START)
    await scheduler.accepted(run)
    before = replace(run, attempt=1, epoch=4)
    unknown = a_run()
    assert await scheduler.report(batch(ended(before), ended(unknown))) == [run.id, unknown.id]
    assert bills(scheduler) == {(run.id, 1): (0, False), (unknown.id, 1): (0, False)}
    assert await scheduler.report(batch(ended(run), executor="unix:b")) == [run.id]
    assert bills(scheduler)[run.id, 2] == (0, False)
    assert scheduler.run(run.id).cost_own == 0


def a_tree() -> tuple[Run, Run]:
    root = a_run(billing=ON_SUCCESS)
    below = replace(ON_SUCCESS, above=(root.id,))
    return root, a_run(billing=below, root_id=root.id, parent_id=root.id, depth=1)


@pytest.mark.parametrize(("outcome", "charge"), [(DONE, 7), (STOPPED, 7), (CRASH, 0), (CANCELLED, 0), (OUR_FAULT, 0)])
@pytest.mark.parametrize("order", ["nested first", "root first", "together", "together, root first"])
async def test_where_only_success_is_charged_all_waits_for_the_root(
    scheduler: Scheduler, outcome: Outcome, charge: int, order: str
) -> None:
    root, nested = (replace(run, synchronous=True) for run in a_tree())
    await scheduler.accepted(root, nested)
    root_ended, nested_ended = ended(root, outcome), ended(nested)
    if order == "nested first":
        await scheduler.report(batch(nested_ended))
        assert bills(scheduler) == {(nested.id, 1): (7, True)}
        assert scheduler.run(nested.id).cost_own == 7
        await scheduler.report(batch(root_ended))
    elif order == "root first":
        await scheduler.report(batch(root_ended))
        await scheduler.report(batch(nested_ended))
    else:
        await scheduler.report(
            batch(*((nested_ended, root_ended) if order == "together" else (root_ended, nested_ended)))
        )
    assert bills(scheduler) == {(root.id, 1): (charge, False), (nested.id, 1): (charge, False)}
    assert [scheduler.run(run.id).cost_own for run in (root, nested)] == [charge, charge]
    assert (await scheduler.store.costs_below([root.id])).get(root.id, 0) == charge


@pytest.mark.parametrize("order", ["nested first", "root first", "together"])
async def test_an_answer_of_400_or_more_is_no_success(scheduler: Scheduler, order: str) -> None:
    root, nested = (replace(run, synchronous=True) for run in a_tree())
    await scheduler.accepted(root, nested)
    facts = [ended(nested), ended(root, result=Result(Answer(b""), refused=True))]
    facts = facts[::-1] if order == "root first" else facts
    for facts_of_one in [facts] if order == "together" else [[fact] for fact in facts]:
        await scheduler.report(batch(*facts_of_one))
    assert scheduler.run(root.id).status is Status.SUCCEEDED
    assert bills(scheduler) == {(root.id, 1): (0, False), (nested.id, 1): (0, False)}
    assert [scheduler.run(run.id).cost_own for run in (root, nested)] == [0, 0]
    assert (await scheduler.store.costs_below([root.id])).get(root.id, 0) == 0


async def test_elsewhere_what_ran_is_charged_whatever_it_answered(scheduler: Scheduler) -> None:
    root = a_run()
    nested = a_run(billing=ON_SUCCESS, root_id="run_of_api", parent_id="run_of_api", depth=1)
    await scheduler.accepted(root, nested, replace(a_tree()[0], id="run_of_api").ended(DONE, at=START))
    await scheduler.report(batch(*(ended(run, result=Result(Answer(b""), refused=True)) for run in (root, nested))))
    assert bills(scheduler) == {(root.id, 1): (7, False), (nested.id, 1): (7, False)}


@pytest.mark.parametrize(("seconds", "charge"), [(-5, 0), (9, 0), (11, 7)])
@pytest.mark.parametrize("outcome", [DONE, CRASH, CANCELLED])
async def test_what_outlives_a_root_that_failed_is_charged(
    scheduler: Scheduler, outcome: Outcome, seconds: int, charge: int
) -> None:
    """Else whoever lets a root fail could go on for nothing, for half an hour."""
    root, nested = a_tree()
    await scheduler.accepted(replace(root, synchronous=True), nested)
    await scheduler.report(batch(ended(root, CRASH)))
    await scheduler.report(batch(ended(nested, outcome, at=START + timedelta(seconds=seconds))))
    assert bills(scheduler) == {(root.id, 1): (0, False), (nested.id, 1): (charge, False)}
    assert [scheduler.run(run.id).cost_own for run in (root, nested)] == [0, charge]
    assert (await scheduler.store.costs_below([root.id])).get(root.id, 0) == charge


async def test_a_nested_failure_under_a_success_is_charged(scheduler: Scheduler) -> None:
    root, nested = a_tree()
    await scheduler.accepted(root, nested)
    await scheduler.report(batch(ended(nested, CRASH), ended(root)))
    assert bills(scheduler) == {(root.id, 1): (7, False), (nested.id, 1): (7, False)}


async def test_attempts_of_a_root_wait_for_the_last(scheduler: Scheduler) -> None:
    root = a_run(billing=ON_SUCCESS, retries=1)
    await scheduler.accepted(root)
    await scheduler.report(batch(ended(root, CRASH)))
    assert bills(scheduler) == {(root.id, 1): (7, True)}
    assert scheduler.run(root.id).cost_own == 7
    await scheduler.report(batch(ended(scheduler.run(root.id), CRASH)))
    assert bills(scheduler) == {(root.id, 1): (0, False), (root.id, 2): (0, False)}
    assert scheduler.run(root.id).cost_own == 0


async def test_a_root_that_others_end_lets_go_as_well(scheduler: Scheduler) -> None:
    root, nested = a_tree()
    await scheduler.accepted(root, nested)
    await scheduler.report(batch(ended(nested)))
    await scheduler.store.write(lambda tx: settle(tx, [root.id], TIMED_OUT, START))
    assert bills(scheduler) == {(nested.id, 1): (0, False)}
    assert scheduler.run(nested.id).cost_own == 0


async def test_a_root_of_the_direct_way_is_known_after_what_it_called(scheduler: Scheduler) -> None:
    root, nested = a_tree()
    await scheduler.report(batch(Started(nested.id, START, 1, 0, nested), ended(nested)))
    assert bills(scheduler) == {(nested.id, 1): (7, True)}
    await scheduler.report(batch(Started(root.id, START, 1, 0, root), ended(root)))
    assert bills(scheduler) == {(root.id, 1): (7, False), (nested.id, 1): (7, False)}


@pytest.mark.parametrize(("outcome", "charge"), [(DONE, 7), (CRASH, 0)])
async def test_what_is_held_although_its_root_is_over_is_let_go(
    scheduler: Scheduler, outcome: Outcome, charge: int
) -> None:
    """Another scheduler was committing the end when the bill was kept."""
    root, nested = a_tree()
    await scheduler.accepted(root.ended(outcome, at=START), replace(nested, cost_own=7))
    lost, waiting = a_tree()[1], a_tree()
    await scheduler.accepted(*waiting)

    async def keep(tx: MemoryTx) -> None:
        await tx.keep_bills([replace(a_bill(run), held=True, created_at=START) for run in (nested, lost, waiting[1])])

    await scheduler.store.write(keep)
    await scheduler.bills.release()
    assert bills(scheduler)[nested.id, 1] == (charge, False)
    assert bills(scheduler)[lost.id, 1] == bills(scheduler)[waiting[1].id, 1] == (7, True)
    assert scheduler.run(nested.id).cost_own == charge
    await scheduler.clock.advance(LOST.total_seconds() + 1)
    await scheduler.bills.release()
    assert bills(scheduler)[lost.id, 1] == (0, False)
    assert bills(scheduler)[waiting[1].id, 1] == (7, True)


async def test_what_is_held_for_a_root_that_never_comes_hangs_no_longer_than_a_purse(scheduler: Scheduler) -> None:
    """A root of the direct way was lost with its executor, in its first moments; what it had called has gone on."""
    nested = a_tree()[1]
    await scheduler.accepted(nested)
    await scheduler.report(batch(ended(nested)))
    assert (bills(scheduler), scheduler.run(nested.id).cost_own) == ({(nested.id, 1): (7, True)}, 7)
    await scheduler.clock.advance(61)
    await scheduler.bills.release()
    assert (bills(scheduler), scheduler.run(nested.id).cost_own) == ({(nested.id, 1): (0, False)}, 0)


async def test_a_root_may_be_told_of_late_when_we_were_away(scheduler: Scheduler) -> None:
    root, nested = a_tree()
    await scheduler.accepted(nested)
    await scheduler.report(batch(ended(nested)))
    await scheduler.clock.advance(LOST.total_seconds() + 1)
    again = Bills(scheduler.store, scheduler.ledger, scheduler.clock)
    await again.release()
    assert bills(scheduler) == {(nested.id, 1): (7, True)}
    await scheduler.report(batch(Started(root.id, START, 1, 0, root), ended(root)))
    assert bills(scheduler) == {(root.id, 1): (7, False), (nested.id, 1): (7, False)}


async def test_roots_that_never_come_keep_nobody_up(scheduler: Scheduler) -> None:
    """However many: they are let go of in turn, when they can't come any more."""
    root, nested = a_tree()
    await scheduler.accepted(root.ended(DONE, at=START), nested)
    lost = [a_tree()[1] for _ in range(MOST_HELD + 5)]

    async def keep(tx: MemoryTx) -> None:
        await tx.keep_bills([replace(a_bill(run), held=True, created_at=START) for run in lost])
        await tx.keep_bills([replace(a_bill(nested), held=True, created_at=START + timedelta(seconds=1))])

    await scheduler.store.write(keep)
    await scheduler.bills.release()
    assert bills(scheduler)[nested.id, 1] == (7, False)
    assert sum(held for _, held in bills(scheduler).values()) == len(lost)
    await scheduler.clock.advance(LOST.total_seconds() + 1)
    await scheduler.bills.release()
    assert sum(held for _, held in bills(scheduler).values()) == 5
    await scheduler.bills.release()
    assert sum(held for _, held in bills(scheduler).values()) == 0


async def kept(scheduler: Scheduler, *runs: Run) -> None:
    await scheduler.accepted(*runs)
    await scheduler.report(batch(*(ended(run) for run in runs)))


async def test_bills_are_sent_in_batches_soon_and_forgotten(scheduler: Scheduler) -> None:
    loop = asyncio.create_task(scheduler.bills.run())
    await settled()
    await scheduler.clock.advance(GATHER_SECONDS)
    runs = [a_run() for _ in range(MOST_AT_ONCE + 3)]
    await kept(scheduler, *runs)
    await settled()
    assert scheduler.ledger.calls == [MOST_AT_ONCE, 3]
    assert scheduler.store.state.bills == {}
    await kept(scheduler, a_run())
    await settled()
    assert len(scheduler.ledger.calls) == 2  # they keep their distance
    await scheduler.clock.advance(GATHER_SECONDS)
    await settled()
    assert scheduler.ledger.calls[2:] == [1]
    loop.cancel()


async def test_they_are_sent_until_they_are_taken(scheduler: Scheduler) -> None:
    loop = asyncio.create_task(scheduler.bills.run())
    scheduler.ledger.fails = [Unavailable("keys is away")] * 3
    await kept(scheduler, a_run())
    for _ in range(3):
        await settled()
        assert len(scheduler.store.state.bills) == 1
        await scheduler.clock.advance(AGAIN_SECONDS)
    await settled()
    assert scheduler.store.state.bills == {}
    assert scheduler.ledger.calls == [1] * 4
    assert len(scheduler.ledger.booked) == 1
    loop.cancel()


async def test_a_bill_that_is_refused_keeps_nobody_else_up(scheduler: Scheduler) -> None:
    runs = [a_run() for _ in range(3)]
    scheduler.ledger.refuses = {runs[1].id}
    await kept(scheduler, *runs)
    assert await scheduler.bills.once() == 3
    assert {key[0] for key in scheduler.ledger.booked} == {runs[0].id, runs[2].id}
    assert scheduler.store.state.bills == {}


async def test_what_nobody_told_of_is_found(scheduler: Scheduler) -> None:
    loop = asyncio.create_task(scheduler.bills.run())
    await settled()
    await scheduler.clock.advance(GATHER_SECONDS)
    bill = a_bill(a_run())
    await scheduler.store.write(lambda tx: tx.keep_bills([bill]))
    await scheduler.clock.advance(LOOK_SECONDS)
    await settled()
    assert list(scheduler.ledger.booked.values()) == [bill]
    loop.cancel()


def test_a_bill_is_of_its_attempt_whatever_it_says() -> None:
    told = ledger_pb2.Bill(run_id="run_x", attempt=9, purse_id="prs_1", reserved=5, charge=9, organization_id="org_a")
    message = runs_pb2.RunEnded(
        run_id="run_1", attempt=2, outcome=run_pb2.Outcome(status=run_pb2.RUN_STATUS_SUCCEEDED), bill=told
    )
    bill = wire.ended(message).bill
    assert bill is not None
    assert (bill.run_id, bill.attempt, bill.root_id, bill.charge) == ("run_1", 2, "run_1", 5)
    (sent,) = bill_wire.settlement([bill.free()]).bills
    assert (sent.run_id, sent.attempt, sent.charge, sent.reserved, sent.organization_id) == ("run_1", 2, 0, 5, "org_a")
    message.bill.purse_id = ""
    assert wire.ended(message).bill is None
    for status, refused in ((200, False), (399, False), (400, True), (599, True)):
        message.answer.head.status = status
        assert wire.ended(message).result.refused is refused
    message.ClearField("bill")
    assert wire.ended(message).bill is None


def test_who_pays_travels_with_the_run() -> None:
    spec = run_pb2.RunSpec(
        run_id="run_1",
        owner_id="o",
        caller_id="c",
        service_id="s",
        version_id="v",
        budgets=[ledger_pb2.Budget(id="key:1", limit=5)],
        paying_key_id="key_1",
        charged_on_success=True,
    )
    started = wire.started(runs_pb2.RunStarted(spec=spec)).run
    submission = wire.submission(runs_pb2.SubmitRequest(spec=spec), "")
    for one in (started, submission):
        assert one is not None
        assert one.billing == Billing((Budget("key:1", 5),), "key_1", charged_on_success=True)
    spec.budgets.extend([ledger_pb2.Budget(id="x")] * 17)
    with pytest.raises(Invalid):
        wire.submission(runs_pb2.SubmitRequest(spec=spec), "")


def test_lost_runs_have_no_bill() -> None:
    run = a_run(billing=ON_SUCCESS, cost_own=5, attempt=9, deadline=START + timedelta(seconds=1))
    assert run.attempted(LOST_RUN, at=START).cost_own == 0
    assert replace(run, billing=UNBILLED).attempted(LOST_RUN, at=START).cost_own == 5
