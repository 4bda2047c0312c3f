import asyncio
from contextlib import aclosing

import pytest
from mesh.events.v1 import events_pb2
from mesh.ledger.v1 import ledger_pb2
from mesh.runs.v1 import run_pb2, runs_pb2

from kit.errors import Conflict, Invalid, NotFound, Problem, Unauthenticated
from kit.rpc_client import stream, unary
from scheduler.settings import Settings
from tests.integration.scheduler.rig import HEAD, Neighbours, Service, running


async def test_a_run_from_submit_to_its_kept_answer(service: Service) -> None:
    version_id = await service.deploy()
    run_id = await service.submit(version_id)
    record = await service.until(run_id, run_pb2.RUN_STATUS_RUNNING)
    assert record.executor == service.settings.address("executor")
    start = service.neighbours.starts[0]
    assert (start.spec.run_id, start.spec.version_id, start.body) == (run_id, version_id, b"body")
    assert start.spec.request == HEAD
    assert start.spec.deadline.ToMilliseconds() - start.spec.created_at.ToMilliseconds() == 60_000

    await service.report(started=run_id)
    watching = asyncio.create_task(service.until(run_id, run_pb2.RUN_STATUS_SUCCEEDED))
    await service.report(ended=run_id)
    record = await watching
    assert (record.answer.content, record.answer.head.status, record.log_digest) == (b'{"a": 1}', 200, "f" * 64)
    assert record.HasField("completed_at")
    assert (record.usage.cpu_seconds, record.usage.memory_peak_bytes) == (0.5, 1 << 30)
    assert await service.get(run_id) == record

    assert await _told(service, "event.runs.queued", run_id)
    told = events_pb2.RunsEnded.FromString(await _told(service, "event.runs.ended", run_id))
    (ended,) = (each for each in told.runs if each.run_id == run_id)
    assert (ended.caller_id, ended.status) == ("org_a", run_pb2.RUN_STATUS_SUCCEEDED)


async def _told(service: Service, subject: str, run_id: str) -> bytes:
    """The event about this run; the server is shared with other tests."""
    async with service.bus.tail(subject) as following:
        while payload := await following(5):
            if run_id.encode() in payload:
                return payload
    return b""


async def test_a_hundred_submits_with_one_one_time_key_start_one_run(service: Service) -> None:
    version_id = await service.deploy()
    calls = (service.submit(version_id, one_time_key_id="key_1") for _ in range(100))
    results = await asyncio.gather(*calls, return_exceptions=True)
    won = [result for result in results if isinstance(result, str)]
    assert len(won) == 1
    assert {type(result) for result in results} == {str, Unauthenticated}
    await service.until(won[0], run_pb2.RUN_STATUS_RUNNING)
    listed = await unary(service.runs.ListRuns, runs_pb2.ListRunsRequest(organization_id="org_a"))
    assert [run.id for run in listed.runs] == won
    assert [start.spec.run_id for start in service.neighbours.starts] == won


async def test_many_submits_at_once_all_start(service: Service) -> None:
    version_id = await service.deploy()
    ids = await asyncio.gather(*(service.submit(version_id) for _ in range(60)))
    for run_id in ids:
        await service.until(run_id, run_pb2.RUN_STATUS_RUNNING)
    assert sorted(start.spec.run_id for start in service.neighbours.starts) == sorted(ids)


async def test_a_provisioned_id_is_followed_from_before_its_run(service: Service) -> None:
    version_id = await service.deploy()
    request = runs_pb2.ProvisionRequest(organization_id="org_a", key_id="key_1")
    request_id = (await unary(service.runs.Provision, request)).request_id
    states = []
    async with aclosing(service.watch(request_id)) as records:
        async for record in records:
            states.append(record.status)
            if record.status == run_pb2.RUN_STATUS_PROVISIONED:
                assert await service.submit(version_id, provisioned_id=request_id) == request_id
            elif record.status == run_pb2.RUN_STATUS_RUNNING:
                await service.report(ended=request_id, status=run_pb2.RUN_STATUS_FAILED)
    assert states[0] == run_pb2.RUN_STATUS_PROVISIONED
    assert states[-1] == run_pb2.RUN_STATUS_FAILED
    later = await service.submit(version_id, provisioned_id=request_id)
    assert later != request_id
    assert (await service.get(request_id)).id == later


async def test_what_was_accepted_survives_a_restart(settings: Settings, neighbours: Neighbours) -> None:
    neighbours.full = True
    async with running(settings, neighbours) as first:
        run_id = await first.submit(await first.deploy())
        assert (await first.get(run_id)).status == run_pb2.RUN_STATUS_QUEUED
    neighbours.full = False
    async with running(settings, neighbours) as second:
        await second.until(run_id, run_pb2.RUN_STATUS_RUNNING)
    assert neighbours.starts[0].body == b"body"


async def test_a_full_executor_gets_the_run_when_it_has_room(service: Service) -> None:
    service.neighbours.full = True
    run_id = await service.submit(await service.deploy())
    service.neighbours.full = False
    await service.beat()
    await service.until(run_id, run_pb2.RUN_STATUS_RUNNING)


async def test_cancelling(service: Service) -> None:
    run_id = await service.submit(await service.deploy())
    await service.until(run_id, run_pb2.RUN_STATUS_RUNNING)
    request = runs_pb2.CancelRunRequest(
        organization_id="org_a", request_id=run_id, status=run_pb2.RUN_STATUS_TIMED_OUT, detail="120 s passed"
    )
    await unary(service.runs.CancelRun, request)
    assert service.neighbours.stops[0].outcome.code == "timeout"
    await service.report(ended=run_id, status=run_pb2.RUN_STATUS_TIMED_OUT)
    assert (await service.until(run_id, run_pb2.RUN_STATUS_TIMED_OUT)).HasField("completed_at")
    await unary(service.runs.CancelRun, request)
    assert len(service.neighbours.stops) == 1


async def test_runs_of_a_restarted_executor_are_done_again(service: Service) -> None:
    run_id = await service.submit(await service.deploy())
    await service.until(run_id, run_pb2.RUN_STATUS_RUNNING)
    await service.report(started=run_id)
    await service.beat("inc_2")

    async def started_again() -> bool:
        return len(service.neighbours.starts) == 2

    await service.eventually(started_again)
    await service.report(ended=run_id)  # the word of the life before
    first, second = service.neighbours.starts
    assert (first.incarnation, first.spec.attempt, first.spec.epoch) == ("inc_1", 1, 1)
    assert (second.incarnation, second.spec.attempt, second.spec.epoch) == ("inc_2", 2, 2)
    record = await service.until(run_id, run_pb2.RUN_STATUS_RUNNING)
    assert record.attempt == 2


async def test_a_synchronous_run_of_a_restarted_executor_has_failed(service: Service) -> None:
    run_id = await service.submit(await service.deploy(), synchronous=True)
    await service.until(run_id, run_pb2.RUN_STATUS_RUNNING)
    await service.beat("inc_2")
    record = await service.until(run_id, run_pb2.RUN_STATUS_FAILED)
    assert (record.code, record.detail) == ("runtime_error", "the executor was lost")
    assert len(service.neighbours.starts) == 1


async def test_a_hundred_equal_requests_with_one_idempotency_key_are_one_run(service: Service) -> None:
    version_id = await service.deploy()
    same = (service.submit(version_id, idempotency_key="k", fingerprint="f" * 64) for _ in range(100))
    ids = await asyncio.gather(*same)
    assert len(set(ids)) == 1
    await service.until(ids[0], run_pb2.RUN_STATUS_RUNNING)
    assert [start.spec.run_id for start in service.neighbours.starts] == [ids[0]]
    with pytest.raises(Conflict):
        await service.submit(version_id, idempotency_key="k", fingerprint="e" * 64)


async def test_a_queued_run_knows_its_place(service: Service) -> None:
    service.neighbours.full = True
    version_id = await service.deploy()
    ids = [await service.submit(version_id) for _ in range(3)]

    async def in_order() -> bool:
        return [(await service.get(run_id)).position for run_id in ids] == [1, 2, 3]

    await service.eventually(in_order)
    assert not (await service.get(ids[0])).HasField("wait_ms")


async def test_a_run_of_the_direct_way_is_written_behind(service: Service) -> None:
    run_id = await service.submit(await service.deploy())
    await service.until(run_id, run_pb2.RUN_STATUS_RUNNING)
    whole = run_pb2.RunSpec.FromString(service.neighbours.starts[0].spec.SerializeToString())
    whole.run_id = "run_" + "0" * 26
    report = runs_pb2.ReportRequest(executor=service.settings.address("executor"), incarnation="inc_1")
    report.started.add(spec=whole)
    await unary(service.runs.Report, report)
    assert (await service.get(whole.run_id)).status == run_pb2.RUN_STATUS_RUNNING


async def test_another_organization_finds_nothing(service: Service) -> None:
    run_id = await service.submit(await service.deploy())
    with pytest.raises(NotFound):
        await service.get(run_id, "org_b")
    asked = runs_pb2.WatchRunRequest(organization_id="org_b", request_id=run_id)
    with pytest.raises(NotFound):
        async for _ in stream(service.runs.WatchRun, asked, timeout=5):
            pass
    with pytest.raises(NotFound):
        await unary(service.runs.CancelRun, runs_pb2.CancelRunRequest(organization_id="org_b", request_id=run_id))
    listed = await unary(service.runs.ListRuns, runs_pb2.ListRunsRequest(organization_id="org_b"))
    assert list(listed.runs) == []


async def test_bad_requests_are_refused(service: Service) -> None:
    version_id = await service.deploy()
    with pytest.raises(NotFound):
        await service.submit("ver_x")
    with pytest.raises(NotFound):
        await service.submit(version_id, provisioned_id="run_x")
    with pytest.raises(Invalid):
        await unary(service.runs.ListRuns, runs_pb2.ListRunsRequest(organization_id="org_a", limit=1001))
    with pytest.raises(Problem):
        await unary(service.runs.Provision, runs_pb2.ProvisionRequest())


async def _cost_open(service: Service, run_id: str) -> bool:
    request = runs_pb2.GetRunRequest(organization_id="org_a", request_id=run_id)
    found: runs_pb2.GetRunResponse = await unary(service.runs.GetRun, request)
    return found.cost_open


async def test_bills_reach_the_ledger_and_costs_the_record(service: Service) -> None:
    service.neighbours.ledger_away = True
    version_id = await service.deploy()
    budget = ledger_pb2.Budget(id="key:1", limit=1000)
    root = await service.submit(version_id, spec={"budgets": [budget], "paying_key_id": "key_1"})
    nested = await service.submit(
        version_id, spec={"parent_id": root, "root_id": root, "depth": 1, "above_ids": [root]}
    )
    await service.eventually(lambda: _all_started(service, 2))
    starts = {start.spec.run_id: start.spec for start in service.neighbours.starts}
    assert (list(starts[root].budgets), starts[root].paying_key_id) == ([budget], "key_1")
    for run_id, charge in ((root, 12), (nested, 30)):
        assert await _cost_open(service, root)
        bill = ledger_pb2.Bill(purse_id="prs_1", root_id=root, reserved=charge, charge=charge, organization_id="org_a")
        await service.report(ended=run_id, bill=bill)
    record = await service.get(root)
    assert (record.cost_own, record.cost_nested) == (12, 30)
    assert not await _cost_open(service, root)
    listed = (await unary(service.runs.ListRuns, runs_pb2.ListRunsRequest(organization_id="org_a"))).runs
    assert {run.id: (run.cost_own, run.cost_nested) for run in listed} == {root: (12, 30), nested: (30, 0)}

    await service.eventually(lambda: _settled(service, 3))  # again and again, while it doesn't say that it has them
    assert {(bill.run_id, bill.charge) for bill in service.neighbours.settled} == {(root, 12), (nested, 30)}
    service.neighbours.ledger_away = False

    async def again() -> bool:
        """A report that comes once more, when its bill was sent already: the ledger knows it by its key."""
        await service.report(ended=root, bill=ledger_pb2.Bill(purse_id="prs_1", root_id=root, reserved=12, charge=12))
        return any((bill.run_id, bill.charge, bill.reserved) == (root, 0, 12) for bill in service.neighbours.settled)

    await service.eventually(again)
    assert (await service.get(root)).cost_own == 12


async def _all_started(service: Service, count: int) -> bool:
    return len(service.neighbours.starts) >= count


async def _settled(service: Service, count: int) -> bool:
    return len(service.neighbours.settled) >= count
