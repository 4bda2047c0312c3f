"""`python -m migrations`: every service's database to its head."""

import asyncio
import os
import sys
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, create_engine, event
from sqlalchemy.engine import make_url

from kit.errors import Problem
from kit.settings import BadSettings, MeshSettings, load, private_dir
from migrations.postgres import upgrade_postgres

SERVICES = ("filestore", "keys", "scheduler")


def upgrade(service: str, url: str) -> None:
    """Applies the branch `service` to the database at `url` (as kit.db takes it). Not inside of an event loop.

    Errors, with PostgreSQL: Unavailable when it doesn't answer, is locked, or others migrate for long; BadSettings when
    it refuses us.
    """
    if make_url(url).get_backend_name() == "postgresql":
        asyncio.run(upgrade_postgres(service, url, apply))
    else:
        _upgrade_sqlite(service, url)


def _upgrade_sqlite(service: str, url: str) -> None:
    sync_url = make_url(url).set(drivername=make_url(url).get_backend_name())
    if sync_url.database:
        private_dir(Path(sync_url.database).parent)
    engine = create_engine(sync_url)

    @event.listens_for(engine, "connect")
    def on_connect(connection: object, _record: object) -> None:
        connection.execute("PRAGMA journal_mode=WAL")  # type: ignore[attr-defined]

    with engine.connect() as connection:
        apply(connection, service)
    engine.dispose()


def apply(connection: Connection, service: str) -> None:
    """Every migration of the branch that is missing, each in a transaction of its own."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, f"{service}@head")
    connection.commit()


def main() -> None:
    try:
        settings = load(MeshSettings, os.environ)
        for service in SERVICES:
            upgrade(service, settings.database_url(service))
    except BadSettings as bad:
        sys.exit("\n".join(f"migrations: {fault}" for fault in bad.faults))
    except Problem as problem:
        sys.exit(f"migrations: {problem.message}")


if __name__ == "__main__":
    main()
