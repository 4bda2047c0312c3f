"""`python -m migrations` on PostgreSQL: every branch, one process at a time, never long in anybody's way."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import Connection, inspect, text

from kit.errors import Precondition, Unavailable
from migrations import postgres as on_postgres
from migrations.__main__ import upgrade
from tests.databases import alembic_on, with_connection
from tests.postgres import PASSWORD, Server, elsewhere

ROOT = Path(__file__).parent.parent.parent.parent
HEADS = {"filestore": "filestore_0003", "keys": "keys_0010", "scheduler": "scheduler_0014"}


def migrating(url: str, home: Path) -> "subprocess.Popen[str]":
    environ = {"PATH": os.environ["PATH"], "RUNMESH_DATABASE_URL": url, "RUNMESH_HOME": str(home)}
    return subprocess.Popen(
        [sys.executable, "-m", "migrations"], env=environ, cwd=ROOT, stderr=subprocess.PIPE, text=True
    )


def ended(process: "subprocess.Popen[str]") -> tuple[int, str]:
    _, said = process.communicate(timeout=60)
    return process.returncode, said


def of_schema(url: str, service: str, call: Callable[[Connection], object]) -> object:
    return with_connection(f"{url}{'&' if '?' in url else '?'}schema={service}", call)


def version(connection: Connection) -> str:
    return str(connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one())


def test_several_at_once_and_again(postgres: Server, tmp_path: Path) -> None:
    url = postgres.url(postgres.empty(), tcp=True)
    starting = [migrating(url, tmp_path) for _ in range(2)]
    assert [ended(process) for process in starting] == [(0, "")] * 2
    upgrade("keys", f"{url}?schema=keys")
    for service, head in HEADS.items():
        assert of_schema(url, service, version) == head
    assert "outbox" in inspect_tables(url, "keys")
    assert inspect_tables(url, "public") == []


def inspect_tables(url: str, schema: str) -> list[str]:
    tables = of_schema(url, schema, lambda connection: inspect(connection).get_table_names())
    assert isinstance(tables, list)
    return tables


def test_one_that_fails_leaves_nothing(postgres: Server) -> None:
    """A table is in the way of the last one that the first migration makes."""
    url = postgres.url(postgres.empty())

    def in_the_way(connection: Connection) -> None:
        connection.execute(text("CREATE SCHEMA keys"))
        connection.execute(text("CREATE TABLE keys.outbox (id int)"))
        connection.commit()

    of_schema(url, "keys", in_the_way)
    with pytest.raises(Exception, match="already exists"):
        upgrade("keys", f"{url}&schema=keys")
    assert set(inspect_tables(url, "keys")) <= {"outbox", "alembic_version"}


def test_one_that_has_to_wait_for_others_gives_up(postgres: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"{postgres.url(postgres.migrated())}&schema=scheduler"

    def old_and_in_use(connection: Connection) -> None:
        command.downgrade(alembic_on(connection), "scheduler_0006")
        connection.commit()
        connection.execute(text("SELECT * FROM runs"))
        monkeypatch.setitem(on_postgres._SESSION, "lock_timeout", "200ms")
        began = time.monotonic()
        with pytest.raises(Unavailable, match="a migration of scheduler had to wait too long"):
            elsewhere(upgrade, "scheduler", url)
        assert time.monotonic() - began < 5
        assert version(connection) == "scheduler_0006"
        assert "callback_url" not in {column["name"] for column in inspect(connection).get_columns("runs")}

    with_connection(url, old_and_in_use)
    upgrade("scheduler", url)
    assert with_connection(url, version) == HEADS["scheduler"]


def test_a_user_who_may_make_no_schemas(postgres: Server) -> None:
    name = postgres.empty()
    postgres.execute("CREATE ROLE modest LOGIN")
    postgres.execute("CREATE SCHEMA keys AUTHORIZATION modest", name)
    url = postgres.url(name).replace("mesh@", "modest@")
    upgrade("keys", f"{url}&schema=keys")
    assert of_schema(url, "keys", version) == HEADS["keys"]
    with pytest.raises(Exception, match="permission denied for database"):
        upgrade("scheduler", f"{url}&schema=scheduler")


def test_its_turn_comes_or_it_says_so(postgres: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"{postgres.url(postgres.empty())}&schema=keys"
    monkeypatch.setattr(on_postgres, "TURN_SECONDS", 0.3)

    def at_it(connection: Connection) -> None:
        connection.execute(text("SELECT pg_advisory_lock(hashtextextended('runmesh migrations', 0))"))
        with pytest.raises(Unavailable, match="another process migrates"):
            elsewhere(upgrade, "keys", url)

    with_connection(url, at_it)
    upgrade("keys", url)


def test_another_encoding_is_refused(postgres: Server) -> None:
    name = "db_of_bytes"
    postgres.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE_PROVIDER libc LOCALE 'C'")
    with pytest.raises(Precondition, match="UTF8"):
        upgrade("keys", f"{postgres.url(name)}&schema=keys")


def test_a_wrong_password_is_told_and_not_shown(postgres: Server, tmp_path: Path) -> None:
    url = postgres.url(tcp=True)
    code, said = ended(migrating(url.replace("%2F1@", "%2F2@"), tmp_path))
    assert code == 1
    assert said.startswith("migrations: RUNMESH_DATABASE_URL: ")
    assert "password authentication failed" in said
    assert PASSWORD[:-1] not in said
    assert len(said.splitlines()) == 1
