"""The composition root."""

from contextlib import AsyncExitStack

from mesh.keys.v1 import (
    hooks_pb2_grpc,
    keys_pb2_grpc,
    rates_pb2_grpc,
    receipts_pb2_grpc,
    secrets_pb2_grpc,
    webhooks_pb2_grpc,
)
from mesh.ledger.v1 import audit_pb2_grpc, ledger_pb2_grpc, prices_pb2_grpc

from keys.admin_key import write_admin_key
from keys.audit import Audit
from keys.audit_rpc import AuditServicer
from keys.audit_store import SqlAuditLog
from keys.budgets import Budgets
from keys.hook_store import SqlHookStore
from keys.hooks import Hooks
from keys.hooks_rpc import HooksServicer
from keys.issue import Issue
from keys.ledger import Ledger
from keys.ledger_rpc import LedgerServicer
from keys.ledger_store import SqlBooks
from keys.organizations import Organizations
from keys.price_list import fingerprint, price_list
from keys.prices import Prices
from keys.prices_rpc import PricesServicer
from keys.prices_store import SqlPriceStore
from keys.rates import TakePermits
from keys.rates_rpc import RateLimitsServicer
from keys.rates_store import SqlBucketStore
from keys.receipt_store import SqlReceiptKeyStore
from keys.receipts import Receipts
from keys.receipts_rpc import ReceiptsServicer
from keys.rewrap import Rewrap, opened
from keys.rpc import KeysServicer, SecretsServicer
from keys.sealed_store import SqlSealedRows
from keys.sealing import PepperedHash
from keys.settings import Settings
from keys.store import SqlKeyStore, SqlSecretStore, outbox
from keys.sweep import Sweep
from keys.usage import Usage
from keys.usage_store import SqlUsage
from keys.vault import Vault
from keys.verify import Verify
from keys.webhook_store import SqlWebhookStore
from keys.webhooks import Webhooks
from keys.webhooks_rpc import WebhooksServicer
from kit.bus import Bus, open_bus
from kit.clock import Clock, SystemClock
from kit.db import open_db, relay
from kit.lifecycle import background
from kit.rpc_server import RpcServer
from kit.settings import read_key

DEFAULT_NATS_URL = "nats://127.0.0.1:4222"


async def build(
    settings: Settings, stack: AsyncExitStack, *, clock: Clock | None = None, bus: Bus | None = None
) -> RpcServer:
    """Everything wired and entered on `stack`; tests pass their clock and bus."""
    clock = clock or SystemClock()
    enter = stack.enter_async_context
    key_hash = PepperedHash(read_key(settings.key_file("pepper")))
    db = await enter(open_db(settings.database_url("keys")))
    envelope = await opened(settings.keks, sealed := SqlSealedRows(db))
    store = SqlKeyStore(db)
    organizations = Organizations(store, key_hash, clock, settings.initial_credits)
    await organizations.ensure_first(lambda secret: write_admin_key(settings.home / "admin.key", secret))
    prices = Prices(SqlPriceStore(db), clock)
    await prices.bring_along(fingerprint(settings.run_fee), lambda: price_list(settings.run_fee))
    permits = TakePermits(SqlBucketStore(db), clock)
    stream: Bus = bus or await enter(open_bus(settings.nats_url or DEFAULT_NATS_URL, "keys"))
    books, rewrap = SqlBooks(db), Rewrap(envelope, settings.keks, sealed, clock)
    for loop in (rewrap.run(), permits.sweep(), relay(db, outbox, stream, gathering=0), Sweep(books, clock).run()):
        await enter(background(loop))
    verify, issue = Verify(store, key_hash, clock), Issue(store, key_hash, clock)
    keys = KeysServicer(verify, issue, organizations, Budgets(books), prices)
    secrets = SecretsServicer(Vault(SqlSecretStore(db), envelope, clock))
    webhooks = WebhooksServicer(Webhooks(SqlWebhookStore(db), envelope, clock))
    hooks = HooksServicer(Hooks(SqlHookStore(db), key_hash, envelope, clock))
    receipts = ReceiptsServicer(Receipts(SqlReceiptKeyStore(db), envelope, clock))
    ledger = LedgerServicer(Ledger(books, clock), Usage(SqlUsage(db), clock), clock)
    audit = AuditServicer(Audit(SqlAuditLog(db)))
    server = RpcServer(settings.address("keys"), grace=settings.drain_seconds)
    server.needs(db.answers)
    server.add(keys_pb2_grpc.add_KeysServicer_to_server, keys, "mesh.keys.v1.Keys")
    server.add(secrets_pb2_grpc.add_SecretsServicer_to_server, secrets, "mesh.keys.v1.Secrets")
    server.add(webhooks_pb2_grpc.add_WebhooksServicer_to_server, webhooks, "mesh.keys.v1.Webhooks")
    server.add(hooks_pb2_grpc.add_HooksServicer_to_server, hooks, "mesh.keys.v1.Hooks")
    server.add(receipts_pb2_grpc.add_ReceiptsServicer_to_server, receipts, "mesh.keys.v1.Receipts")
    server.add(ledger_pb2_grpc.add_LedgerServicer_to_server, ledger, "mesh.ledger.v1.Ledger")
    server.add(audit_pb2_grpc.add_AuditServicer_to_server, audit, "mesh.ledger.v1.Audit")
    server.add(rates_pb2_grpc.add_RateLimitsServicer_to_server, RateLimitsServicer(permits), "mesh.keys.v1.RateLimits")
    server.add(prices_pb2_grpc.add_PricesServicer_to_server, PricesServicer(prices), "mesh.ledger.v1.Prices")
    return await enter(server)
