"""The other services, as the executor's ports want them."""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, timedelta
from typing import Any, cast

import grpc
from mesh.filestore.v1 import blobs_pb2, blobs_pb2_grpc
from mesh.keys.v1 import secrets_pb2, secrets_pb2_grpc
from mesh.ledger.v1 import ledger_pb2, ledger_pb2_grpc, prices_pb2, prices_pb2_grpc
from mesh.runs.v1 import runs_pb2, runs_pb2_grpc
from mesh.workflows.v1 import workflows_pb2, workflows_pb2_grpc

from executor import wire
from executor.bill import Budget
from executor.lease import Beat
from executor.model import Limits, Secret, Version
from executor.prices import Price
from executor.purse import PATIENCE_SECONDS, Draw
from executor.report import Fact
from kit.errors import Unavailable
from kit.rpc_client import stream, unary
from kit.telemetry import log

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


class LedgerClient:
    """purse.Ledger and prices.PriceSource."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._ledger = ledger_pb2_grpc.LedgerStub(channel)
        self._prices = prices_pb2_grpc.PricesStub(channel)

    async def draw(self, draw: Draw) -> int:
        request = ledger_pb2.DrawRequest(**{**vars(draw), "budgets": wire.to_budgets(draw.budgets)})
        return int((await self._ask(self._ledger.Draw, request)).amount)

    async def give_back(self, give_id: str, purse_id: str, amount: int) -> None:
        request = ledger_pb2.GiveBackRequest(id=give_id, purse_id=purse_id, amount=amount)
        await self._ask(self._ledger.GiveBack, request)

    async def keep(self, incarnation: str, purse_ids: list[str], closed: list[str]) -> list[str]:
        request = ledger_pb2.KeepPursesRequest(incarnation=incarnation, purse_ids=purse_ids, closed=closed)
        return list((await self._ask(self._ledger.KeepPurses, request)).swept)

    async def room(self, organization_id: str, budgets: tuple[Budget, ...]) -> int:
        request = ledger_pb2.GetBalanceRequest(organization_id=organization_id, budgets=wire.to_budgets(budgets))
        return int((await self._ask(self._ledger.GetBalance, request)).room)

    async def prices(self) -> list[Price]:
        reply: prices_pb2.ListPricesResponse = await self._ask(self._prices.ListPrices, prices_pb2.ListPricesRequest())
        return [
            Price(
                price.meter,
                price.micro_credits_per_million,
                price.valid_from.ToDatetime(UTC),
                price.valid_until.ToDatetime(UTC) if price.HasField("valid_until") else None,
            )
            for price in reply.prices
        ]

    async def _ask(self, method: Any, request: Any) -> Any:
        """A ledger that fails may have done what it was asked all the same, as one that doesn't answer."""
        try:
            return await unary(method, request, timeout=PATIENCE_SECONDS)
        except grpc.aio.AioRpcError as error:
            log().error("ledger.broken", code=error.code().name, details=error.details())
            raise Unavailable("the ledger failed; try again in a moment") from error
