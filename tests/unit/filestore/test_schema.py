from collections.abc import Callable

from filestore.store import metadata
from tests.databases import differences


def test_the_migrations_make_the_tables_of_the_store(database: Callable[[str], str]) -> None:
    assert differences(database("filestore"), metadata) == []
