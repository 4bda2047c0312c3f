"""`python -m migrations`: every service's database to its head."""

import os
import sys
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, event
from sqlalchemy.engine import make_url

from kit.settings import BadSettings, MeshSettings, load, private_dir

SERVICES = ("filestore", "keys", "scheduler")


def upgrade(service: str, url: str) -> None:
    """Applies the branch `service` to the database at `url` (SQLAlchemy, with an async driver or without)."""
    sync_url = make_url(url).set(drivername=make_url(url).get_backend_name())
    if sync_url.database:
        private_dir(Path(sync_url.database).parent)
    engine = create_engine(sync_url)

    @event.listens_for(engine, "connect")
    def on_connect(connection: object, _record: object) -> None:
        connection.execute("PRAGMA journal_mode=WAL")  # type: ignore[attr-defined]

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.set_main_option("path_separator", "os")
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, f"{service}@head")
        connection.commit()
    engine.dispose()


def main() -> None:
    try:
        settings = load(MeshSettings, os.environ)
    except BadSettings as bad:
        sys.exit("\n".join(bad.faults))
    for service in SERVICES:
        upgrade(service, settings.database_url(service))


if __name__ == "__main__":
    main()
