"""Money over gRPC, on SQLite and PostgreSQL."""

from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from mesh.keys.v1 import keys_pb2
from mesh.ledger.v1 import ledger_pb2

from keys.settings import Settings
from kit.db import open_db
from kit.errors import Conflict, Exhausted, Invalid, NotFound
from kit.rpc_client import unary
from tests.bench.ledger import CHARGE, Books, enrich
from tests.integration.keys.conftest import Service, running
from tests.ledger_books import audit

FIRST = 1_000_000_000


@pytest.fixture
async def organization(service: Service) -> str:
    return (await service.admin()).organization_id


async def balance(service: Service, organization: str, **budgets: int) -> tuple[int, int, int]:
    named = [ledger_pb2.Budget(id=f"run:{name}", limit=limit) for name, limit in budgets.items()]
    request = ledger_pb2.GetBalanceRequest(organization_id=organization, budgets=named)
    found = await unary(service.ledger.GetBalance, request)
    return found.balance, found.reserved, found.room


def a_draw(organization: str, **more: object) -> ledger_pb2.DrawRequest:
    request = ledger_pb2.DrawRequest(
        id="draw_1", purse_id="p", organization_id=organization, incarnation="life", need=100, want=1000
    )
    request.MergeFrom(ledger_pb2.DrawRequest(**more))  # type: ignore[arg-type]  # fields by name
    return request


def a_bill(organization: str, run: str, *lines: tuple[str, int, int], **more: object) -> ledger_pb2.Bill:
    bill = ledger_pb2.Bill(
        run_id=run,
        attempt=1,
        root_id=run,
        organization_id=organization,
        service_id="hello",
        key_id="key_1",
        purse_id="p",
        reserved=100,
        charge=sum(amount for _, _, amount in lines),
        lines=[ledger_pb2.BillLine(meter=meter, quantity=quantity, amount=amount) for meter, quantity, amount in lines],
    )
    bill.MergeFrom(ledger_pb2.Bill(**more))  # type: ignore[arg-type]  # fields by name
    return bill


async def test_credit_from_the_first_start_to_a_bill(service: Service, organization: str) -> None:
    assert await balance(service, organization) == (FIRST, 0, FIRST)
    budget = ledger_pb2.Budget(id="run:r", limit=500)
    drawn = await unary(service.ledger.Draw, a_draw(organization, budgets=[budget]))
    assert drawn.amount == 500
    assert await balance(service, organization, r=500) == (FIRST - 500, 500, 0)
    verified = await unary(
        service.keys.Verify, keys_pb2.VerifyRequest(key=(service.settings.home / "admin.key").read_text())
    )
    assert verified.credit == FIRST
    bill = a_bill(organization, "run_1", ("run", 1, 60), budgets=[budget])
    for _ in range(2):
        await unary(service.ledger.Settle, ledger_pb2.SettleRequest(bills=[bill]))
    await unary(service.ledger.GiveBack, ledger_pb2.GiveBackRequest(id="g", purse_id="p", amount=400))
    assert await balance(service, organization, r=500) == (FIRST - 60, 0, 440)
    keep = ledger_pb2.KeepPursesRequest(incarnation="life", purse_ids=["p", "q"])
    assert list((await unary(service.ledger.KeepPurses, keep)).swept) == ["q"]


async def test_problems_arrive_as_their_kinds(service: Service, organization: str) -> None:
    with pytest.raises(Exhausted) as caught:
        await unary(service.ledger.Draw, a_draw(organization, need=FIRST + 1, want=FIRST + 1))
    assert caught.value.code == "payment_required"
    assert str(FIRST) in caught.value.message
    for bad in (a_draw(organization, id="x" * 101), a_draw("", need=1), a_draw(organization, need=2000)):
        with pytest.raises(Invalid):
            await unary(service.ledger.Draw, bad)
    for name, limit in (("org:x", 1), ("run:", -1), ("run:a\0", 1)):
        request = a_draw(organization, budgets=[ledger_pb2.Budget(id=name, limit=limit)])
        with pytest.raises(Invalid):
            await unary(service.ledger.Draw, request)
    with pytest.raises(NotFound):
        await unary(service.ledger.Draw, a_draw("org_unknown"))
    with pytest.raises(NotFound):
        await balance(service, "org_unknown")
    with pytest.raises(Conflict):
        await unary(service.ledger.GiveBack, ledger_pb2.GiveBackRequest(id="g", purse_id="unknown", amount=1))
    many = ledger_pb2.SettleRequest(bills=[ledger_pb2.Bill()] * 501)
    with pytest.raises(Invalid):
        await unary(service.ledger.Settle, many)
    assert await balance(service, organization) == (FIRST, 0, FIRST)


async def test_a_new_organization_has_what_the_operator_gives(settings: Settings) -> None:
    async with running(Settings(**vars(settings) | {"initial_credits": 7})) as service:
        created = await unary(service.keys.CreateOrganization, keys_pb2.CreateOrganizationRequest(name="Other"))
        assert await balance(service, created.organization_id) == (7, 0, 7)
        grant = ledger_pb2.GrantRequest(id="g", organization_id=created.organization_id, amount=5)
        assert [(await unary(service.ledger.Grant, grant)).balance for _ in range(2)] == [12, 12]
    async with open_db(settings.database_url("keys")) as db:
        assert await audit(db) == {}


def at(moment: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp


async def usage(service: Service, organization: str, group: int, **more: object) -> dict[str, tuple[int, ...]]:
    request = ledger_pb2.GetUsageRequest(organization_id=organization, group_by=group, **more)  # type: ignore[arg-type]
    items = (await unary(service.ledger.GetUsage, request)).items
    return {
        item.group: (item.runs, item.amount, item.cpu_ms, item.tokens_in, item.tokens_out, item.egress_bytes)
        for item in items
    }


async def test_usage_by_service_day_key_and_model(service: Service, organization: str) -> None:
    now = datetime.now(UTC)
    long_ago = at(now - timedelta(days=40))
    mini, large = "tokens:openai/gpt-4o-mini", "tokens:openai/ft:gpt-4o:acme"
    tokens = ((f"{mini}:in", 70, 7), (f"{mini}:cached", 30, 1), (f"{mini}:out", 20, 9), (f"{large}:in", 5, 2))
    bills = [
        a_bill(organization, "run_1", ("run", 1, 10), ("cpu", 900, 9), ("egress", 50, 1), at=at(now)),
        a_bill(organization, "run_1", ("run", 1, 10), attempt=2, at=at(now)),
        a_bill(organization, "run_1", ("run", 1, 4), attempt=2, purse_id="q", at=at(now)),
        a_bill(organization, "run_2", ("run", 1, 10), *tokens, service_id="ask", key_id="key_2", at=at(now)),
        a_bill(organization, "run_3", ("run", 1, 10), at=long_ago),
    ]
    free = a_bill(organization, "run_4", (f"{mini}:in", 1000, 100), service_id="ask")
    free.charge = 0
    await unary(service.ledger.Draw, a_draw(organization))
    await unary(service.ledger.Settle, ledger_pb2.SettleRequest(bills=[*bills, free]))
    today = now.date().isoformat()
    asked = {"hello": (2, 34, 900, 0, 0, 50), "ask": (2, 29, 0, 1105, 20, 0)}
    assert await usage(service, organization, ledger_pb2.USAGE_GROUP_SERVICE) == asked
    assert await usage(service, organization, ledger_pb2.USAGE_GROUP_DAY) == {today: (4, 63, 900, 1105, 20, 50)}
    keys = await usage(service, organization, ledger_pb2.USAGE_GROUP_KEY)
    assert {name: found[:2] for name, found in keys.items()} == {"key_1": (3, 34), "key_2": (1, 29)}
    assert await usage(service, organization, ledger_pb2.USAGE_GROUP_MODEL) == {
        "openai/gpt-4o-mini": (2, 17, 0, 1100, 20, 0),
        "openai/ft:gpt-4o:acme": (1, 2, 0, 5, 0, 0),
    }
    days = await usage(service, organization, ledger_pb2.USAGE_GROUP_DAY, since=long_ago)
    assert {name: found[0] for name, found in days.items()} == {
        (now - timedelta(days=40)).date().isoformat(): 1,
        today: 4,
    }
    assert await usage(service, "org_system", ledger_pb2.USAGE_GROUP_DAY) == {}


async def test_usage_has_a_line_of_stored_files_which_are_no_runs(service: Service, organization: str) -> None:
    now = datetime.now(UTC)
    files = [a_bill(organization, f"sto_{n}", ("storage", 10, 7), at=at(now)) for n in range(2)]
    for bill in files:
        bill.purse_id = bill.key_id = bill.service_id = ""
    run = a_bill(organization, "run_1", ("run", 1, 10), at=at(now))
    await unary(service.ledger.Draw, a_draw(organization))
    await unary(service.ledger.Settle, ledger_pb2.SettleRequest(bills=[*files, run]))
    services = await usage(service, organization, ledger_pb2.USAGE_GROUP_SERVICE)
    assert {name: found[:2] for name, found in services.items()} == {"hello": (1, 10), "/file": (0, 14)}
    days = await usage(service, organization, ledger_pb2.USAGE_GROUP_DAY)
    assert {name: found[:2] for name, found in days.items()} == {now.date().isoformat(): (1, 24)}
    keys = await usage(service, organization, ledger_pb2.USAGE_GROUP_KEY)
    assert {name: found[:2] for name, found in keys.items()} == {"key_1": (1, 10)}


async def test_usage_is_paged_and_bounded(service: Service, organization: str) -> None:
    bills = [a_bill(organization, f"run_{n}", service_id=f"s{n}") for n in range(5)]
    await unary(service.ledger.Settle, ledger_pb2.SettleRequest(bills=bills))
    request = ledger_pb2.GetUsageRequest(organization_id=organization, group_by=ledger_pb2.USAGE_GROUP_SERVICE, limit=2)
    found = []
    while True:
        page = await unary(service.ledger.GetUsage, request)
        found.append([item.group for item in page.items])
        if not page.next:
            break
        request.after = page.next
    assert found == [["s0", "s1"], ["s2", "s3"], ["s4"]]
    later, earlier = at(datetime(2026, 2, 2, tzinfo=UTC)), at(datetime(2026, 2, 1, tzinfo=UTC))
    day = ledger_pb2.USAGE_GROUP_DAY
    for bad in (
        ledger_pb2.GetUsageRequest(organization_id=organization),
        ledger_pb2.GetUsageRequest(organization_id=organization, group_by=9),  # type: ignore[arg-type]
        ledger_pb2.GetUsageRequest(organization_id=organization, group_by=day, limit=1001),
        ledger_pb2.GetUsageRequest(organization_id=organization, group_by=day, since=later, until=earlier),
        ledger_pb2.GetUsageRequest(organization_id=organization, group_by=day, since=Timestamp(seconds=10**15)),
        ledger_pb2.GetUsageRequest(
            organization_id=organization, group_by=day, until=Timestamp(seconds=-62_135_596_800)
        ),
    ):
        with pytest.raises(Invalid):
            await unary(service.ledger.GetUsage, bad)


async def test_the_bench_of_the_ledger_does_what_it_says(service: Service, organization: str) -> None:
    await enrich(service.ledger, organization)
    before = (await balance(service, organization))[0]
    books = Books(service.ledger, organization)
    assert len((await books.draws(10, 4)).taken) == 10
    done = await books.bills(3, 20, 2)
    assert len(done.taken) == 3
    spent, reserved, _ = await balance(service, organization)
    assert before - spent - reserved == 60 * CHARGE
    async with open_db(service.settings.database_url("keys")) as db:
        assert await audit(db) == {}
