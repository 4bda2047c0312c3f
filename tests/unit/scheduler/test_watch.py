import asyncio

import pytest

from kit.errors import NotFound
from scheduler.bill import Bill
from scheduler.billing import Billing
from scheduler.model import CANCELLED, Asker, History, Outcome, Provision, Run, RunEnded, Status
from scheduler.result import Answer, Result
from tests.fakes.scheduler_rig import Scheduler
from tests.fakes.scheduling import HOME, START, a_run, a_submission, settled

ME = Asker("org_caller")
DONE = Outcome(Status.SUCCEEDED)


class Following:
    """A watcher as a task, and what it has seen."""

    def __init__(self, scheduler: Scheduler, asker: Asker, request_id: str) -> None:
        self.seen: list[Run | Provision] = []
        self.task = asyncio.create_task(self._follow(scheduler, asker, request_id))

    async def _follow(self, scheduler: Scheduler, asker: Asker, request_id: str) -> None:
        async for record in scheduler.watch.follow(asker, request_id):
            self.seen.append(record)

    def states(self) -> list[str]:
        return [record.status.name if isinstance(record, Run) else "PROVISIONED" for record in self.seen]


async def moved(scheduler: Scheduler, run: Run) -> None:
    await scheduler.store.write(lambda tx: tx.save([run]))
    await settled()


async def test_every_state_is_seen_until_the_end(scheduler: Scheduler) -> None:
    await scheduler.accepted(run := a_run())
    following = Following(scheduler, ME, run.id)
    await settled()
    running = run.started(executor=HOME, incarnation="", at=START)
    await moved(scheduler, running)
    await moved(scheduler, running.started(executor=HOME, incarnation="one", at=START))  # no news to a watcher
    await moved(scheduler, running.ended(DONE, at=START, result=Result(Answer(b"", b"x"))))
    await following.task
    assert following.states() == ["QUEUED", "RUNNING", "SUCCEEDED"]
    last = following.seen[-1]
    assert isinstance(last, Run)
    assert last.answer == Answer(b"", b"x")
    assert len(scheduler.notices) == 0


async def test_a_run_that_is_over_is_seen_once(scheduler: Scheduler) -> None:
    await scheduler.accepted(run := a_run().ended(DONE, at=START))
    assert [one async for one in scheduler.watch.follow(ME, run.id)] == [run]


async def test_a_slow_watcher_gets_the_newest_state(scheduler: Scheduler) -> None:
    await scheduler.accepted(run := a_run())
    watching = scheduler.watch.follow(ME, run.id)
    await anext(watching)
    running = run.started(executor=HOME, incarnation="", at=START)
    await moved(scheduler, running)
    await moved(scheduler, running.ended(DONE, at=START))
    rest = [one async for one in watching]
    assert [one.status for one in rest if isinstance(one, Run)] == [Status.SUCCEEDED]


async def test_a_provisioned_id_is_seen_becoming_a_run(scheduler: Scheduler) -> None:
    provision = await scheduler.submit.provision("org_caller", "")
    following = Following(scheduler, ME, provision.id)
    await settled()
    run = await scheduler.submitted(a_submission(provisioned_id=provision.id))
    await settled()
    await moved(scheduler, run.ended(DONE, at=START))
    await following.task
    assert following.states() == ["PROVISIONED", "QUEUED", "SUCCEEDED"]


async def test_a_later_run_of_the_id_takes_over_unless_the_very_run_is_meant(scheduler: Scheduler) -> None:
    provision = await scheduler.submit.provision("org_caller", "")
    first = await scheduler.submitted(a_submission(provisioned_id=provision.id))
    newest = Following(scheduler, ME, provision.id)
    exact = Following(scheduler, Asker("org_caller", exact=True), provision.id)
    await settled()
    await scheduler.clock.advance(1)
    second = await scheduler.submitted(a_submission(provisioned_id=provision.id))
    await settled()
    await moved(scheduler, second.ended(CANCELLED, at=START))
    await newest.task
    assert newest.states() == ["QUEUED", "QUEUED", "CANCELLED"]
    assert exact.states() == ["QUEUED"]
    await moved(scheduler, first.ended(DONE, at=START))
    await exact.task
    assert exact.states() == ["QUEUED", "SUCCEEDED"]


async def test_a_cancelled_provision_ends_the_watch(scheduler: Scheduler) -> None:
    provision = await scheduler.submit.provision("org_caller", "")
    following = Following(scheduler, ME, provision.id)
    await settled()
    await scheduler.cancel(ME, provision.id, CANCELLED)
    with pytest.raises(NotFound):
        await following.task


async def test_a_watcher_that_leaves_is_forgotten(scheduler: Scheduler) -> None:
    await scheduler.accepted(run := a_run())
    following = Following(scheduler, ME, run.id)
    await settled()
    assert len(scheduler.notices) == 1
    following.task.cancel()
    await asyncio.gather(following.task, return_exceptions=True)
    assert len(scheduler.notices) == 0


async def test_a_one_time_key_sees_its_run_and_its_id_only(scheduler: Scheduler) -> None:
    key, other = Asker("org_caller", "key_1"), Asker("org_caller", "key_2")
    provision = await scheduler.submit.provision("org_caller", "key_1")
    assert await scheduler.watch.get(key, provision.id) == provision
    run = await scheduler.submitted(a_submission(provisioned_id=provision.id, one_time_key_id="key_1"))
    await scheduler.clock.advance(1)
    later = await scheduler.submitted(a_submission(provisioned_id=provision.id))
    assert await scheduler.watch.get(key, provision.id) == run
    assert await scheduler.watch.get(ME, provision.id) == later
    for asker, request_id in ((other, provision.id), (other, run.id), (key, later.id)):
        with pytest.raises(NotFound):
            await scheduler.watch.get(asker, request_id)


async def test_ids_of_others_arent_found(scheduler: Scheduler) -> None:
    provision = await scheduler.submit.provision("org_caller", "")
    run = await scheduler.submitted(a_submission())
    for request_id in (provision.id, run.id, "run_x", "", "../x"):
        with pytest.raises(NotFound):
            await scheduler.watch.get(Asker("org_x"), request_id)
    await scheduler.clock.advance(3600)
    with pytest.raises(NotFound):
        await scheduler.watch.get(ME, provision.id)


async def test_history_says_where_to_go_on(scheduler: Scheduler) -> None:
    await scheduler.accepted(*(a_run() for _ in range(3)))
    page, after = await scheduler.watch.history(History("org_caller", limit=2))
    assert (len(page), after) == (2, page[-1].id)
    rest, end = await scheduler.watch.history(History("org_caller", limit=2, after=after))
    assert (len(rest), end) == (1, "")


async def test_what_a_run_costs_is_open_while_anything_below_it_goes_on(scheduler: Scheduler) -> None:
    root = a_run().ended(DONE, at=START)
    child = a_run(parent_id=root.id, root_id=root.id, depth=1).ended(DONE, at=START)
    grandchild = a_run(parent_id=child.id, root_id=root.id, depth=2)
    await scheduler.accepted(root, child, grandchild)
    assert await opened(scheduler, root, child, grandchild) == [True, True, True]
    await moved(scheduler, ended := grandchild.ended(DONE, at=START))
    assert await opened(scheduler, root, child, ended) == [False, False, False]


async def test_what_a_run_costs_is_open_until_its_root_says_whether_it_is_charged(scheduler: Scheduler) -> None:
    billing = Billing(charged_on_success=True)
    root = a_run(billing=billing).started(executor=HOME, incarnation="", at=START)
    child = a_run(billing=billing, parent_id=root.id, root_id=root.id, depth=1).ended(DONE, at=START)
    await scheduler.accepted(root, child)
    bill = Bill(child.id, 1, "prs_1", root.id, 5, b"", held=True)
    await scheduler.store.write(lambda tx: tx.keep_bills([bill]))
    assert await opened(scheduler, root, child) == [True, True]
    over = root.ended(DONE, at=START)
    await scheduler.store.write(lambda tx: tx.save([over]))
    await scheduler.store.write(lambda tx: tx.tell([RunEnded(over)]))
    assert await opened(scheduler, over, child) == [False, False]


async def opened(scheduler: Scheduler, *runs: Run) -> list[bool]:
    return [await scheduler.watch.cost_open(run) for run in runs]
