"""What the run endpoints use of the mesh: adapters of the ports that the use cases declare."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any, Self

import grpc
from mesh.events.v1 import events_pb2
from mesh.executor.v1 import executor_pb2, executor_pb2_grpc
from mesh.filestore.v1 import blobs_pb2, blobs_pb2_grpc
from mesh.runs.v1 import run_pb2, runs_pb2, runs_pb2_grpc
from mesh.workflows.v1 import workflows_pb2, workflows_pb2_grpc

from edge import run_wire as wire
from edge.run_model import (
    Asker,
    Given,
    LogLine,
    Outcome,
    Resolved,
    RunEvent,
    RunRecord,
    RunSpec,
    Status,
    Submission,
    VersionOf,
    WholeAnswer,
)
from kit.bus import Bus
from kit.errors import Unavailable
from kit.rpc_client import connect, stream, unary

CHUNK_BYTES = 256 * 1024


class WorkflowsClient:
    """targets.Workflows and replay.Versions."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = workflows_pb2_grpc.WorkflowsStub(channel)

    async def resolve(self, organization_id: str, reference: str) -> Resolved:
        request = workflows_pb2.ResolveRequest(organization_id=organization_id, reference=reference)
        return wire.from_resolved(await unary(self._stub.Resolve, request, retry=True))

    async def version(self, version_id: str) -> VersionOf:
        request = workflows_pb2.GetVersionRequest(version_id=version_id)
        found = (await unary(self._stub.GetVersion, request, retry=True)).version
        lock = hashlib.sha256(found.lock.encode()).hexdigest()
        return VersionOf(found.workflow_id, found.number, found.source_digest, lock)


class RunsClient:
    """durable.Runs, reading.Runs, runs.Runs and replay.Inputs."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = runs_pb2_grpc.RunsStub(channel)

    async def provision(self, organization_id: str, key_id: str) -> str:
        request = runs_pb2.ProvisionRequest(organization_id=organization_id, key_id=key_id)
        return (await unary(self._stub.Provision, request)).request_id

    async def submit(self, submission: Submission) -> tuple[str, bool]:
        reply = await unary(self._stub.Submit, wire.to_submission(submission))
        return reply.run_id, reply.known

    async def get(self, asker: Asker, request_id: str, *, exact: bool = False, summary: bool = False) -> RunRecord:
        request = runs_pb2.GetRunRequest(
            organization_id=asker.organization_id,
            request_id=request_id,
            one_time_key_id=asker.one_time_key_id,
            summary=summary,
            exact=exact,
        )
        reply = await unary(self._stub.GetRun, request, retry=True)
        return replace(wire.from_record(reply.run), cost_open=reply.cost_open)

    async def watch(
        self, asker: Asker, request_id: str, timeout: timedelta, *, exact: bool = False
    ) -> AsyncGenerator[RunRecord, None]:
        request = runs_pb2.WatchRunRequest(
            organization_id=asker.organization_id,
            request_id=request_id,
            one_time_key_id=asker.one_time_key_id,
            exact=exact,
        )
        async with aclosing(stream(self._stub.WatchRun, request, timeout=timeout.total_seconds())) as replies:
            async for reply in replies:
                yield wire.from_record(reply.run)

    async def list(
        self, organization_id: str, *, service_id: str, status: Status | None, trace_id: str, limit: int, after: str
    ) -> tuple[list[RunRecord], str]:
        request = runs_pb2.ListRunsRequest(
            organization_id=organization_id,
            service_id=service_id,
            status=_status(status) if status else run_pb2.RUN_STATUS_UNSPECIFIED,
            trace_id=trace_id,
            limit=limit,
            after=after,
        )
        reply = await unary(self._stub.ListRuns, request, retry=True)
        return [wire.from_record(record) for record in reply.runs], reply.next

    async def given(self, organization_id: str, run_id: str) -> Given:
        request = runs_pb2.GetInputRequest(organization_id=organization_id, run_id=run_id)
        return wire.from_given(await unary(self._stub.GetInput, request, retry=True))

    async def cancel(self, organization_id: str, request_id: str, status: Status, detail: str) -> None:
        request = runs_pb2.CancelRunRequest(
            organization_id=organization_id, request_id=request_id, status=_status(status), detail=detail
        )
        await unary(self._stub.CancelRun, request, retry=True)


class ExecutorClient:
    """direct.Executor and durable.Executor. Enter it: it keeps a channel to each executor that it has spoken to."""

    def __init__(self, default_address: str) -> None:
        self._default = default_address
        self._stubs: dict[str, executor_pb2_grpc.ExecutorAsyncStub] = {}
        self._channels = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channels.aclose()

    async def call(self, spec: RunSpec, body: bytes, timeout: timedelta) -> WholeAnswer | Outcome | None:
        executor = await self._stub(self._default)
        request = executor_pb2.CallRequest(spec=wire.to_spec(spec), body=body)
        return wire.from_called(await unary(executor.Call, request, timeout=timeout.total_seconds()))

    async def run(
        self, spec: RunSpec, body: AsyncIterator[bytes], timeout: timedelta
    ) -> AsyncGenerator[RunEvent, None]:
        failure: list[Exception] = []

        async def parts() -> AsyncIterator[executor_pb2.RunRequest]:
            yield executor_pb2.RunRequest(spec=wire.to_spec(spec))
            try:
                async for chunk in body:
                    for start in range(0, len(chunk), CHUNK_BYTES):
                        yield executor_pb2.RunRequest(body=chunk[start : start + CHUNK_BYTES])
            except Exception as error:
                # grpc cancels the call and forgets why: the cause is told below.
                failure.append(error)
                raise

        executor = await self._stub(self._default)
        async with aclosing(stream(executor.Run, parts(), timeout=timeout.total_seconds())) as events:
            try:
                async for event in _events(events):
                    yield event
            except Unavailable:
                if failure:
                    raise failure[0] from None
                raise

    async def attach(self, address: str, run_id: str, timeout: timedelta) -> AsyncGenerator[RunEvent, None]:
        request = executor_pb2.AttachRequest(run_id=run_id)
        async with aclosing(self._attached(address, request, timeout)) as events:
            async for event in events:
                yield event

    async def hold(self, run_id: str, timeout: timedelta) -> AsyncGenerator[RunEvent, None]:
        request = executor_pb2.AttachRequest(run_id=run_id, hold=True)
        async with aclosing(self._attached(self._default, request, timeout)) as events:
            async for event in events:
                yield event

    async def _attached(
        self, address: str, request: executor_pb2.AttachRequest, timeout: timedelta
    ) -> AsyncGenerator[RunEvent, None]:
        executor = await self._stub(address)
        async with aclosing(stream(executor.Attach, request, timeout=timeout.total_seconds())) as events:
            async for event in _events(events):
                yield event

    async def _stub(self, address: str) -> "executor_pb2_grpc.ExecutorAsyncStub":
        if address not in self._stubs:
            channel = connect(address)
            # Before the first await, so that two calls at once make one channel.
            self._stubs[address] = executor_pb2_grpc.ExecutorStub(channel)
            await self._channels.enter_async_context(channel)
        return self._stubs[address]


class BlobsClient:
    """run_model.Blobs."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = blobs_pb2_grpc.BlobsStub(channel)

    async def put(self, chunks: AsyncIterator[bytes]) -> str:
        failure: list[Exception] = []

        async def parts() -> AsyncIterator[blobs_pb2.PutBlobRequest]:
            try:
                async for chunk in chunks:
                    for start in range(0, len(chunk), CHUNK_BYTES):
                        yield blobs_pb2.PutBlobRequest(data=chunk[start : start + CHUNK_BYTES])
                yield blobs_pb2.PutBlobRequest(whole=True)
            except Exception as error:
                failure.append(error)
                raise

        put: Any = self._stub.PutBlob  # kit.rpc_client.unary takes a stream of requests just as well
        try:
            return str((await unary(put, parts(), timeout=600)).digest)
        except (Unavailable, asyncio.CancelledError):
            if failure:
                raise failure[0] from None
            raise

    async def get(self, digest: str) -> AsyncGenerator[bytes, None]:
        request = blobs_pb2.GetBlobRequest(digest=digest)
        async with aclosing(stream(self._stub.GetBlob, request, timeout=600)) as replies:
            async for reply in replies:
                yield reply.data


class LogBus:
    """logs.LogBus and calls.Refusals: `log.RUN_ID` on the bus."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def say(self, run_id: str, line: LogLine) -> None:
        await self._bus.send(f"log.{run_id}", wire.to_line(line).SerializeToString())

    @asynccontextmanager
    async def tail(self, run_id: str) -> AsyncIterator[Callable[[float], Awaitable[LogLine | None]]]:
        async with self._bus.tail(f"log.{run_id}") as following:

            async def line(seconds: float) -> LogLine | None:
                payload = await following(seconds)
                return None if payload is None else wire.from_line(events_pb2.LogLine.FromString(payload))

            yield line


async def _events(replies: AsyncIterator[run_pb2.RunEvent]) -> AsyncGenerator[RunEvent, None]:
    async for reply in replies:
        event = wire.from_event(reply)
        if event is not None:
            yield event


def _status(status: Status) -> run_pb2.RunStatus.ValueType:
    return run_pb2.RunStatus.Value(f"RUN_STATUS_{status.name}")
