"""What the books cost: draws, and bills settled, by rpc to the keys service alone."""

import asyncio
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

from google.protobuf.timestamp_pb2 import Timestamp
from mesh.keys.v1 import keys_pb2, keys_pb2_grpc
from mesh.ledger.v1 import ledger_pb2, ledger_pb2_grpc

from keys.settings import Settings
from kit.names import new_id
from kit.rpc_client import connect, unary
from migrations.__main__ import upgrade
from tests.bench.figures import Calls
from tests.integration.service_process import service_process
from tests.postgres import postgres_server
from tests.servers import nats_server

PURSES = 4
RESERVED, LINES = 2000, (("run", 1, 1000), ("cpu", 850, 170), ("memory", 40, 12), ("egress", 5120, 3))
CHARGE = sum(amount for _, _, amount in LINES)
ENTRIES = 3  # of each such bill: purse, organization, revenue


async def ledger(calls: int) -> None:
    """Prints a table of draws, and one of bills."""
    draws, bills = [], []
    for engine in ("SQLite, FULL", "PostgreSQL"):
        async with keys_alone(engine) as (_, stub, organization):
            bench = Books(stub, organization)
            await bench.draws(50, 1)
            for at_once in (1, 16):
                done = await bench.draws(calls, at_once)
                draws.append(f"| {engine} | {at_once} | {done.p50:.1f} | {done.p99:.1f} | {done.per_second:.0f} |")
            for size, at_once in ((1, 1), (100, 1), (500, 1), (100, 4)):
                batches = max(calls // size, 10)
                done = await bench.bills(batches, size, at_once)
                each = done.per_second * size
                bills.append(f"| {engine} | {size} | {at_once} | {done.p50:.1f} | {each:.0f} | {each * ENTRIES:.0f} |")
    print("\n| draws | at once | p50 ms | p99 ms | draws/s |\n" + "|---" * 5 + "|")
    print("\n".join(draws))
    print("\n| bills settled | a batch | at once | p50 ms a batch | bills/s | entries/s |\n" + "|---" * 6 + "|")
    print("\n".join(bills), flush=True)


class Books:
    """One organization with plenty, and its purses."""

    def __init__(self, stub: "ledger_pb2_grpc.LedgerAsyncStub", organization: str) -> None:
        self._stub = stub
        self._organization = organization
        self._begin()

    def _begin(self) -> None:
        """Purses of a new executor: those of one that says nothing for a minute are swept."""
        self._incarnation = new_id("life")
        self._purses = [new_id("purse") for _ in range(PURSES)]

    async def draws(self, calls: int, at_once: int) -> Calls:
        """Of a little, into one purse after the other."""
        self._begin()
        return await timed((self._draw(self._purses[n % PURSES], 1) for n in range(calls)), at_once)

    async def bills(self, batches: int, size: int, at_once: int) -> Calls:
        """Of runs that have been to one purse after the other."""
        self._begin()
        for purse in self._purses:
            await self._draw(purse, batches * size * RESERVED)
        requests = [
            ledger_pb2.SettleRequest(bills=[self._bill(self._purses[n % PURSES]) for n in range(size)])
            for _ in range(batches)
        ]
        return await timed((self._settle(request) for request in requests), at_once)

    async def _draw(self, purse: str, amount: int) -> None:
        request = ledger_pb2.DrawRequest(
            id=new_id("draw"),
            purse_id=purse,
            organization_id=self._organization,
            incarnation=self._incarnation,
            need=amount,
            want=amount,
        )
        await unary(self._stub.Draw, request)

    async def _settle(self, request: ledger_pb2.SettleRequest) -> None:
        await unary(self._stub.Settle, request)

    def _bill(self, purse: str) -> ledger_pb2.Bill:
        run, now = new_id("run"), Timestamp()
        now.GetCurrentTime()
        lines = [ledger_pb2.BillLine(meter=name, quantity=quantity, amount=paid) for name, quantity, paid in LINES]
        return ledger_pb2.Bill(
            run_id=run,
            attempt=1,
            root_id=run,
            organization_id=self._organization,
            service_id="bench",
            key_id="key_bench",
            purse_id=purse,
            reserved=RESERVED,
            charge=CHARGE,
            lines=lines,
            at=now,
        )


async def timed(calls: Iterator[Awaitable[None]], at_once: int) -> Calls:
    """So many of them at a time."""
    taken: list[float] = []

    async def caller() -> None:
        for call in calls:
            started = time.monotonic()
            await call
            taken.append((time.monotonic() - started) * 1000)

    began = time.monotonic()
    await asyncio.gather(*(caller() for _ in range(at_once)))
    return Calls(taken, time.monotonic() - began)


@asynccontextmanager
async def keys_alone(engine: str) -> AsyncIterator[tuple[str, "ledger_pb2_grpc.LedgerAsyncStub", str]]:
    """A keys service on a database that syncs to the disk: its address, its ledger, a rich organization."""
    home = Path(tempfile.mkdtemp(prefix="bench-", dir="/var/tmp"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        shared = {"RUNMESH_HOME": str(home), "RUNMESH_NATS_URL": stack.enter_context(nats_server())}
        settings = Settings(home=home)
        if engine == "PostgreSQL":
            server = await asyncio.to_thread(lambda: stack.enter_context(postgres_server(durable=True)))
            shared["RUNMESH_DATABASE_URL"] = server.url(await asyncio.to_thread(server.migrated))
        else:
            await asyncio.to_thread(upgrade, "keys", settings.database_url("keys"))
        await asyncio.to_thread(lambda: stack.enter_context(service_process("keys", **shared)))
        async with connect(settings.address("keys")) as channel:
            key = (home / "admin.key").read_text()
            verified = await unary(keys_pb2_grpc.KeysStub(channel).Verify, keys_pb2.VerifyRequest(key=key))
            stub, organization = ledger_pb2_grpc.LedgerStub(channel), verified.principal.organization_id
            await enrich(stub, organization)
            yield settings.address("keys"), stub, organization


async def enrich(stub: "ledger_pb2_grpc.LedgerAsyncStub", organization: str) -> None:
    """More than any bench spends."""
    await unary(stub.Grant, ledger_pb2.GrantRequest(id=new_id("g"), organization_id=organization, amount=10**15))
