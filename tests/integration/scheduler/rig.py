"""The scheduler as `build` makes it, on UNIX sockets, among made-up neighbours and a real nats-server."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from types import MappingProxyType
from typing import Any

from mesh.executor.v1 import executor_pb2, executor_pb2_grpc
from mesh.filestore.v1 import blobs_pb2, blobs_pb2_grpc
from mesh.ledger.v1 import ledger_pb2, ledger_pb2_grpc
from mesh.runs.v1 import run_pb2, runs_pb2, runs_pb2_grpc
from mesh.schedules.v1 import schedules_pb2_grpc
from mesh.workflows.v1 import workflows_pb2, workflows_pb2_grpc

from kit.bus import Bus, open_bus
from kit.clock import Clock
from kit.errors import Invalid, Unavailable
from kit.rpc_client import connect, stream, unary
from kit.rpc_server import RpcServer
from migrations.__main__ import upgrade
from scheduler.main import build
from scheduler.settings import Settings

HEAD = run_pb2.RequestHead(method="POST", path="/x", headers=[run_pb2.Header(name="x", value=b"\xff")])


@dataclass
class Neighbours(executor_pb2_grpc.ExecutorServicer, blobs_pb2_grpc.BlobsServicer, ledger_pb2_grpc.LedgerServicer):
    """Executor, filestore and ledger in one."""

    starts: list[executor_pb2.StartRequest] = field(default_factory=list)
    stops: list[executor_pb2.StopRequest] = field(default_factory=list)
    blobs: dict[str, bytes] = field(default_factory=dict)
    full: bool = False
    checks: list[workflows_pb2.Check] = field(default_factory=list)
    limits: workflows_pb2.Limits = field(default_factory=workflows_pb2.Limits)
    openapi: str = "{}"
    warmed: list[tuple[str, str]] = field(default_factory=list)

    settled: list[ledger_pb2.Bill] = field(default_factory=list)
    ledger_away: bool = False

    async def Settle(self, request: Any, context: Any) -> ledger_pb2.SettleResponse:
        self.settled += request.bills
        if self.ledger_away:
            raise RuntimeError("it fails after it has booked them")
        return ledger_pb2.SettleResponse()

    async def Start(self, request: Any, context: Any) -> executor_pb2.StartResponse:
        if self.full:
            raise Unavailable("no room", retry_after=timedelta(seconds=1))
        self.starts.append(request)
        return executor_pb2.StartResponse()

    async def Stop(self, request: Any, context: Any) -> executor_pb2.StopResponse:
        self.stops.append(request)
        return executor_pb2.StopResponse()

    async def Validate(self, request: Any, context: Any) -> executor_pb2.ValidateResponse:
        return executor_pb2.ValidateResponse(
            report=self.checks, python="3.11", isolation="cold", openapi=self.openapi, limits=self.limits
        )

    async def Warm(self, request: Any, context: Any) -> executor_pb2.WarmResponse:
        self.warmed.append((request.version_id, request.organization_id))
        return executor_pb2.WarmResponse()

    async def PutBlob(self, request_iterator: Any, context: Any) -> blobs_pb2.PutBlobResponse:
        parts = [part async for part in request_iterator]
        if not (parts and parts[-1].whole):
            raise Invalid("the blob ended before its last message")
        data = b"".join(part.data for part in parts)
        digest = hashlib.sha256(data).hexdigest()
        self.blobs[digest] = data
        return blobs_pb2.PutBlobResponse(digest=digest, size=len(data))


class Service:
    """A running scheduler and what its callers do with it."""

    def __init__(self, settings: Settings, neighbours: Neighbours, bus: Bus, channel: Any) -> None:
        self.settings = settings
        self.neighbours = neighbours
        self.bus = bus
        self.runs: Any = runs_pb2_grpc.RunsStub(channel)
        self.workflows: Any = workflows_pb2_grpc.WorkflowsStub(channel)
        self.schedules: Any = schedules_pb2_grpc.SchedulesStub(channel)

    async def deploy(self, organization: str = "org_a", service_id: str = "svc") -> str:
        """The id of the version."""
        request = workflows_pb2.DeployRequest(
            organization_id=organization, code="app = 1\n", name="x", service_id=service_id, publish=True
        )
        await unary(self.workflows.Deploy, request)
        asked = workflows_pb2.ResolveRequest(organization_id=organization, reference=service_id)
        return str((await unary(self.workflows.Resolve, asked)).version.id)

    async def submit(
        self, version_id: str, *, synchronous: bool = False, spec: Mapping[str, Any] = MappingProxyType({}), **more: Any
    ) -> str:
        whole = run_pb2.RunSpec(
            synchronous=synchronous,
            owner_id="org_a",
            caller_id="org_a",
            acting_id="org_a",
            service_id="svc",
            version_id=version_id,
            request=HEAD,
            trigger=run_pb2.TRIGGER_API,
            **spec,
        )
        request = runs_pb2.SubmitRequest(spec=whole, body=b"body", timeout_ms=60_000, **more)
        return str((await unary(self.runs.Submit, request)).run_id)

    async def get(self, request_id: str, organization: str = "org_a") -> runs_pb2.RunRecord:
        request = runs_pb2.GetRunRequest(organization_id=organization, request_id=request_id)
        record: runs_pb2.RunRecord = (await unary(self.runs.GetRun, request)).run
        return record

    async def watch(self, request_id: str) -> AsyncGenerator[runs_pb2.RunRecord, None]:
        request = runs_pb2.WatchRunRequest(organization_id="org_a", request_id=request_id)
        async for response in stream(self.runs.WatchRun, request, timeout=20):
            yield response.run

    async def until(self, request_id: str, status: "run_pb2.RunStatus.ValueType") -> runs_pb2.RunRecord:
        """The record as soon as it stands there."""
        async with asyncio.timeout(20):
            async for record in self.watch(request_id):
                if record.status == status:
                    return record
        raise AssertionError("it never got there")

    async def eventually(self, true: Callable[[], Awaitable[bool]]) -> None:
        """Within 20 s."""
        async with asyncio.timeout(20):
            while not await true():  # noqa: ASYNC110  # it is asked for
                await asyncio.sleep(0.02)

    async def report(self, *, started: str = "", ended: str = "", status: int = 4, **more: Any) -> None:
        """As the executor of this host."""
        address = self.settings.address("executor")
        request = runs_pb2.ReportRequest(executor=address, incarnation="inc_1")
        if started:
            request.started.add(spec=run_pb2.RunSpec(run_id=started, attempt=1, epoch=1))
        if ended:
            outcome = run_pb2.Outcome(status=run_pb2.RunStatus.ValueType(status))
            answer = runs_pb2.RunEnded(answer=_answer()).answer
            used = run_pb2.Usage(cpu_seconds=0.5, wall_seconds=1.5, memory_peak_bytes=1 << 30, egress_bytes=7)
            more |= {"outcome": outcome, "answer": answer, "log_digest": "f" * 64, "usage": used}
            request.ended.add(run_id=ended, attempt=1, epoch=1, **more)
        await unary(self.runs.Report, request)

    async def beat(self, incarnation: str = "inc_1") -> None:
        """The executor of this host lives."""
        address = self.settings.address("executor")
        request = runs_pb2.RenewLeaseRequest(address=address, incarnation=incarnation, capacity=1000, first=True)
        assert (await unary(self.runs.RenewLease, request)).lease_ms == 20_000


def _answer() -> run_pb2.KeptAnswer:
    return run_pb2.KeptAnswer(head=run_pb2.AnswerHead(status=200), content=b'{"a": 1}', size=8)


@asynccontextmanager
async def neighbours_up(settings: Settings) -> AsyncIterator[Neighbours]:
    neighbours = Neighbours()  # type: ignore[abstract]  # the rest of their methods isn't called
    async with AsyncExitStack() as stack:
        executor = RpcServer(settings.address("executor"), grace=1)
        executor.add(executor_pb2_grpc.add_ExecutorServicer_to_server, neighbours, "mesh.executor.v1.Executor")
        await stack.enter_async_context(executor)
        await executor.serving(True)
        filestore = RpcServer(settings.address("filestore"), grace=1)
        filestore.add(blobs_pb2_grpc.add_BlobsServicer_to_server, neighbours, "mesh.filestore.v1.Blobs")
        await stack.enter_async_context(filestore)
        keys = RpcServer(settings.address("keys"), grace=1)
        keys.add(ledger_pb2_grpc.add_LedgerServicer_to_server, neighbours, "mesh.ledger.v1.Ledger")
        await stack.enter_async_context(keys)
        yield neighbours


@asynccontextmanager
async def running(settings: Settings, neighbours: Neighbours, clock: Clock | None = None) -> AsyncIterator[Service]:
    await asyncio.to_thread(upgrade, "scheduler", settings.database_url("scheduler"))
    async with AsyncExitStack() as stack:
        server = await build(settings, stack, clock=clock)
        bus = await stack.enter_async_context(open_bus(settings.nats_url, "test"))
        channel = await stack.enter_async_context(connect(server.address))
        service = Service(settings, neighbours, bus, channel)
        await service.beat()
        yield service
