"""Calls to executors, the filestore and the ledger. By their shape these are the ports of deploy, dispatch, cancel,
reap and bills.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from typing import Any, Self

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from mesh.executor.v1 import executor_pb2, executor_pb2_grpc
from mesh.filestore.v1 import blobs_pb2, blobs_pb2_grpc
from mesh.ledger.v1 import ledger_pb2_grpc

from kit.errors import Precondition, Problem, Unavailable
from kit.rpc_client import connect, stream, unary
from kit.telemetry import log, span
from scheduler import bill_wire, wire, workflow_wire
from scheduler.bill import Bill
from scheduler.model import Outcome, Queued
from scheduler.workflow import Report

START_SECONDS = 10.0
STOP_SECONDS = 5.0
# Its environment may have to be built.
WARM_SECONDS = 30.0
PROBE_SECONDS = 2.0
PUT_SECONDS = 30.0
SETTLE_SECONDS = 10.0
CHUNK_BYTES = 256 * 1024


class Executors:
    """All executors, a channel each. `choose` gives the address of one that may check a source, `everyone` those of all
    that are there.
    """

    def __init__(
        self, choose: Callable[[], str], everyone: Callable[[], Iterable[str]], *, validate_seconds: float
    ) -> None:
        self._choose = choose
        self._all = everyone
        self._validate_seconds = validate_seconds
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def start(self, address: str, queued: Queued) -> None:
        """Errors: Unavailable when it has no room or can't be reached; whatever kind it refuses the run with."""
        run = queued.run
        request = wire.start_request(queued)
        # The executor's spans hang under scheduler.submit by the spec, beside scheduler.queue, which ends here.
        await self._call((await self._stub(address)).Start, request, START_SECONDS)
        with span("scheduler.queue", parent=run.traceparent, since=run.created_at, run_id=run.id, executor=address):
            pass

    async def stop(self, address: str, run_id: str, outcome: Outcome) -> None:
        """Nothing happens where it isn't under way. Errors: Unavailable."""
        request = wire.stop_request(run_id, outcome)
        await self._call((await self._stub(address)).Stop, request, STOP_SECONDS, retry=True)

    async def validate(
        self, organization_id: str, code: str, name: str, *, preload: bool = False, log_id: str = ""
    ) -> Report:
        """What an executor finds out about a source; it may build an environment for that. Errors: Unavailable."""
        request = executor_pb2.ValidateRequest(
            organization_id=organization_id, code=code, file_name=name, preload=preload, log_id=log_id
        )
        stub = await self._stub(self._choose())
        return workflow_wire.report(await self._call(stub.Validate, request, self._validate_seconds))

    async def warm(self, version_id: str, organization_id: str) -> None:
        """Every executor loads a version before calls are sent to it. Those that can't, or take too long, load it with
        the first call.
        """
        request = executor_pb2.WarmRequest(version_id=version_id, organization_id=organization_id)

        async def one(address: str) -> None:
            try:
                await self._call((await self._stub(address)).Warm, request, WARM_SECONDS)
            except Problem as problem:
                log().info("executor.not_warm", executor=address, version_id=version_id, reason=problem.message)

        await asyncio.gather(*map(one, self._all()))

    async def alive(self, address: str) -> bool:
        """Whether it answers that it is well: it isn't without its lease."""
        health = health_pb2_grpc.HealthStub(await self._channel(address))
        try:
            told = await unary(health.Check, health_pb2.HealthCheckRequest(), timeout=PROBE_SECONDS)
        except (Problem, grpc.aio.AioRpcError):
            return False
        return bool(told.status == health_pb2.HealthCheckResponse.SERVING)

    async def _call(self, method: Any, request: Any, timeout: float, *, retry: bool = False) -> Any:
        try:
            return await unary(method, request, timeout=timeout, retry=retry)
        except grpc.aio.AioRpcError as error:
            log().error("executor.broken", code=error.code().name, details=error.details())
            raise Precondition("the executor failed", code="runtime_error") from error

    async def _stub(self, address: str) -> "executor_pb2_grpc.ExecutorAsyncStub":
        return executor_pb2_grpc.ExecutorStub(await self._channel(address))

    async def _channel(self, address: str) -> grpc.aio.Channel:
        if address not in self._channels:
            if not address:
                raise Unavailable("no executor is known")
            channel = connect(address)
            self._channels[address] = channel
            self._stack.push_async_callback(channel.close)
        return self._channels[address]


class BlobStore:
    """The filestore's blobs."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub: Any = blobs_pb2_grpc.BlobsStub(channel)

    async def put(self, content: bytes) -> str:
        """The SHA-256 (hex) of what is now stored. Errors: Unavailable."""

        async def chunks() -> AsyncIterator[blobs_pb2.PutBlobRequest]:
            for start in range(0, len(content), CHUNK_BYTES):
                yield blobs_pb2.PutBlobRequest(data=content[start : start + CHUNK_BYTES], lasting=True)
            yield blobs_pb2.PutBlobRequest(lasting=True, whole=True)

        response = await unary(self._stub.PutBlob, chunks(), timeout=PUT_SECONDS)
        return str(response.digest)

    async def get(self, digest: str) -> bytes:
        """Errors: NotFound; Unavailable."""
        request = blobs_pb2.GetBlobRequest(digest=digest)
        return b"".join([part.data async for part in stream(self._stub.GetBlob, request, timeout=PUT_SECONDS)])


class LedgerClient:
    """The ledger, which keys has."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = ledger_pb2_grpc.LedgerStub(channel)

    async def settle(self, bills: Sequence[Bill]) -> None:
        """Errors: Unavailable, also when it fails: it may have booked them; whatever kind it refuses them with."""
        try:
            await unary(self._stub.Settle, bill_wire.settlement(bills), timeout=SETTLE_SECONDS)
        except grpc.aio.AioRpcError as error:
            log().error("ledger.broken", code=error.code().name, details=error.details())
            raise Unavailable("the ledger failed") from error
