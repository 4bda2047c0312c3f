"""An executor that runs nothing: it answers each call at once. What is left then is the mesh's own cost.

`python -m tests.bench.bare_executor`, in the executor's place.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from mesh.executor.v1 import executor_pb2, executor_pb2_grpc
from mesh.runs.v1 import run_pb2, runs_pb2, runs_pb2_grpc
from mesh.workflows.v1 import workflows_pb2

from kit.errors import Unavailable
from kit.lifecycle import background, main
from kit.rpc_client import connect, unary
from kit.rpc_server import RpcServer
from kit.settings import MeshSettings

BODY = b'{"message":"Hello Ada!","pid":1}'
HEAD = run_pb2.AnswerHead(status=200, headers=[run_pb2.Header(name="content-type", value=b"application/json")])
OUTCOME = run_pb2.Outcome(status=run_pb2.RUN_STATUS_SUCCEEDED)


class BareExecutor(executor_pb2_grpc.ExecutorServicer):
    """Reports like a real one under load, every 50 ms."""

    def __init__(self, runs: Any, address: str) -> None:
        self._runs = runs
        self._address = address
        self._incarnation = secrets.token_hex(8)
        self._batch = runs_pb2.ReportRequest()

    async def reporting(self) -> None:
        while True:
            await asyncio.sleep(0.05)
            if self._batch.started or self._batch.ended:
                batch, self._batch = self._batch, runs_pb2.ReportRequest()
                batch.executor, batch.incarnation = self._address, self._incarnation
                await unary(self._runs.Report, batch)

    async def leasing(self) -> None:
        """For ever, as a real one."""
        request = runs_pb2.RenewLeaseRequest(
            address=self._address, incarnation=self._incarnation, capacity=1000, first=True
        )
        while True:
            with suppress(Unavailable):  # the scheduler may come later than we
                await unary(self._runs.RenewLease, request, retry=True)
                request.first = False
            await asyncio.sleep(4 if not request.first else 0.2)

    def _done(self, spec: run_pb2.RunSpec) -> None:
        now = Timestamp()
        now.GetCurrentTime()
        self._batch.started.append(runs_pb2.RunStarted(spec=spec, started_at=now))
        answer = run_pb2.KeptAnswer(head=HEAD, content=BODY, size=len(BODY))
        self._batch.ended.append(
            runs_pb2.RunEnded(
                run_id=spec.run_id, attempt=spec.attempt, epoch=spec.epoch, outcome=OUTCOME, answer=answer,
                completed_at=now,
            )
        )  # fmt: skip

    async def Run(
        self, request_iterator: AsyncIterator[executor_pb2.RunRequest], context: Any
    ) -> AsyncIterator[run_pb2.RunEvent]:
        async for part in request_iterator:
            if part.HasField("spec"):
                self._done(part.spec)
        for event in events():
            yield event

    async def Call(self, request: executor_pb2.CallRequest, context: Any) -> executor_pb2.CallResponse:
        self._done(request.spec)
        return executor_pb2.CallResponse(answer=executor_pb2.WholeAnswer(head=HEAD, body=BODY))

    async def Start(self, request: executor_pb2.StartRequest, context: Any) -> executor_pb2.StartResponse:
        self._done(request.spec)
        return executor_pb2.StartResponse()

    async def Attach(self, request: executor_pb2.AttachRequest, context: Any) -> AsyncIterator[run_pb2.RunEvent]:
        for event in events():
            yield event

    async def Stop(self, request: executor_pb2.StopRequest, context: Any) -> executor_pb2.StopResponse:
        return executor_pb2.StopResponse()

    async def Validate(self, request: executor_pb2.ValidateRequest, context: Any) -> executor_pb2.ValidateResponse:
        report = [workflows_pb2.Check(check="syntax", passed=True)]
        return executor_pb2.ValidateResponse(report=report, python="3.11", isolation="cold")

    async def Warm(self, request: Any, context: Any) -> executor_pb2.WarmResponse:
        return executor_pb2.WarmResponse()


def events() -> list[run_pb2.RunEvent]:
    return [
        run_pb2.RunEvent(head=HEAD),
        run_pb2.RunEvent(body=BODY),
        run_pb2.RunEvent(body_complete=True),
        run_pb2.RunEvent(ended=OUTCOME),
    ]


async def build(settings: MeshSettings, stack: AsyncExitStack) -> RpcServer:
    channel: grpc.aio.Channel = await stack.enter_async_context(connect(settings.address("scheduler")))
    bare = BareExecutor(runs_pb2_grpc.RunsStub(channel), settings.address("executor"))
    for loop in (bare.reporting(), bare.leasing()):
        await stack.enter_async_context(background(loop))
    server = RpcServer(settings.address("executor"), grace=1)
    server.add(executor_pb2_grpc.add_ExecutorServicer_to_server, bare, "mesh.executor.v1.Executor")
    return await stack.enter_async_context(server)


if __name__ == "__main__":
    main("executor", MeshSettings, build)
