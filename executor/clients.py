"""The other services, as the executor's ports want them."""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, cast

import grpc
from mesh.filestore.v1 import blobs_pb2, blobs_pb2_grpc
from mesh.keys.v1 import secrets_pb2, secrets_pb2_grpc
from mesh.runs.v1 import runs_pb2, runs_pb2_grpc
from mesh.workflows.v1 import workflows_pb2, workflows_pb2_grpc

from executor import wire
from executor.lease import Beat
from executor.model import Limits, Secret, Version
from executor.report import Fact
from kit.rpc_client import stream, unary

# A whole body or log, at the speed of a slow disk.
BYTES_SECONDS = 30.0
RENEW_SECONDS = 3.0


class SchedulerClient:
    """versions.VersionBook, report.Scheduler and lease.Scheduler."""

    def __init__(self, channel: grpc.aio.Channel, address: str, incarnation: Callable[[], str], most: Limits) -> None:
        """`incarnation` tells whose lease there is; `most`: what this host gives to a run at most."""
        self._most = most
        self._workflows = workflows_pb2_grpc.WorkflowsStub(channel)
        self._runs = runs_pb2_grpc.RunsStub(channel)
        self._address = address
        self._incarnation = incarnation

    async def version(self, version_id: str) -> Version:
        request = workflows_pb2.GetVersionRequest(version_id=version_id)
        reply = await unary(self._workflows.GetVersion, request, retry=True)
        version = wire.from_version(reply.version)
        return replace(version, limits=version.limits.within(self._most))

    async def report(self, facts: list[Fact]) -> None:
        await unary(self._runs.Report, wire.to_report(self._address, self._incarnation(), facts))

    async def renew(self, beat: Beat) -> timedelta:
        request = runs_pb2.RenewLeaseRequest(address=self._address, **vars(beat))
        reply = await unary(self._runs.RenewLease, request, timeout=RENEW_SECONDS)
        return timedelta(milliseconds=reply.lease_ms)


class KeysClient:
    """variables.SecretValues and validate.SecretNames."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._secrets = secrets_pb2_grpc.SecretsStub(channel)

    async def values(self, organization_id: str, names: Sequence[str]) -> dict[str, Secret]:
        request = secrets_pb2.ResolveSecretsRequest(organization_id=organization_id, names=names)
        reply = await unary(self._secrets.ResolveSecrets, request, retry=True)
        outside = {name: Secret(one.value, tuple(one.hosts)) for name, one in reply.fill_ins.items()}
        return {name: Secret(value) for name, value in reply.values.items()} | outside


class FilestoreClient:
    """versions.SourceStore and keep.BlobStore."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._blobs = blobs_pb2_grpc.BlobsStub(channel)

    async def get(self, digest: str) -> AsyncIterator[bytes]:
        request = blobs_pb2.GetBlobRequest(digest=digest)
        async for reply in stream(self._blobs.GetBlob, request, timeout=BYTES_SECONDS):
            yield reply.data

    async def put(self, chunks: Iterator[bytes]) -> str:
        async def parts() -> AsyncIterator[blobs_pb2.PutBlobRequest]:
            for chunk in chunks:
                yield blobs_pb2.PutBlobRequest(data=chunk)
            yield blobs_pb2.PutBlobRequest(whole=True)

        method = cast(Any, self._blobs.PutBlob)
        reply = await unary(method, parts(), timeout=BYTES_SECONDS)
        return cast(blobs_pb2.PutBlobResponse, reply).digest
