"""The executor by its own rpc: what a cold sandbox costs without Envoy, edge, keys and scheduler in front."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from mesh.executor.v1 import executor_pb2, executor_pb2_grpc
from mesh.keys.v1 import keys_pb2, keys_pb2_grpc
from mesh.runs.v1 import run_pb2
from mesh.workflows.v1 import workflows_pb2, workflows_pb2_grpc

from kit.names import new_id
from kit.rpc_client import connect, unary
from kit.settings import MeshSettings
from tests.bench.figures import Calls

BODY = b'{"name": "Ada"}'


async def executor_alone(settings: MeshSettings, key: str, connections: int, calls: int) -> Calls:
    """Latency until the answer's last byte, of `calls` runs by the direct way, `connections` at a time."""
    async with (
        connect(settings.address("keys")) as keys,
        connect(settings.address("scheduler")) as scheduler,
        connect(settings.address("executor")) as channel,
    ):
        verified = await unary(keys_pb2_grpc.KeysStub(keys).Verify, keys_pb2.VerifyRequest(key=key))
        organization = verified.principal.organization_id
        resolved = await unary(
            workflows_pb2_grpc.WorkflowsStub(scheduler).Resolve,
            workflows_pb2.ResolveRequest(organization_id=organization, reference="bench-cold"),
        )
        executor = executor_pb2_grpc.ExecutorStub(channel)
        taken: list[float] = []
        errors: dict[str, int] = {}
        left = calls

        async def one() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                started = time.perf_counter()
                code = await _run(executor, _spec(resolved.version, organization))
                if code:
                    errors[code] = errors.get(code, 0) + 1
                else:
                    taken.append((time.perf_counter() - started) * 1000)

        started = time.perf_counter()
        await asyncio.gather(*(one() for _ in range(connections)))
        seconds = time.perf_counter() - started
    return Calls(taken, seconds, errors)


async def _run(executor: Any, spec: run_pb2.RunSpec) -> str:
    """The outcome's code; empty when the workflow answered."""
    called = await unary(executor.Call, executor_pb2.CallRequest(spec=spec, body=BODY), timeout=120)
    if called.HasField("ended"):
        return str(called.ended.code)
    return "" if called.HasField("answer") else "not whole"


def _spec(version: workflows_pb2.Version, organization: str) -> run_pb2.RunSpec:
    run_id, now = new_id("run"), datetime.now(UTC)
    spec = run_pb2.RunSpec(
        run_id=run_id,
        owner_id=organization,
        caller_id=organization,
        acting_id=organization,
        service_id=version.service_id,
        version_id=version.id,
        request=run_pb2.RequestHead(
            method="POST", path="/", headers=[run_pb2.Header(name="content-type", value=b"application/json")]
        ),
        correlation_id=run_id,
        root_id=run_id,
        trigger=run_pb2.TRIGGER_API,
        attempt=1,
        synchronous=True,
    )
    spec.created_at.FromDatetime(now)
    spec.deadline.FromDatetime(now + timedelta(seconds=120))
    return spec
