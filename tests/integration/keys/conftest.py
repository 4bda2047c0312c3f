"""The keys service as it runs, on a NATS server of its own."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from mesh.keys.v1 import keys_pb2, keys_pb2_grpc, rates_pb2_grpc, secrets_pb2_grpc, webhooks_pb2_grpc
from mesh.ledger.v1 import audit_pb2_grpc, ledger_pb2_grpc, prices_pb2_grpc

from keys.main import build
from keys.settings import Settings
from kit.rpc_client import connect, unary
from migrations.__main__ import upgrade
from tests.servers import nats_server


@pytest.fixture(scope="session")
def nats_url() -> Iterator[str]:
    with nats_server() as url:
        yield url


@dataclass
class Service:
    """A running service and its callers' stubs."""

    settings: Settings
    keys: "keys_pb2_grpc.KeysAsyncStub"
    secrets: "secrets_pb2_grpc.SecretsAsyncStub"
    webhooks: "webhooks_pb2_grpc.WebhooksAsyncStub"
    ledger: "ledger_pb2_grpc.LedgerAsyncStub"
    audit: "audit_pb2_grpc.AuditAsyncStub"
    rates: "rates_pb2_grpc.RateLimitsAsyncStub"
    prices: "prices_pb2_grpc.PricesAsyncStub"

    async def verify(self, key: str) -> keys_pb2.Principal:
        return (await unary(self.keys.Verify, keys_pb2.VerifyRequest(key=key))).principal

    async def admin(self) -> keys_pb2.Principal:
        return await self.verify((self.settings.home / "admin.key").read_text())


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Service]:
    await asyncio.to_thread(upgrade, "keys", settings.database_url("keys"))
    async with AsyncExitStack() as stack:
        server = await build(settings, stack)
        channel: grpc.aio.Channel = await stack.enter_async_context(connect(server.address))
        yield Service(
            settings,
            keys_pb2_grpc.KeysStub(channel),
            secrets_pb2_grpc.SecretsStub(channel),
            webhooks_pb2_grpc.WebhooksStub(channel),
            ledger_pb2_grpc.LedgerStub(channel),
            audit_pb2_grpc.AuditStub(channel),
            rates_pb2_grpc.RateLimitsStub(channel),
            prices_pb2_grpc.PricesStub(channel),
        )


@pytest.fixture
def settings(tmp_path: Path, nats_url: str, database_setting: str) -> Settings:
    return Settings(home=tmp_path / "home", nats_url=nats_url, drain_seconds=1.0, database=database_setting)


@pytest.fixture
async def service(settings: Settings) -> AsyncIterator[Service]:
    async with running(settings) as started:
        yield started
