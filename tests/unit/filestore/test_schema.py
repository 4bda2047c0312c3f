from collections.abc import Callable
from datetime import UTC, datetime

from alembic import command
from sqlalchemy import Connection, text

from filestore import store
from filestore.storage_store import metadata
from tests.databases import alembic_on, differences, with_connection


def test_the_migrations_make_the_tables_of_the_store(database: Callable[[str], str]) -> None:
    assert store.files.metadata is metadata
    assert differences(database("filestore"), metadata) == []


def test_files_of_before_count_from_now_on(database: Callable[[str], str]) -> None:
    def there_and_back(connection: Connection) -> None:
        config = alembic_on(connection)
        command.downgrade(config, "filestore_0002")
        insert = text(
            "INSERT INTO files (id, organization_id, name, created_at, expires_at, size) "
            "VALUES (:id, :org, 'a', :at, :at, :size)"
        )
        at = datetime(2026, 1, 1)  # noqa: DTZ001  # as columns have it
        for name, org, size in (("1", "org_a", 2**40), ("2", "org_a", 5), ("3", "org_b", 0), ("4", "org_c", None)):
            connection.execute(insert, {"id": name, "org": org, "size": size, "at": at})
        before = datetime.now(UTC).replace(tzinfo=None)
        command.upgrade(config, "filestore@head")
        query = text("SELECT organization_id, kept, mb_days, rest, since FROM storage ORDER BY organization_id")
        found = connection.execute(query.columns(since=store.files.c.created_at.type)).all()
        assert [tuple(row[:4]) for row in found] == [("org_a", 2**40 + 5, 0, 0), ("org_b", 0, 0, 0)]
        assert all(before <= row.since.replace(tzinfo=None) <= datetime.now(UTC).replace(tzinfo=None) for row in found)

    with_connection(database("filestore"), there_and_back)
