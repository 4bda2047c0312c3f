"""The executor by its rpcs, with sandboxes that are not real: what callers, scheduler and bus see."""

import asyncio
import hashlib
import json
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from mesh.events.v1 import events_pb2
from mesh.executor.v1 import executor_pb2
from mesh.ledger.v1 import ledger_pb2, prices_pb2
from mesh.runs.v1 import run_pb2
from mesh.workflows.v1 import workflows_pb2

from executor.clients import SchedulerClient
from executor.model import Limits
from executor.sandbox import AnswerEnd, Event, Finished, Head
from executor.sandboxes import Sandboxes
from executor.settings import Settings
from executor.validate import Check, Report, Tell, Validate
from kit.bus import open_bus
from kit.errors import Exhausted, Invalid, NotFound, Unavailable
from kit.rpc_client import connect, stream, unary
from tests.fakes.executor import FakeEnvironments
from tests.fakes.sandbox import FakeDriver, FakeSandbox, answering, echo, hang
from tests.integration.executor.mesh import Mesh, mesh_up, until
from tests.servers import nats_server

SOURCE = "app = 1\n"


@pytest.fixture(scope="module")
def nats_url() -> Iterator[str]:
    with nats_server() as url:
        yield url


@pytest.fixture
def driver() -> FakeDriver:
    return FakeDriver()


async def fake_validate(
    organization_id: str, source: bytes, file_name: str, *, preload: bool = False, tell: Tell
) -> Report:
    await tell("looking")
    await tell(f"reading \x1b[31m{file_name}")
    return Report([Check("syntax", passed=False, detail=f"{organization_id} {source.decode()} {file_name}", line=3)])


@pytest.fixture
async def mesh(tmp_path: Path, nats_url: str, driver: FakeDriver) -> AsyncIterator[Mesh]:
    settings = Settings(home=tmp_path, nats_url=nats_url, runs=2, drain_seconds=0.2)
    sandboxes = Sandboxes(driver, FakeEnvironments(), cast(Validate, fake_validate))
    async with mesh_up(settings, sandboxes) as found:
        yield found
    assert driver.running == 0
    assert list((tmp_path / "spool").iterdir()) == []


async def test_the_direct_way(mesh: Mesh, driver: FakeDriver) -> None:
    driver.app = echo
    spec = mesh.spec(mesh.neighbours.deploy(SOURCE), synchronous=True)
    data = os.urandom(1_000_000)
    seen = await mesh.run(spec, *(data[start : start + 60_000] for start in range(0, len(data), 60_000)))
    assert (seen.status, seen.complete, seen.body == data) == (200, True, True)
    assert seen.outcome == run_pb2.Outcome(status=run_pb2.RUN_STATUS_SUCCEEDED)
    assert seen.headers["x-request-id"].decode() == spec.run_id
    ended = await mesh.ended(spec.run_id)
    assert mesh.neighbours.started[0].spec == spec
    assert ended.answer.size == len(data)
    assert ended.HasField("usage")
    assert mesh.neighbours.blobs[ended.answer.digest] == data
    assert driver.started[0].launch.source == SOURCE.encode()


@pytest.fixture
async def priced(tmp_path: Path, nats_url: str, driver: FakeDriver) -> AsyncIterator[Mesh]:
    """Each run costs 5, and there is credit for ten."""
    settings = Settings(home=tmp_path, nats_url=nats_url, runs=20, drain_seconds=0.2)
    sandboxes = Sandboxes(driver, FakeEnvironments(), cast(Validate, fake_validate))
    prices = [prices_pb2.Price(meter="run", micro_credits_per_million=5_000_000, valid_from=Timestamp(seconds=1))]
    async with mesh_up(settings, sandboxes, prices=prices, credit=50) as found:
        yield found


async def test_runs_are_paid_from_what_the_ledger_gives(priced: Mesh) -> None:
    version = priced.neighbours.deploy(SOURCE)
    budget = ledger_pb2.Budget(id="key:1", limit=1000)
    more: dict[str, Any] = {"budgets": [budget], "paying_key_id": "key_1", "root_id": "run_root"}
    specs = [priced.spec(version, synchronous=True, **more) for _ in range(12)]
    calls = [unary(priced.stub.Call, executor_pb2.CallRequest(spec=spec)) for spec in specs]
    found = await asyncio.gather(*calls, return_exceptions=True)
    refused = [each for each in found if isinstance(each, Exhausted)]
    assert (len(refused), {each.code for each in refused}) == (2, {"payment_required"})
    assert len(found) - len(refused) == 10
    await until(lambda: len(priced.neighbours.ended) == 10)
    (purse_id,) = priced.neighbours.purses
    for run_id, ended in priced.neighbours.ended.items():
        bill = ended.bill
        assert (bill.run_id, bill.attempt, bill.root_id, bill.purse_id) == (run_id, 1, "run_root", purse_id)
        assert (bill.organization_id, bill.service_id, bill.key_id) == ("org_caller", "test", "key_1")
        assert (bill.reserved, bill.charge, list(bill.budgets)) == (5, 5, [budget])
        assert list(bill.lines)[:1] == [ledger_pb2.BillLine(meter="run", quantity=1, amount=5)]
        assert bill.HasField("at")


async def test_what_wasnt_used_goes_back_when_the_executor_stops(
    tmp_path: Path, nats_url: str, driver: FakeDriver
) -> None:
    settings = Settings(home=tmp_path, nats_url=nats_url, drain_seconds=0.2)
    sandboxes = Sandboxes(driver, FakeEnvironments(), cast(Validate, fake_validate))
    since = Timestamp(seconds=1)
    prices = [
        prices_pb2.Price(meter=meter, micro_credits_per_million=each, valid_from=since)
        for meter, each in (("run", 5_000_000), ("cpu", 1_000_000))
    ]
    async with mesh_up(settings, sandboxes, prices=prices, credit=100_000) as mesh:
        spec = mesh.spec(mesh.neighbours.deploy(SOURCE), synchronous=True)
        await unary(mesh.stub.Call, executor_pb2.CallRequest(spec=spec))
        await mesh.ended(spec.run_id)
        (drawn,) = mesh.neighbours.purses.values()
        assert drawn == 5005  # a fee, and five seconds of a processor
    assert (list(mesh.neighbours.purses.values()), mesh.neighbours.credit) == ([5], 99_995)


async def test_the_direct_way_in_one_message(mesh: Mesh, driver: FakeDriver) -> None:
    driver.app = echo
    spec = mesh.spec(mesh.neighbours.deploy(SOURCE), synchronous=True)
    called = await unary(mesh.stub.Call, executor_pb2.CallRequest(spec=spec, body=b"x"))
    assert (called.answer.head.status, called.answer.body) == (200, b"x")
    headers = {header.name: header.value for header in called.answer.head.headers}
    assert headers["x-request-id"].decode() == spec.run_id
    assert (await mesh.ended(spec.run_id)).answer.content == b"x"
    assert mesh.neighbours.started[0].spec == spec
    lost = await unary(mesh.stub.Call, executor_pb2.CallRequest(spec=mesh.spec("ver_unknown")))
    assert lost.WhichOneof("result") == "ended"


async def test_a_stream_of_the_direct_way_dies_with_who_holds_it(mesh: Mesh, driver: FakeDriver) -> None:
    driver.app = endless
    spec = mesh.spec(mesh.neighbours.deploy(SOURCE), synchronous=True)
    called = await unary(mesh.stub.Call, executor_pb2.CallRequest(spec=spec))
    assert called.attach
    held = stream(mesh.stub.Attach, executor_pb2.AttachRequest(run_id=spec.run_id, hold=True), timeout=60)
    assert (await anext(held)).head.status == 200
    assert (await anext(held)).body == b"x"
    await held.aclose()
    ended = await mesh.ended(spec.run_id)
    assert (ended.outcome.status, driver.running) == (run_pb2.RUN_STATUS_CANCELLED, 0)


async def endless(_sandbox: FakeSandbox, _request: Head, _body: AsyncIterator[bytes]) -> AsyncIterator[Event]:
    yield Head([], status=200)
    yield b"x"
    await asyncio.Event().wait()


async def test_the_durable_way(mesh: Mesh, driver: FakeDriver) -> None:
    driver.app = echo
    spec = mesh.spec(mesh.neighbours.deploy(SOURCE))
    await mesh.start(spec, body=b"inline")
    live = await mesh.attach(spec.run_id)
    assert (live.body, live.complete, live.outcome.status) == (b"inline", True, run_pb2.RUN_STATUS_SUCCEEDED)
    assert (await mesh.ended(spec.run_id)).answer.content == b"inline"
    assert mesh.neighbours.started[0].spec == run_pb2.RunSpec(run_id=spec.run_id, attempt=1)
    assert (await mesh.attach(spec.run_id)).body == b"inline"


async def test_a_large_body_comes_from_the_filestore(mesh: Mesh, driver: FakeDriver) -> None:
    driver.app = echo
    data = os.urandom(200_000)
    spec = mesh.spec(mesh.neighbours.deploy(SOURCE))
    await mesh.start(spec, body_digest=mesh.neighbours.keep(data))
    assert (await mesh.attach(spec.run_id)).body == data
    lost = mesh.spec(spec.version_id)
    await mesh.start(lost, body_digest="0" * 64)
    assert (await mesh.attach(lost.run_id)).outcome.code == "runtime_error"


async def test_hanging_up_kills(mesh: Mesh, driver: FakeDriver) -> None:
    driver.app = hang
    spec = mesh.spec(mesh.neighbours.deploy(SOURCE))
    calling = asyncio.create_task(mesh.run(spec, b"x"))
    await until(lambda: driver.started)
    calling.cancel()
    await asyncio.gather(calling, return_exceptions=True)
    ended = await mesh.ended(spec.run_id)
    assert (ended.outcome.status, ended.outcome.code) == (run_pb2.RUN_STATUS_CANCELLED, "cancelled")
    assert driver.running == 0


async def test_hanging_up_without_having_read_kills_too(mesh: Mesh, driver: FakeDriver) -> None:
    async def endless(_sandbox: FakeSandbox, _request: Head, _body: AsyncIterator[bytes]) -> AsyncIterator[Event]:
        yield Head([], status=200)
        for _ in range(500):
            yield b"x" * 65536
            await asyncio.sleep(0)
        await asyncio.Event().wait()

    driver.app = endless
    spec = mesh.spec(mesh.neighbours.deploy(SOURCE))
    events = mesh.events(spec)
    await anext(events)  # and no more: what follows fills all windows
    await until(lambda: driver.started)
    await asyncio.sleep(0.3)
    await events.aclose()  # type: ignore[attr-defined]  # a generator
    assert (await mesh.ended(spec.run_id)).outcome.code == "cancelled"


async def test_stop(mesh: Mesh, driver: FakeDriver) -> None:
    driver.app = hang
    spec = mesh.spec(mesh.neighbours.deploy(SOURCE))
    await mesh.start(spec)
    await until(lambda: driver.started)
    outcome = run_pb2.Outcome(status=run_pb2.RUN_STATUS_CANCELLED, code="cancelled", detail="by its caller")
    for _ in range(2):
        await unary(mesh.stub.Stop, executor_pb2.StopRequest(run_id=spec.run_id, outcome=outcome))
    assert (await mesh.ended(spec.run_id)).outcome.detail == "by its caller"
    with pytest.raises(Invalid):
        await unary(mesh.stub.Stop, executor_pb2.StopRequest(run_id=spec.run_id))


async def test_a_deadline(mesh: Mesh, driver: FakeDriver) -> None:
    driver.app = hang
    seen = await mesh.run(mesh.spec(mesh.neighbours.deploy(SOURCE), seconds=0.3))
    assert (seen.outcome.status, seen.outcome.code) == (run_pb2.RUN_STATUS_TIMED_OUT, "timeout")


async def test_a_full_executor(mesh: Mesh, driver: FakeDriver) -> None:
    driver.app = hang
    version = mesh.neighbours.deploy(SOURCE)
    for _ in range(2):
        await mesh.start(mesh.spec(version))
    with pytest.raises(Unavailable) as refused:
        await mesh.run(mesh.spec(version))
    assert refused.value.retry_after
    with pytest.raises(Unavailable):
        await mesh.start(mesh.spec(version))


@pytest.mark.parametrize("field", ["run_id", "version_id", "deadline"])
async def test_a_spec_that_cant_be_run(mesh: Mesh, field: str) -> None:
    spec = mesh.spec("ver_1")
    spec.ClearField(field)  # type: ignore[arg-type]  # one of its fields
    with pytest.raises(Invalid):
        await mesh.run(spec)
    with pytest.raises(Invalid):
        await mesh.start(spec)


async def test_what_isnt_here(mesh: Mesh) -> None:
    with pytest.raises(NotFound):
        await mesh.attach("run_nothing")
    spec = mesh.spec("ver_nothing")
    assert (await mesh.run(spec)).outcome.code == "runtime_error"


async def test_the_log_is_live_and_archived(mesh: Mesh, driver: FakeDriver) -> None:
    async def printing(sandbox: FakeSandbox, _request: Head, _body: AsyncIterator[bytes]) -> AsyncIterator[Event]:
        sandbox.print(b"".join(b"line %d\n" % number for number in range(50)))
        yield Head([], status=500)
        yield AnswerEnd()
        yield Finished()

    driver.app = printing
    spec = mesh.spec(mesh.neighbours.deploy(SOURCE))
    lines: list[events_pb2.LogLine] = []

    async def follow(_subject: str, payload: bytes) -> None:
        lines.append(events_pb2.LogLine.FromString(payload))

    async with open_bus(mesh.settings.nats_url, "test") as bus, bus.subscribed(f"log.{spec.run_id}", follow):
        seen = await mesh.run(spec)
        await until(lambda: lines and lines[-1].end)
    expected = [f"line {number}" for number in range(50)]
    assert [line.message for line in lines[:-1]] == expected
    times = [line.created_at.ToNanoseconds() for line in lines[:-1]]
    assert times == sorted(set(times))
    assert list(seen.outcome.log_tail) == expected[-20:]
    archive = mesh.neighbours.blobs[(await mesh.ended(spec.run_id)).log_digest]
    assert [json.loads(line)["message"] for line in archive.splitlines()] == expected


async def test_secrets_are_fresh_after_a_change(mesh: Mesh, driver: FakeDriver) -> None:
    version = mesh.neighbours.deploy(SOURCE, env_vars=[workflows_pb2.EnvVar(name="TOKEN")])
    missing = (await mesh.run(mesh.spec(version))).outcome
    assert (missing.code, "TOKEN" in missing.detail) == ("missing_secret", True)
    mesh.neighbours.secrets["TOKEN"] = "1"
    changed = events_pb2.SecretChanged(organization_id="org_owner", name="TOKEN")
    async with open_bus(mesh.settings.nats_url, "test") as bus:
        await bus.publish("event.secret.changed", changed.SerializeToString(), event_id=os.urandom(8).hex())

        async def seen() -> bool:
            return (await mesh.run(mesh.spec(version))).complete

        async with asyncio.timeout(0.9):
            while not await seen():
                pass
    assert driver.started[-1].launch.env["TOKEN"] == "1"


async def test_it_tells_where_it_is_and_that_it_leaves(tmp_path: Path, nats_url: str) -> None:
    settings = Settings(home=tmp_path, nats_url=nats_url, runs=7)
    sandboxes = Sandboxes(FakeDriver(app=hang), FakeEnvironments(), cast(Validate, fake_validate))
    async with mesh_up(settings, sandboxes) as mesh:
        renewed = mesh.neighbours.renewed
        first = renewed[0]
        assert (first.address, first.capacity, first.running) == (settings.address("executor"), 7, 0)
        assert not first.draining
    assert renewed[-1].draining
    assert renewed[-1].incarnation == first.incarnation


async def test_a_lease_that_was_given_up_ends_all_runs(tmp_path: Path, nats_url: str) -> None:
    settings = Settings(home=tmp_path, nats_url=nats_url)
    driver = FakeDriver(app=hang)
    sandboxes = Sandboxes(driver, FakeEnvironments(), cast(Validate, fake_validate))
    async with mesh_up(settings, sandboxes) as mesh:
        neighbours = mesh.neighbours
        neighbours.lease_ms = 500
        spec = mesh.spec(neighbours.deploy(SOURCE))
        life = neighbours.renewed[-1].incarnation
        await mesh.start(spec)
        await until(lambda: driver.running == 1)
        with pytest.raises(Unavailable):
            await mesh.start(spec, incarnation="inc_0")
        neighbours.given_up.add(life)
        await until(lambda: neighbours.ended)
        assert neighbours.ended[spec.run_id].outcome.code == "runtime_error"
        assert driver.running == 0
        await until(lambda: neighbours.renewed[-1].incarnation != life)


async def test_leaving_drains(tmp_path: Path, nats_url: str) -> None:
    settings = Settings(home=tmp_path, nats_url=nats_url, drain_seconds=0.2)
    driver = FakeDriver(app=hang)
    sandboxes = Sandboxes(driver, FakeEnvironments(), cast(Validate, fake_validate))
    async with mesh_up(settings, sandboxes) as mesh:
        direct, durable = (mesh.spec(mesh.neighbours.deploy(SOURCE)) for _ in range(2))
        calling = asyncio.create_task(mesh.run(direct))
        await mesh.start(durable)
        await until(lambda: len(driver.started) == 2)
        neighbours = mesh.neighbours
    assert (await calling).outcome.code == "runtime_error"
    assert {neighbours.ended[spec.run_id].outcome.code for spec in (direct, durable)} == {"runtime_error"}
    assert driver.running == 0


async def test_no_version_gets_more_than_this_host_gives(mesh: Mesh) -> None:
    limits = workflows_pb2.Limits(memory_bytes=1 << 40, cpu_millis=500, processes=9, max_log_bytes=1 << 40)
    version = mesh.neighbours.deploy(SOURCE, limits=limits)
    async with connect(mesh.settings.address("scheduler")) as channel:
        most = Limits(memory_bytes=1 << 30, cpu=2, processes=8, disk_bytes=5)
        found = await SchedulerClient(channel, "unix:/x", lambda: "inc", most).version(version)
    assert found.limits == Limits(memory_bytes=1 << 30, cpu=0.5, processes=8, log_bytes=1 << 40)


async def test_validate(mesh: Mesh) -> None:
    request = executor_pb2.ValidateRequest(organization_id="org_1", code="x = 1", file_name="a.py", log_id="run_1")
    told: list[events_pb2.LogLine] = []

    async def follow(_subject: str, payload: bytes) -> None:
        told.append(events_pb2.LogLine.FromString(payload))

    async with open_bus(mesh.settings.nats_url, "test") as bus, bus.subscribed("log.>", follow):
        await unary(mesh.stub.Validate, executor_pb2.ValidateRequest(code="x = 1"))  # tells nobody
        reply = await unary(mesh.stub.Validate, request)
        await until(lambda: len(told) == 2)
    assert [(line.seq, line.stream, line.message) for line in told] == [
        (0, "system", "looking"),
        (0, "system", "reading a.py"),
    ]
    assert told[0].created_at.ToMilliseconds() < told[1].created_at.ToMilliseconds()
    assert [(check.check, check.passed, check.line) for check in reply.report] == [("syntax", False, 3)]
    assert reply.report[0].detail == "org_1 x = 1 a.py"


async def test_a_large_answer_arrives_whole(mesh: Mesh, driver: FakeDriver) -> None:
    data = os.urandom(3_000_000)
    driver.app = answering(data)
    seen = await mesh.run(mesh.spec(mesh.neighbours.deploy(SOURCE)))
    assert hashlib.sha256(seen.body).digest() == hashlib.sha256(data).digest()
