"""The executor service as `build` makes it, on UNIX sockets, among made-up neighbours and a real nats-server."""

import asyncio
import hashlib
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TextIO

from mesh.executor.v1 import executor_pb2, executor_pb2_grpc
from mesh.filestore.v1 import blobs_pb2, blobs_pb2_grpc
from mesh.keys.v1 import secrets_pb2, secrets_pb2_grpc
from mesh.ledger.v1 import ledger_pb2, ledger_pb2_grpc, prices_pb2, prices_pb2_grpc
from mesh.runs.v1 import run_pb2, runs_pb2, runs_pb2_grpc
from mesh.workflows.v1 import workflows_pb2, workflows_pb2_grpc

from executor.main import build
from executor.sandboxes import Sandboxes
from executor.settings import Settings
from executor.wire import to_time
from kit.errors import Conflict, Exhausted, Invalid, NotFound
from kit.names import new_id
from kit.rpc_client import connect, stream, unary
from kit.rpc_server import RpcServer


@dataclass
class Neighbours(
    workflows_pb2_grpc.WorkflowsServicer,
    runs_pb2_grpc.RunsServicer,
    secrets_pb2_grpc.SecretsServicer,
    blobs_pb2_grpc.BlobsServicer,
    ledger_pb2_grpc.LedgerServicer,
    prices_pb2_grpc.PricesServicer,
):
    """Scheduler, keys and filestore in one: what the executor asks of them."""

    versions: dict[str, workflows_pb2.Version] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    started: list[runs_pb2.RunStarted] = field(default_factory=list)
    ended: dict[str, runs_pb2.RunEnded] = field(default_factory=dict)
    renewed: list[runs_pb2.RenewLeaseRequest] = field(default_factory=list)
    given_up: set[str] = field(default_factory=set)
    lease_ms: int = 20_000
    prices: list[prices_pb2.Price] = field(default_factory=list)
    credit: int = 0
    purses: Counter[str] = field(default_factory=Counter)

    def deploy(self, source: str, **fields: Any) -> str:
        """A version of this source; its id."""
        version = workflows_pb2.Version(id=new_id("ver"), file_name="workflow.py", python="3.11", **fields)
        version.source_digest = self.keep(source.encode())
        self.versions[version.id] = version
        return version.id

    def keep(self, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        self.blobs[digest] = data
        return digest

    async def GetVersion(self, request: Any, context: Any) -> workflows_pb2.GetVersionResponse:
        if request.version_id not in self.versions:
            raise NotFound("no such version")
        return workflows_pb2.GetVersionResponse(version=self.versions[request.version_id])

    async def RenewLease(self, request: Any, context: Any) -> runs_pb2.RenewLeaseResponse:
        self.renewed.append(request)
        if request.incarnation in self.given_up:
            raise Conflict("given up")
        return runs_pb2.RenewLeaseResponse(lease_ms=self.lease_ms)

    async def Report(self, request: Any, context: Any) -> runs_pb2.ReportResponse:
        self.started += request.started
        self.ended.update({ended.run_id: ended for ended in request.ended})
        return runs_pb2.ReportResponse()

    async def ResolveSecrets(self, request: Any, context: Any) -> secrets_pb2.ResolveSecretsResponse:
        found = {name: self.secrets[name] for name in request.names if name in self.secrets}
        return secrets_pb2.ResolveSecretsResponse(values=found)

    async def ListPrices(self, request: Any, context: Any) -> prices_pb2.ListPricesResponse:
        return prices_pb2.ListPricesResponse(prices=self.prices)

    async def Draw(self, request: ledger_pb2.DrawRequest, context: Any) -> ledger_pb2.DrawResponse:
        amount = min(self.credit, request.want)
        if amount < request.need:
            raise Exhausted("no credit is left", code="payment_required")
        self.credit -= amount
        self.purses[request.purse_id] += amount
        return ledger_pb2.DrawResponse(amount=amount)

    async def GiveBack(self, request: ledger_pb2.GiveBackRequest, context: Any) -> ledger_pb2.GiveBackResponse:
        self.credit += request.amount
        self.purses[request.purse_id] -= request.amount
        return ledger_pb2.GiveBackResponse()

    async def KeepPurses(self, request: ledger_pb2.KeepPursesRequest, context: Any) -> ledger_pb2.KeepPursesResponse:
        return ledger_pb2.KeepPursesResponse()

    async def GetBlob(self, request: Any, context: Any) -> AsyncIterator[blobs_pb2.GetBlobResponse]:
        if request.digest not in self.blobs:
            raise NotFound("no such blob")
        yield blobs_pb2.GetBlobResponse(data=self.blobs[request.digest])

    async def PutBlob(self, request_iterator: Any, context: Any) -> blobs_pb2.PutBlobResponse:
        parts = [part async for part in request_iterator]
        if not (parts and parts[-1].whole):
            raise Invalid("the blob ended before its last message")
        data = b"".join(part.data for part in parts)
        return blobs_pb2.PutBlobResponse(digest=self.keep(data), size=len(data))


@dataclass
class Seen:
    """What a caller got of a run."""

    status: int = 0
    headers: dict[str, bytes] = field(default_factory=dict)
    body: bytes = b""
    complete: bool = False
    outcome: run_pb2.Outcome = field(default_factory=run_pb2.Outcome)

    def add(self, event: run_pb2.RunEvent) -> None:
        match event.WhichOneof("event"):
            case "head":
                self.status = event.head.status
                self.headers = {header.name: header.value for header in event.head.headers}
            case "body":
                self.body += event.body
            case "body_complete":
                self.complete = True
            case "ended":
                self.outcome = event.ended


class Mesh:
    """An executor that serves."""

    def __init__(self, settings: Settings, neighbours: Neighbours, stub: "executor_pb2_grpc.ExecutorAsyncStub") -> None:
        self.settings = settings
        self.neighbours = neighbours
        self.stub = stub

    def spec(self, version_id: str, *, seconds: float = 50, path: str = "/", **fields: Any) -> run_pb2.RunSpec:
        return run_pb2.RunSpec(
            run_id=new_id("run"),
            version_id=version_id,
            caller_id="org_caller",
            acting_id="org_owner",
            service_id="test",
            request=run_pb2.RequestHead(method="POST", path=path),
            deadline=to_time(datetime.now(UTC) + timedelta(seconds=seconds)),
            attempt=1,
            **fields,
        )

    async def run(self, spec: run_pb2.RunSpec, *body: bytes) -> Seen:
        seen = Seen()
        async for event in self.events(spec, *body):
            seen.add(event)
        return seen

    async def events(self, spec: run_pb2.RunSpec, *body: bytes) -> AsyncIterator[run_pb2.RunEvent]:
        async def parts() -> AsyncIterator[executor_pb2.RunRequest]:
            yield executor_pb2.RunRequest(spec=spec)
            for part in body:
                yield executor_pb2.RunRequest(body=part)

        async for event in stream(self.stub.Run, parts(), timeout=60):
            yield event

    async def start(self, spec: run_pb2.RunSpec, **more: Any) -> None:
        """As the scheduler does, to whom the executor has made itself known."""
        await until(lambda: self.neighbours.renewed)
        life = self.neighbours.renewed[-1].incarnation
        await unary(self.stub.Start, executor_pb2.StartRequest(spec=spec, **{"incarnation": life, **more}))

    async def attach(self, run_id: str) -> Seen:
        seen = Seen()
        async for event in stream(self.stub.Attach, executor_pb2.AttachRequest(run_id=run_id), timeout=60):
            seen.add(event)
        return seen

    async def ended(self, run_id: str) -> runs_pb2.RunEnded:
        """What the scheduler was told about it, in the end."""
        await until(lambda: run_id in self.neighbours.ended)
        return self.neighbours.ended[run_id]


async def until(true: Callable[[], object], seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110  # another process tells nobody
            await asyncio.sleep(0.01)


@contextmanager
def executor_process(settings: Settings, **environ: str) -> Iterator["subprocess.Popen[str]"]:
    """`python -m executor` with these settings' home and bus, ready; it is told to stop afterwards."""
    own = {"RUNMESH_HOME": str(settings.home), "RUNMESH_NATS_URL": settings.nats_url, **environ}
    process = subprocess.Popen(
        [sys.executable, "-m", "executor"], env={**os.environ, **own}, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    echoing = threading.Thread(target=_echo, args=(process.stderr,))
    try:
        said = []
        for line in process.stderr:
            said.append(line)
            if "service.ready" in line:
                break
        else:
            raise RuntimeError("the executor didn't start:\n" + "".join(said))
        echoing.start()
        yield process
    finally:
        process.terminate()
        process.wait(30)
        if echoing.ident:
            echoing.join()
        process.stderr.close()


@asynccontextmanager
async def executor_beside(settings: Settings, **environ: str) -> AsyncIterator["subprocess.Popen[str]"]:
    """The same, while neighbours in this process answer it."""
    manager = executor_process(settings, **environ)
    process = await asyncio.to_thread(manager.__enter__)
    try:
        yield process
    finally:
        await asyncio.to_thread(manager.__exit__, None, None, None)


def _echo(stream: TextIO) -> None:
    for line in stream:
        sys.stderr.write(line)


@asynccontextmanager
async def mesh_up(settings: Settings, sandboxes: Sandboxes | None, **theirs: Any) -> AsyncIterator[Mesh]:
    """All of it in this process, unless `sandboxes` is None: then the executor runs elsewhere. Leaving drains it.
    `theirs`: what the neighbours have.
    """
    neighbours = Neighbours(**theirs)  # type: ignore[abstract]  # only what the executor calls
    async with AsyncExitStack() as stack:
        for name, register, full_name in (
            ("scheduler", runs_pb2_grpc.add_RunsServicer_to_server, "mesh.runs.v1.Runs"),
            ("keys", secrets_pb2_grpc.add_SecretsServicer_to_server, "mesh.keys.v1.Secrets"),
            ("filestore", blobs_pb2_grpc.add_BlobsServicer_to_server, "mesh.filestore.v1.Blobs"),
        ):
            server = RpcServer(settings.address(name), grace=1).add(register, neighbours, full_name)
            if name == "keys":
                server.add(ledger_pb2_grpc.add_LedgerServicer_to_server, neighbours, "mesh.ledger.v1.Ledger")
                server.add(prices_pb2_grpc.add_PricesServicer_to_server, neighbours, "mesh.ledger.v1.Prices")
            if name == "scheduler":
                server.add(
                    workflows_pb2_grpc.add_WorkflowsServicer_to_server, neighbours, "mesh.workflows.v1.Workflows"
                )
            await stack.enter_async_context(server)
        channel = await stack.enter_async_context(connect(settings.address("executor")))
        if sandboxes is not None:
            await build(settings, stack, sandboxes=sandboxes)
        yield Mesh(settings, neighbours, executor_pb2_grpc.ExecutorStub(channel))
