from pathlib import Path

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine

import keys.webhook_store
from keys.store import metadata
from migrations.__main__ import upgrade


def test_the_migrations_make_the_tables_of_the_store(tmp_path: Path) -> None:
    upgrade("keys", f"sqlite+aiosqlite:///{tmp_path}/keys.db")
    assert keys.webhook_store.webhook_secrets.metadata is metadata
    engine = create_engine(f"sqlite:///{tmp_path}/keys.db")
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()
