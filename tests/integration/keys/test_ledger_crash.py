"""The keys service dies just after it has booked something, and nobody has heard of it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from mesh.ledger.v1 import ledger_pb2, ledger_pb2_grpc

from keys.settings import Settings
from kit.db import open_db
from kit.errors import Unavailable
from kit.rpc_client import connect, unary
from migrations.__main__ import upgrade
from tests.integration.service_process import service_process
from tests.ledger_books import audit, balances, counted

BILL = ledger_pb2.Bill(run_id="run_1", attempt=1, purse_id="p", reserved=100, charge=60)


@asynccontextmanager
async def process(settings: Settings, points: Path) -> AsyncIterator["ledger_pb2_grpc.LedgerAsyncStub"]:
    environ = {"RUNMESH_HOME": str(settings.home), "RUNMESH_DATABASE_URL": settings.database}
    environ |= {"RUNMESH_NATS_URL": settings.nats_url, "RUNMESH_FAILPOINTS": str(points)}
    starting = service_process("keys", **environ)
    await asyncio.to_thread(starting.__enter__)
    try:
        async with connect(settings.address("keys")) as channel:
            yield ledger_pb2_grpc.LedgerStub(channel)
    finally:
        await asyncio.to_thread(starting.__exit__, None, None, None)


async def test_what_was_booked_before_a_crash_is_booked_once(settings: Settings, tmp_path: Path) -> None:
    await asyncio.to_thread(upgrade, "keys", settings.database_url("keys"))
    for number, point in enumerate(STEPS, 1):
        async with process(settings, tmp_path) as ledger:
            organization = await first_organization(settings)
            BILL.organization_id = organization
            (tmp_path / point).touch()
            with pytest.raises(Unavailable):
                await all_of(number, ledger, organization)
            assert not (tmp_path / point).exists()
        async with process(settings, tmp_path) as ledger:
            assert await all_of(number, ledger, organization) == 1_000_000
    async with open_db(settings.database_url("keys")) as db:
        assert await audit(db) == {}
        found = await balances(db)
        assert (found["purse:p"], found["platform:revenue"]) == (999_870, 60)
        assert await counted(db, "ledger_transactions") == 4


async def first_organization(settings: Settings) -> str:
    async with open_db(settings.database_url("keys")) as db:
        found = await balances(db)
    return next(name for name in found if name.startswith("org:") and found[name]).removeprefix("org:")


async def draw(ledger: "ledger_pb2_grpc.LedgerAsyncStub", organization: str) -> int:
    """What was drawn: a thousandth of what there is, when it is drawn first."""
    asked = ledger_pb2.DrawRequest(
        id="d", purse_id="p", organization_id=organization, incarnation="life", need=100, want=100
    )
    return (await unary(ledger.Draw, asked)).amount


async def give_back(ledger: "ledger_pb2_grpc.LedgerAsyncStub", _organization: str) -> int:
    await unary(ledger.GiveBack, ledger_pb2.GiveBackRequest(id="g", purse_id="p", amount=30))
    return 0


async def settle(ledger: "ledger_pb2_grpc.LedgerAsyncStub", _organization: str) -> int:
    await unary(ledger.Settle, ledger_pb2.SettleRequest(bills=[BILL]))
    return 0


STEPS = {"draw booked": draw, "give booked": give_back, "bills booked": settle}


async def all_of(number: int, ledger: "ledger_pb2_grpc.LedgerAsyncStub", organization: str) -> int:
    """The first steps; what was drawn."""
    return sum([await step(ledger, organization) for step in list(STEPS.values())[:number]])
