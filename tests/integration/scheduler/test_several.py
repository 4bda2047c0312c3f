"""Several schedulers on one PostgreSQL, and several executors: what one of them has, none of the others starts."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

from mesh.runs.v1 import run_pb2

from kit.clock import SystemClock
from kit.db import open_db
from scheduler.cancel import Cancel
from scheduler.dispatch import Dispatch
from scheduler.fleet import Fleet
from scheduler.model import CANCELLED, Asker, Provision, Status
from scheduler.settings import Settings
from scheduler.shares import Shares
from scheduler.store.commits import GroupCommit
from scheduler.store.database import Tx, open_store
from scheduler.submit import Submit
from tests.fakes.scheduling import VERSION, WORKFLOW, FakeExecutors, a_submission
from tests.integration.scheduler.rig import Neighbours, neighbours_up, running
from tests.postgres import Server

RUNS = 200


def started(neighbours: list[Neighbours]) -> list[str]:
    return sorted(start.spec.run_id for one in neighbours for start in one.starts)


async def until_started(neighbours: list[Neighbours], count: int) -> None:
    async with asyncio.timeout(50):
        while len(started(neighbours)) < count:  # noqa: ASYNC110  # they tell nobody
            await asyncio.sleep(0.05)


async def test_a_cancel_that_meets_the_acceptance_of_its_run(postgres: Server) -> None:
    """It looks for the run before the other scheduler has committed it, and for the provisioned id after that."""
    url = f"{postgres.url(postgres.migrated())}&schema=scheduler"
    clock, executors = SystemClock(), FakeExecutors()
    looked = asyncio.Event()

    class Slow(Tx):
        """Reads the provisioned id only once that is locked by another."""

        async def provision(self, provision_id: str) -> Provision | None:
            looked.set()
            return await super().provision(provision_id)

    async with open_db(url) as one, open_db(url) as other, open_store(one) as first, open_store(other) as second:
        await first.write(lambda tx: tx.insert_workflow(WORKFLOW))
        await first.write(lambda tx: tx.insert_version(VERSION))
        dispatch = Dispatch(first, Fleet(clock), Shares(100), executors, lambda _: None, clock)
        submit, cancel = Submit(first, dispatch, clock), Cancel(second, executors, lambda _: None, clock)
        second._commits = GroupCommit(other, lambda connection: Slow(connection, []))
        wanted = (await submit.provision("org_caller", "")).id
        accepted = asyncio.Event()

        async def accept(tx: Tx) -> None:
            await submit.accept(tx, a_submission(provisioned_id=wanted))
            accepted.set()
            await looked.wait()

        accepting = asyncio.create_task(first.write(accept))
        await accepted.wait()
        await cancel(Asker("org_caller"), wanted, CANCELLED)
        await accepting
        run = await first.find_run(Asker("org_caller"), wanted)
        assert run is not None
        assert run.status is Status.CANCELLED


async def test_two_schedulers_and_two_executors_start_nothing_twice(
    postgres: Server, nats_url: str, tmp_path: Path
) -> None:
    """Some are accepted while nobody has room, so that both schedulers have them before them at the same time."""
    database = postgres.url(postgres.migrated())
    hosts = [
        Settings(
            home=tmp_path / name,
            nats_url=nats_url,
            drain_seconds=1.0,
            library=tmp_path / "no-library",
            database=database,
            organization_runs=10 * RUNS,
        )
        for name in ("one", "two")
    ]
    async with AsyncExitStack() as stack:
        neighbours = [await stack.enter_async_context(neighbours_up(host)) for host in hosts]
        first = await stack.enter_async_context(running(hosts[0], neighbours[0]))
        async with running(hosts[1], neighbours[1]) as second:
            version_id = await first.deploy()
            for one in neighbours:
                one.full = True
            ids = await asyncio.gather(*((first, second)[n % 2].submit(version_id) for n in range(RUNS)))
            for one in neighbours:
                one.full = False
            more = await asyncio.gather(*((first, second)[n % 2].submit(version_id) for n in range(RUNS)))
            await until_started(neighbours, 2 * RUNS)
            await asyncio.sleep(1)
            assert started(neighbours) == sorted([*ids, *more])
            assert all(one.starts for one in neighbours)
            for one in neighbours:
                one.full = True
            last = [await second.submit(version_id) for _ in range(10)]
        for one in neighbours:
            one.full = False
        await until_started(neighbours, 2 * RUNS + 10)  # what a scheduler that is gone had accepted
        assert started(neighbours) == sorted([*ids, *more, *last])
        await first.until(last[0], run_pb2.RUN_STATUS_RUNNING)  # the executor hears of it before that is written down
