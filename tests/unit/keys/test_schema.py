from collections.abc import Callable

import keys.webhook_store
from keys.store import metadata
from tests.databases import differences


def test_the_migrations_make_the_tables_of_the_store(database: Callable[[str], str]) -> None:
    assert keys.webhook_store.webhook_secrets.metadata is metadata
    assert differences(database("keys"), metadata) == []
