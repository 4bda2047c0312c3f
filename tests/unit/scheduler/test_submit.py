from datetime import timedelta

import pytest

from kit.errors import Conflict, Exhausted, Invalid, NotFound, Problem, Unauthenticated
from scheduler.model import CANCELLED, Asker, Outcome, RunQueued, Status
from scheduler.result import Result
from scheduler.usage import Usage
from tests.fakes.scheduler_rig import Scheduler
from tests.fakes.scheduling import HOME, START, a_run, a_submission


async def test_a_run_is_accepted(scheduler: Scheduler) -> None:
    run = await scheduler.submitted(a_submission(timeout=timedelta(seconds=7)))
    assert scheduler.run(run.id) == run
    assert run.status is Status.QUEUED
    assert run.deadline == START + timedelta(seconds=7)
    assert run.correlation_id == run.root_id == run.id
    assert scheduler.store.state.events == [RunQueued(run.id)]


async def test_the_first_run_takes_the_provisioned_id_and_later_ones_hang_on_it(scheduler: Scheduler) -> None:
    provision = await scheduler.submit.provision("org_caller", "key_1")
    first = await scheduler.submitted(a_submission(provisioned_id=provision.id))
    await scheduler.clock.advance(2 * 3600)
    second = await scheduler.submitted(a_submission(provisioned_id=provision.id))
    assert first.id == provision.id
    assert second.id != provision.id
    assert first.provision_id == second.provision_id == provision.id


async def test_a_runs_own_id_is_no_provision_but_no_error_either(scheduler: Scheduler) -> None:
    """The npm client sends the id of its last asynchronous run with the next call."""
    first = await scheduler.submitted(a_submission())
    second = await scheduler.submitted(a_submission(provisioned_id=first.id))
    assert second.id != first.id
    assert second.provision_id == ""
    with pytest.raises(NotFound):
        await scheduler.submitted(a_submission(provisioned_id=first.id, caller_id="org_x", requester_id="org_x"))


@pytest.mark.parametrize("changes", [{"caller_id": "org_x", "requester_id": "org_x"}, {"provisioned_id": "run_other"}])
async def test_a_provisioned_id_must_be_ones_own(scheduler: Scheduler, changes: dict[str, str]) -> None:
    provision = await scheduler.submit.provision("org_caller", "")
    with pytest.raises(NotFound):
        await scheduler.submitted(a_submission(**{"provisioned_id": provision.id, **changes}))
    assert scheduler.store.state.run_rows == {}


async def test_an_id_provisioned_inside_a_run_counts_for_its_nested_calls(scheduler: Scheduler) -> None:
    provision = await scheduler.submit.provision("org_parent", "")
    run = await scheduler.submitted(a_submission(provisioned_id=provision.id, requester_id="org_parent", depth=1))
    assert run.id == provision.id


async def test_a_provisioned_id_expires(scheduler: Scheduler) -> None:
    provision = await scheduler.submit.provision("org_caller", "")
    await scheduler.clock.advance(3600)
    with pytest.raises(NotFound):
        await scheduler.submitted(a_submission(provisioned_id=provision.id))


async def test_a_one_time_key_starts_one_run(scheduler: Scheduler) -> None:
    await scheduler.submitted(a_submission(one_time_key_id="key_1"))
    with pytest.raises(Unauthenticated):
        await scheduler.submitted(a_submission(one_time_key_id="key_1"))
    assert len(scheduler.store.state.run_rows) == 1


async def test_a_used_one_time_key_provisions_nothing_more(scheduler: Scheduler) -> None:
    await scheduler.submit.provision("org_caller", "key_1")
    await scheduler.submitted(a_submission(one_time_key_id="key_1"))
    with pytest.raises(Unauthenticated):
        await scheduler.submit.provision("org_caller", "key_1")
    await scheduler.submitted(a_submission(key_id="key_2"))
    assert await scheduler.submit.provision("org_caller", "key_2")


@pytest.mark.parametrize(
    "changes",
    [{"provisioned_id": "run_x"}, {"version_id": "ver_x"}, {"timeout": timedelta(days=2)}, {"timeout": -timedelta(1)}],
)
async def test_a_refused_submit_spends_nothing(scheduler: Scheduler, changes: dict[str, object]) -> None:
    provision = await scheduler.submit.provision("org_caller", "")
    wanted = {"one_time_key_id": "key_1", "provisioned_id": provision.id}
    with pytest.raises((NotFound, Invalid)):
        await scheduler.submitted(a_submission(**{**wanted, **changes}))
    run = await scheduler.submitted(a_submission(**wanted))
    assert run.id == provision.id


KEYED = {"idempotency_key": "k", "fingerprint": "f"}


async def test_one_idempotency_key_is_one_run(scheduler: Scheduler) -> None:
    first = await scheduler.submitted(a_submission(**KEYED, one_time_key_id="key_1"))
    assert await scheduler.submit(a_submission(**KEYED, one_time_key_id="key_1")) == (first, False)
    with pytest.raises(Conflict):
        await scheduler.submit(a_submission(idempotency_key="k", fingerprint="g"))
    others = await scheduler.submitted(a_submission(**KEYED, caller_id="org_b", requester_id="org_b"))
    assert others.id != first.id
    await scheduler.clock.advance(24 * 3600)
    later = await scheduler.submitted(a_submission(idempotency_key="k", fingerprint="g"))
    assert later.id not in {first.id, others.id}
    assert len(scheduler.store.state.run_rows) == 3


@pytest.mark.parametrize(
    ("code", "used", "new"),
    [
        ("payment_required", Usage(), True),
        ("payment_required", None, True),
        ("payment_required", Usage(wall_seconds=1.5), False),
        ("workflow_crashed", Usage(), False),
    ],
)
async def test_what_could_not_be_paid_and_never_began_is_done_when_it_is_asked_for_again(
    scheduler: Scheduler, code: str, used: Usage | None, new: bool
) -> None:
    first = await scheduler.submitted(a_submission(**KEYED))
    ended = first.ended(Outcome(Status.FAILED, code), at=START, result=Result(usage=used))
    await scheduler.store.write(lambda tx: tx.save([ended]))
    again, is_new = await scheduler.submit(a_submission(**KEYED))
    assert (again.id != first.id) == is_new == new
    assert (await scheduler.submit(a_submission(**KEYED)))[0].id == again.id


async def test_a_refused_submission_keeps_no_idempotency_key(scheduler: Scheduler) -> None:
    with pytest.raises(NotFound):
        await scheduler.submit(a_submission(**KEYED, version_id="ver_x"))
    await scheduler.submitted(a_submission(idempotency_key="k", fingerprint="g"))


async def test_nothing_starts_below_what_was_cancelled(scheduler: Scheduler) -> None:
    root = await scheduler.submitted(a_submission())
    below = {"root_id": root.id, "parent_id": root.id, "depth": 1}
    await scheduler.submitted(a_submission(**below))
    await scheduler.cancel(Asker("org_caller"), root.id, CANCELLED)
    with pytest.raises(Conflict):
        await scheduler.submit(a_submission(**below))


async def test_nor_below_what_its_executor_is_about_to_end(scheduler: Scheduler) -> None:
    await scheduler.accepted(root := a_run().started(executor=HOME, incarnation="inc_1", at=START))
    await scheduler.cancel(Asker("org_caller"), root.id, CANCELLED)
    assert scheduler.run(root.id).status is Status.RUNNING
    with pytest.raises(Conflict):
        await scheduler.submit(a_submission(root_id=root.id, parent_id=root.id, depth=1))


async def test_a_synchronous_call_beyond_its_organizations_share_is_refused(scheduler: Scheduler) -> None:
    """It would hang in the queue. Nothing is written: its one-time key is unspent, its Idempotency-Key unknown."""
    scheduler = Scheduler(organization_runs=1)
    provision = await scheduler.submit.provision("org_caller", "key_1")
    call = {"synchronous": True}
    named = {"one_time_key_id": "key_1", "provisioned_id": provision.id}
    first = await scheduler.submitted(a_submission(**call, **KEYED))
    assert not first.placed  # there is room in its share, if on no executor: it waits
    await scheduler.store.write(lambda tx: tx.save([first.claimed("unix:a", "inc_1", START)]))
    for refused in (named, {"idempotency_key": "new", "fingerprint": "f"}):
        with pytest.raises(Exhausted) as problem:
            await scheduler.submit(a_submission(**call, **refused))
        assert (problem.value.code, bool(problem.value.retry_after)) == ("too_many_runs", True)
    assert len(scheduler.store.state.run_rows) == len(scheduler.store.state.keys) == 1
    known, new = await scheduler.submit(a_submission(**call, **KEYED))
    assert (known.id, new) == (first.id, False)
    with pytest.raises(Conflict):
        await scheduler.submit(a_submission(**call, idempotency_key="k", fingerprint="g"))
    await scheduler.submitted(a_submission())
    await scheduler.submitted(a_submission(**call, depth=1))
    await scheduler.submitted(a_submission(**call, caller_id="org_other", requester_id="org_other"))
    await scheduler.store.write(lambda tx: tx.save([scheduler.run(first.id).ended(CANCELLED, at=START)]))
    assert (await scheduler.submitted(a_submission(**call, **named))).id == provision.id


async def test_an_idempotency_key_finds_its_run_though_the_queue_is_full(scheduler: Scheduler) -> None:
    scheduler = Scheduler(organization_queue=1)
    run = await scheduler.submitted(a_submission(**KEYED))
    with pytest.raises(Exhausted):
        await scheduler.submit(a_submission(idempotency_key="new", fingerprint="f"))
    assert await scheduler.submit(a_submission(**KEYED)) == (run, False)


async def test_a_provision_needs_an_organization(scheduler: Scheduler) -> None:
    with pytest.raises(Problem):
        await scheduler.submit.provision("", "")
