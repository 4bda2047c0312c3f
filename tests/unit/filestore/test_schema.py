from collections.abc import Callable

from filestore import store
from filestore.storage_store import metadata
from tests.databases import differences


def test_the_migrations_make_the_tables_of_the_store(database: Callable[[str], str]) -> None:
    assert store.files.metadata is metadata
    assert differences(database("filestore"), metadata) == []
