"""A new, migrated database of a service, on either engine; what one holds."""

import asyncio
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Connection, MetaData
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

import migrations
from kit.postgres import connect
from kit.settings import MeshSettings
from migrations.__main__ import upgrade
from tests.postgres import Server, binaries, elsewhere

ENGINES = ("sqlite", "postgres")


def database_url(request: pytest.FixtureRequest, engine: str, directory: Path, service: str) -> str:
    """As kit.settings makes it. The PostgreSQL server is started by whoever needs it first."""
    if engine == "postgres":
        server: Server = request.getfixturevalue("postgres")
        return f"{server.url(server.migrated())}&schema={service}"
    (directory / f"{service}.db").write_bytes(_migrated(service))
    return f"sqlite+aiosqlite:///{directory}/{service}.db"


@cache
def _migrated(service: str) -> bytes:
    """An SQLite database that holds a service's schema: the migrations run once."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "new.db"
        elsewhere(upgrade, service, f"sqlite+aiosqlite:///{path}")
        return path.read_bytes()


def kept(settings: MeshSettings) -> bytes:
    """All that the services' databases hold."""
    if settings.database:
        dump: list[str | Path] = [binaries() / "pg_dump", settings.database]
        return subprocess.run(dump, capture_output=True, check=True).stdout
    return b"".join(path.read_bytes() for path in (settings.home / "data").iterdir())


def with_connection(url: str, call: Callable[[Connection], Any]) -> Any:
    """What `call` returns; it gets a connection whose search path is the service's schema."""

    async def connected() -> Any:
        engine = (
            create_async_engine("postgresql+asyncpg://", async_creator=lambda: connect(url, {}), poolclass=NullPool)
            if is_postgres(url)
            else create_async_engine(url, poolclass=NullPool)
        )
        async with engine.connect() as connection:
            result = await connection.run_sync(call)
        await engine.dispose()
        return result

    return elsewhere(asyncio.run, connected())


def alembic_on(connection: Connection) -> Config:
    """As `migrations.__main__.apply` makes it, for a migration there and back."""
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def differences(url: str, metadata: MetaData) -> list[Any]:
    """What Alembic would still have to change."""
    return list(with_connection(url, lambda one: compare_metadata(MigrationContext.configure(one), metadata)))


def is_postgres(url: str) -> bool:
    return url.startswith("postgresql://")
