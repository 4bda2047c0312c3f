"""The door: mesh.executor.v1.Executor."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from mesh.executor.v1 import executor_pb2, executor_pb2_grpc
from mesh.runs.v1 import run_pb2

from executor import wire
from executor.runs import Runs
from executor.steps import Steps
from executor.validate import Validate
from executor.versions import SourceStore
from executor.warm import Warm
from kit.errors import Invalid


class ExecutorServicer(executor_pb2_grpc.ExecutorServicer):
    """Runs of this host."""

    def __init__(self, runs: Runs, blobs: SourceStore, validate: Validate, steps: Steps, warm: Warm) -> None:
        self._runs = runs
        self._blobs = blobs
        self._validate = validate
        self._steps = steps
        self._warm = warm

    async def Run(
        self, request_iterator: AsyncIterator[executor_pb2.RunRequest], context: Any
    ) -> AsyncIterator[run_pb2.RunEvent]:
        async for first in request_iterator:
            spec = wire.from_spec(first.spec)
            async with aclosing(self._runs.call(spec, _body(request_iterator))) as events:
                async for event in events:
                    yield wire.to_event(event)
            return
        raise Invalid("a run begins with its spec")

    async def Call(self, request: executor_pb2.CallRequest, context: Any) -> executor_pb2.CallResponse:
        return wire.to_called(await self._runs.ask(wire.from_spec(request.spec, request.body), _once(request.body)))

    async def Start(self, request: executor_pb2.StartRequest, context: Any) -> executor_pb2.StartResponse:
        body = self._blobs.get(request.body_digest) if request.body_digest else _once(request.body)
        self._runs.start(wire.from_spec(request.spec), body, request.incarnation)
        return executor_pb2.StartResponse()

    async def Attach(self, request: executor_pb2.AttachRequest, context: Any) -> AsyncIterator[run_pb2.RunEvent]:
        async with aclosing(self._runs.attach(request.run_id, hold=request.hold)) as events:
            async for event in events:
                yield wire.to_event(event)

    async def Stop(self, request: executor_pb2.StopRequest, context: Any) -> executor_pb2.StopResponse:
        self._runs.stop(request.run_id, wire.from_outcome(request.outcome))
        return executor_pb2.StopResponse()

    async def Validate(self, request: executor_pb2.ValidateRequest, context: Any) -> executor_pb2.ValidateResponse:
        file_name = request.file_name or "workflow.py"
        report = await self._validate(
            request.organization_id,
            request.code.encode(),
            file_name,
            preload=request.preload,
            tell=self._steps.told_in(request.log_id),
        )
        return wire.to_validation(report)

    async def Warm(self, request: executor_pb2.WarmRequest, context: Any) -> executor_pb2.WarmResponse:
        await self._warm(request.version_id, request.organization_id)
        return executor_pb2.WarmResponse()


async def _body(requests: AsyncIterator[executor_pb2.RunRequest]) -> AsyncIterator[bytes]:
    async for request in requests:
        yield wire.body_part(request)


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body
