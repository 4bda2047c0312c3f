"""The adapters of the run endpoints against real gRPC servers and a real NATS."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from mesh.executor.v1 import executor_pb2, executor_pb2_grpc
from mesh.filestore.v1 import blobs_pb2, blobs_pb2_grpc
from mesh.runs.v1 import run_pb2, runs_pb2, runs_pb2_grpc
from mesh.workflows.v1 import workflows_pb2, workflows_pb2_grpc

from edge.run_clients import BlobsClient, ExecutorClient, LogBus, RunsClient, WorkflowsClient
from edge.run_model import (
    AnswerHead,
    Asker,
    BodyComplete,
    LogLine,
    Outcome,
    RequestHead,
    RunSpec,
    Status,
    Submission,
    WholeAnswer,
)
from kit.bus import open_bus
from kit.errors import Invalid, NotFound, Unavailable
from kit.rpc_client import connect
from kit.rpc_server import RpcServer
from tests.fakes.edge_runs import NOW, chunks
from tests.servers import nats_server

SPEC = RunSpec("org_1", "org_2", "org_3", "org_4", "greet", "ver_1", RequestHead("POST", "/"), NOW, run_id="run_1")
LONG = timedelta(seconds=20)


class Executor(executor_pb2_grpc.ExecutorServicer):
    """Answers with what it was given; `stay` keeps a run open until its caller leaves."""

    def __init__(self) -> None:
        self.specs: list[run_pb2.RunSpec] = []
        self.killed = asyncio.Event()
        self.stay = False
        self.holding = False

    async def Run(self, requests: AsyncIterator[executor_pb2.RunRequest], _context: Any) -> AsyncIterator[Any]:
        try:
            body = b""
            async for request in requests:
                if request.WhichOneof("part") == "spec":
                    self.specs.append(request.spec)
                body += request.body
            yield run_pb2.RunEvent(head=run_pb2.AnswerHead(status=200))
            yield run_pb2.RunEvent(body=body)
            if self.stay:
                await asyncio.Event().wait()
            yield run_pb2.RunEvent(body_complete=True)
            yield run_pb2.RunEvent(ended=run_pb2.Outcome(status=run_pb2.RUN_STATUS_SUCCEEDED))
        except (asyncio.CancelledError, GeneratorExit):  # the latter where it is about to be asked for more
            self.killed.set()
            raise

    async def Call(self, request: executor_pb2.CallRequest, _context: Any) -> executor_pb2.CallResponse:
        self.specs.append(request.spec)
        if self.stay:
            try:
                await asyncio.Event().wait()
            finally:
                self.killed.set()
        if request.body == b"stream":
            return executor_pb2.CallResponse(attach=True)
        if request.body == b"fail":
            failed = run_pb2.Outcome(status=run_pb2.RUN_STATUS_FAILED, code="workflow_crashed", detail="it died")
            return executor_pb2.CallResponse(ended=failed)
        head = run_pb2.AnswerHead(status=200)
        return executor_pb2.CallResponse(answer=executor_pb2.WholeAnswer(head=head, body=request.body))

    async def Attach(self, request: executor_pb2.AttachRequest, _context: Any) -> AsyncIterator[Any]:
        self.holding = request.hold
        if request.run_id != "run_1":
            raise NotFound("forgotten")
        yield run_pb2.RunEvent(head=run_pb2.AnswerHead(status=201))


class Runs(runs_pb2_grpc.RunsServicer):
    """Remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    async def Provision(self, request: runs_pb2.ProvisionRequest, _context: Any) -> runs_pb2.ProvisionResponse:
        self.asked.append(request)
        return runs_pb2.ProvisionResponse(request_id="run_p")

    async def Submit(self, request: runs_pb2.SubmitRequest, _context: Any) -> runs_pb2.SubmitResponse:
        self.asked.append(request)
        return runs_pb2.SubmitResponse(run_id="run_s")

    async def GetRun(self, request: runs_pb2.GetRunRequest, _context: Any) -> runs_pb2.GetRunResponse:
        self.asked.append(request)
        if request.request_id == "run_unknown":
            raise NotFound("no such request")
        run = runs_pb2.RunRecord(id="run_g", status=run_pb2.RUN_STATUS_QUEUED)
        return runs_pb2.GetRunResponse(run=run, cost_open=True)

    async def WatchRun(self, request: runs_pb2.WatchRunRequest, _context: Any) -> AsyncIterator[Any]:
        self.asked.append(request)
        for status in (run_pb2.RUN_STATUS_QUEUED, run_pb2.RUN_STATUS_SUCCEEDED):
            yield runs_pb2.WatchRunResponse(run=runs_pb2.RunRecord(id="run_w", status=status))

    async def ListRuns(self, request: runs_pb2.ListRunsRequest, _context: Any) -> runs_pb2.ListRunsResponse:
        self.asked.append(request)
        return runs_pb2.ListRunsResponse(runs=[runs_pb2.RunRecord(id="run_l")], next="run_l")

    async def CancelRun(self, request: runs_pb2.CancelRunRequest, _context: Any) -> runs_pb2.CancelRunResponse:
        self.asked.append(request)
        return runs_pb2.CancelRunResponse()


class Workflows(workflows_pb2_grpc.WorkflowsServicer):
    async def Resolve(self, request: workflows_pb2.ResolveRequest, _context: Any) -> workflows_pb2.ResolveResponse:
        workflow = workflows_pb2.Workflow(organization_id=request.organization_id, service_id=request.reference)
        return workflows_pb2.ResolveResponse(workflow=workflow, version=workflows_pb2.Version(id="ver_9"))


class Blobs(blobs_pb2_grpc.BlobsServicer):
    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.stored = b""

    async def PutBlob(
        self, requests: AsyncIterator[blobs_pb2.PutBlobRequest], context: Any
    ) -> blobs_pb2.PutBlobResponse:
        stored, whole = b"", False
        async for request in requests:
            whole = request.whole
            if request.data:
                self.sizes.append(len(request.data))
            stored += request.data
        if not whole:
            raise Invalid("the blob ended before its last message")
        self.stored = stored
        return blobs_pb2.PutBlobResponse(digest="d" * 64, size=len(stored))

    async def GetBlob(self, request: blobs_pb2.GetBlobRequest, _context: Any) -> AsyncIterator[Any]:
        if request.digest != "d" * 64:
            raise NotFound("no such blob")
        yield blobs_pb2.GetBlobResponse(data=self.stored)


class Mesh:
    """All servers on one socket."""

    def __init__(self) -> None:
        self.executor, self.runs, self.blobs = Executor(), Runs(), Blobs()  # type: ignore[abstract]  # only what is used

    async def serve(self, stack: AsyncExitStack) -> None:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="edge-"))
        self.address = f"unix:{Path(directory) / 's.sock'}"
        server, names = RpcServer(self.address, grace=1), Workflows()  # type: ignore[abstract]  # only what is used
        server.add(executor_pb2_grpc.add_ExecutorServicer_to_server, self.executor, "mesh.executor.v1.Executor")
        server.add(runs_pb2_grpc.add_RunsServicer_to_server, self.runs, "mesh.runs.v1.Runs")
        server.add(workflows_pb2_grpc.add_WorkflowsServicer_to_server, names, "mesh.workflows.v1.Workflows")
        server.add(blobs_pb2_grpc.add_BlobsServicer_to_server, self.blobs, "mesh.filestore.v1.Blobs")
        await stack.enter_async_context(server)
        channel = await stack.enter_async_context(connect(self.address))
        self.to_executor = await stack.enter_async_context(ExecutorClient(self.address))
        self.to_runs, self.to_blobs, self.to_workflows = (
            RunsClient(channel),
            BlobsClient(channel),
            WorkflowsClient(channel),
        )


@pytest.fixture
async def mesh() -> AsyncIterator[Mesh]:
    async with AsyncExitStack() as stack:
        mesh = Mesh()
        await mesh.serve(stack)
        yield mesh


async def growing() -> AsyncIterator[bytes]:
    yield b"start"
    raise Invalid("too much", code="too_large")


async def test_a_direct_run(mesh: Mesh) -> None:
    body = (b"a" * 600_000, b"b")
    events = [event async for event in mesh.to_executor.run(SPEC, chunks(*body), LONG)]
    assert events[0] == AnswerHead(200)
    assert events[1] == b"".join(body)
    assert events[2:] == [BodyComplete(), Outcome(Status.SUCCEEDED)]
    assert mesh.executor.specs[0].requester_id == "org_4"


async def test_leaving_a_direct_run_kills_it(mesh: Mesh) -> None:
    mesh.executor.stay = True
    events = mesh.to_executor.run(SPEC, chunks(b"x"), LONG)
    assert await anext(events) == AnswerHead(200)
    await events.aclose()
    await asyncio.wait_for(mesh.executor.killed.wait(), 10)


async def test_a_cancelled_caller_of_a_direct_run_is_cancelled_and_kills_it(mesh: Mesh) -> None:
    mesh.executor.stay = True
    reading = asyncio.Event()

    async def read() -> None:
        async for _ in mesh.to_executor.run(SPEC, chunks(b"x"), LONG):
            reading.set()

    task = asyncio.create_task(read())
    await asyncio.wait_for(reading.wait(), 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(mesh.executor.killed.wait(), 10)


async def test_a_direct_run_in_one_message(mesh: Mesh) -> None:
    call = mesh.to_executor.call
    assert await call(SPEC, b"x", LONG) == WholeAnswer(AnswerHead(200), b"x")
    assert await call(SPEC, b"fail", LONG) == Outcome(Status.FAILED, "workflow_crashed", "it died")
    assert await call(SPEC, b"stream", LONG) is None
    assert mesh.executor.specs[0].requester_id == "org_4"
    events = [event async for event in mesh.to_executor.hold("run_1", LONG)]
    assert (events, mesh.executor.holding) == ([AnswerHead(201)], True)


async def test_a_cancelled_caller_of_a_direct_run_in_one_message_kills_it(mesh: Mesh) -> None:
    mesh.executor.stay = True
    task = asyncio.create_task(mesh.to_executor.call(SPEC, b"x", LONG))
    async with asyncio.timeout(10):
        while not mesh.executor.specs:  # noqa: ASYNC110  # a fake tells nobody
            await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(mesh.executor.killed.wait(), 10)


async def test_a_body_that_fails_tells_why(mesh: Mesh) -> None:
    with pytest.raises(Invalid) as refused:
        [event async for event in mesh.to_executor.run(SPEC, growing(), LONG)]
    assert refused.value.code == "too_large"


async def test_attaching(mesh: Mesh) -> None:
    assert [event async for event in mesh.to_executor.attach(mesh.address, "run_1", LONG)] == [AnswerHead(201)]
    with pytest.raises(NotFound):
        [event async for event in mesh.to_executor.attach(mesh.address, "run_2", LONG)]


async def test_an_executor_that_is_not_there_refuses(tmp_path: Path) -> None:
    async with ExecutorClient(f"unix:{tmp_path}/none.sock") as client:
        with pytest.raises(Unavailable) as refused:
            [event async for event in client.run(SPEC, chunks(), LONG)]
        with pytest.raises(Unavailable) as too:
            await client.call(SPEC, b"", LONG)
    assert refused.value.message.startswith("failed to connect")
    assert too.value.message.startswith("failed to connect")


async def test_the_scheduler(mesh: Mesh) -> None:
    runs, asker = mesh.to_runs, Asker("org_1", "key_1")
    assert await runs.provision("org_1", "key_1") == "run_p"
    assert await runs.submit(Submission(replace(SPEC, run_id=""), LONG, b"x")) == ("run_s", False)
    found = await runs.get(asker, "run_g", exact=True, summary=True)
    assert (found.id, found.cost_open) == ("run_g", True)
    watched = [record.status async for record in runs.watch(asker, "run_w", LONG, exact=True)]
    assert watched == [Status.QUEUED, Status.SUCCEEDED]
    narrowed: Any = {"service_id": "greet", "status": Status.FAILED, "trace_id": "a1"}
    listed, following = await runs.list("org_1", **narrowed, limit=5, after="run_a")
    assert ([record.id for record in listed], following) == (["run_l"], "run_l")
    await runs.cancel("org_1", "run_c", Status.TIMED_OUT, "late")
    provision, submit, get, watch, history, cancel = mesh.runs.asked
    assert (provision.organization_id, provision.key_id) == ("org_1", "key_1")
    assert (submit.body, submit.timeout_ms) == (b"x", 20_000)
    assert (get.one_time_key_id, get.summary, get.exact) == ("key_1", True, True)
    assert (watch.organization_id, watch.one_time_key_id, watch.exact) == ("org_1", "key_1", True)
    assert (history.service_id, history.status, history.limit, history.after) == ("greet", 5, 5, "run_a")
    assert (cancel.request_id, cancel.status, cancel.detail) == ("run_c", run_pb2.RUN_STATUS_TIMED_OUT, "late")
    with pytest.raises(NotFound):
        await runs.get(asker, "run_unknown")


async def test_names(mesh: Mesh) -> None:
    ((target, _),) = (await mesh.to_workflows.resolve("org_1", "greet")).shares
    assert (target.owner_id, target.service_id, target.version_id) == ("org_1", "greet", "ver_9")


async def test_blobs(mesh: Mesh) -> None:
    assert await mesh.to_blobs.put(chunks(b"a" * 600_000, b"b")) == "d" * 64
    assert max(mesh.blobs.sizes) <= 256 * 1024
    assert b"".join([part async for part in mesh.to_blobs.get("d" * 64)]) == b"a" * 600_000 + b"b"
    with pytest.raises(NotFound):
        [part async for part in mesh.to_blobs.get("e" * 64)]


async def test_a_broken_blob_tells_why_and_leaves_nothing(mesh: Mesh) -> None:
    with pytest.raises(Invalid) as refused:
        await mesh.to_blobs.put(growing())
    assert refused.value.code == "too_large"
    assert mesh.blobs.stored == b""


async def test_log_lines_on_the_bus() -> None:
    line = LogLine(NOW, 1, "stdout", "info", "hello", '{"a":1}')
    with nats_server() as url:
        async with open_bus(url, "test") as bus:
            logs = LogBus(bus)
            await logs.say("run_1", line)
            async with logs.tail("run_1") as following:
                assert await following(10) == line
                await logs.say("run_2", line)
                await logs.say("run_1", replace(line, end=True))
                assert await following(10) == replace(line, end=True)
                assert await following(0.05) is None
