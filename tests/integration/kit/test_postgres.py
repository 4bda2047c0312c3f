"""kit.postgres: a server that hangs, dies, starts late or refuses us."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator

import asyncpg
import pytest
from sqlalchemy import text

from kit import postgres
from kit.db import Database, open_db
from kit.errors import Unavailable
from kit.settings import BadSettings
from tests.postgres import PASSWORD, Server, postgres_server

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Its own: it is stopped and killed."""
    with postgres_server() as running:
        yield running


@pytest.fixture
def url(server: Server) -> str:
    return f"{server.url(tcp=True)}?pool_size=3&schema=public"


@pytest.fixture
async def db(url: str) -> AsyncIterator[Database]:
    async with open_db(url) as opened:
        yield opened


async def ask(db: Database, statement: str = "SELECT 1") -> None:
    async with db.read() as tx:
        await tx.execute(text(statement))


async def write(db: Database) -> None:
    async with db.write() as tx:
        await tx.execute(text("SELECT 1"))


async def told(call: Callable[[Database], object], db: Database) -> float:
    """After how many seconds it is Unavailable."""
    began = time.monotonic()
    with pytest.raises(Unavailable):
        await call(db)  # type: ignore[misc]
    return time.monotonic() - began


async def until_back(db: Database) -> None:
    async with asyncio.timeout(20):
        while not db.answers():  # noqa: ASYNC110  # a server tells nobody
            await asyncio.sleep(0.02)
    await asyncio.gather(*(call(db) for call in (ask, write) for _ in range(5)))


async def test_a_server_that_hangs(db: Database, server: Server) -> None:
    """Those who wait for an answer, for a connection that is being made and for their turn hear of it alike."""
    await ask(db)
    server.signal(signal.SIGSTOP)
    try:
        waits = await asyncio.gather(*(told(call, db) for call in (ask, write) for _ in range(8)))
        assert max(waits) < 2
        assert not db.answers()
        assert await told(ask, db) < 0.2
    finally:
        server.signal(signal.SIGCONT)
    await until_back(db)


async def test_a_server_that_is_killed_while_a_transaction_is_open(db: Database, server: Server) -> None:
    async def killing() -> None:
        async with db.write() as tx:
            await tx.execute(text("SELECT 1"))
            server.kill()
            await tx.execute(text("SELECT 1"))

    with pytest.raises(Unavailable):
        await killing()
    assert await told(write, db) < 1
    await asyncio.to_thread(server.start)
    await until_back(db)


async def test_connections_that_a_restart_has_cut_are_replaced(db: Database, server: Server) -> None:
    """Before anybody has noticed that it was away."""
    await asyncio.gather(*(call(db) for call in (ask, write) for _ in range(3)))
    server.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname <> ''"
    )
    await asyncio.sleep(0.1)  # the ends arrive
    await asyncio.gather(*(call(db) for call in (ask, write) for _ in range(3)))


async def test_a_question_that_is_cut_is_asked_again(db: Database) -> None:
    """The probe's connection may be the only one that was lost, and just then."""
    link: postgres.Link = db._driver._link  # type: ignore[attr-defined]

    class Cut:
        ended = False

        async def execute(self, _: str) -> None:
            raise asyncpg.InternalClientError("cannot switch to state 15; another operation (2) is in progress")

        def terminate(self) -> None:
            self.ended = True

    before, cut = link._probe, Cut()
    link._probe = cut
    assert before is not None
    before.terminate()
    told = []
    for _ in range(60):
        await asyncio.sleep(0.01)
        told.append(db.answers())
    assert cut.ended
    assert all(told)
    await asyncio.gather(ask(db), write(db))


async def test_a_slow_statement_is_no_sign_of_absence(db: Database) -> None:
    await ask(db, "SELECT pg_sleep(1.5)")
    assert db.answers()


async def test_a_statement_may_take_its_time_not_more(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(postgres._SESSION, "statement_timeout", "100ms")
    async with open_db(url) as db:
        assert await told(lambda db: ask(db, "SELECT pg_sleep(5)"), db) < 2
        await ask(db)


async def test_a_statement_that_the_server_forgets(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection may be dead while others live: a firewall has dropped it."""
    monkeypatch.setattr(postgres, "CLIENT_SECONDS", 0.2)
    async with open_db(url) as db:
        assert await told(lambda db: ask(db, "SELECT pg_sleep(5)"), db) < 3
        await ask(db)
        assert db.answers()


async def test_the_pool_is_bounded(db: Database, server: Server) -> None:
    many = [ask(db, "SELECT pg_sleep(0.05)") for _ in range(12)]
    await asyncio.gather(*many)
    connection = await asyncpg.connect(server.url())
    named = await connection.fetchval("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'runmesh public'")
    await connection.close()
    assert named == 4  # one asks whether the server is there


async def test_who_finds_no_free_connection_is_told(db: Database) -> None:
    holding = [asyncio.create_task(ask(db, "SELECT pg_sleep(2)")) for _ in range(3)]
    await asyncio.sleep(0.2)
    assert await told(ask, db) < 2
    await asyncio.gather(*holding)


async def test_it_may_start_later_than_we_do(server: Server, url: str) -> None:
    server.kill()
    opening = asyncio.create_task(opened(url))
    await asyncio.sleep(0.5)
    await asyncio.to_thread(server.start)
    await opening


async def opened(url: str) -> None:
    async with open_db(url) as db:
        await ask(db)


async def test_not_for_ever(server: Server, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "PATIENCE_SECONDS", 0.3)
    with pytest.raises(Unavailable, match="no PostgreSQL answers: ConnectionRefusedError") as raised:
        await opened(url.replace(str(server.port), "1"))
    assert PASSWORD not in str(raised.value)


@pytest.mark.parametrize(
    ("right", "wrong", "why"),
    [("%2F1@", "%2F2@", "password"), ("/postgres?", "/nowhere?", "nowhere"), ("mesh:", "nobody:", "nobody")],
)
async def test_what_the_server_refuses_is_a_fault_of_the_settings(url: str, right: str, wrong: str, why: str) -> None:
    assert right in url
    with pytest.raises(BadSettings, match=why) as bad:
        await opened(url.replace(right, wrong))
    assert bad.value.faults[0].startswith("RUNMESH_DATABASE_URL: ")
    assert "ecret" not in str(bad.value)
